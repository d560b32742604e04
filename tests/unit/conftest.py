"""A small laboratory for the portal's tests: two projects, a shared one, two GPU nodes."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import portal_fakes as fakes
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from labcluster.models.callers import Caller
from labcluster.models.runs import Run, RunRequest
from labcluster.models.settings import JobSettings, RunLimits
from labcluster.services import logs
from labcluster.services.following import RunReconciler
from labcluster.services.runs import RunService
from stand_in_dex import StandInDex
from store_fakes import Clock, FakeStore

JOBS = JobSettings(runner_image=f"{fakes.REGISTRY}/labcluster/runner@{fakes.DIGEST}")


@dataclass
class Lab:
    """The fakes and what stands on them."""

    clock: Clock = field(default_factory=Clock)
    cluster: fakes.FakeCluster = field(default_factory=fakes.FakeCluster)
    registry: fakes.FakeRegistry = field(default_factory=fakes.FakeRegistry)
    logs: fakes.FakeLogs = field(default_factory=fakes.FakeLogs)
    slept: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = FakeStore(self.clock)
        self.runs = RunService(
            store=self.store,
            view=self.cluster,
            jobs=self.cluster,
            logs=self.logs,
            registry=self.registry,
            settings=JOBS,
            limits=RunLimits(),
            default_image="python-ml:1.10",
            sleep=self.slept.append,
            clock=self.clock,
        )
        self.reconciler = RunReconciler(
            store=self.store,
            view=self.cluster,
            jobs=self.cluster,
            settings=JOBS,
            registry=fakes.REGISTRY,
            clock=self.clock,
        )

    ada = Caller("ada", 20001)
    bo = Caller("bo", 20002)
    admin = Caller("labadmin", 10000, admin=True)

    def request(self, **changes: Any) -> RunRequest:
        """A good request of ada's, but for the changes."""
        base: dict[str, Any] = {
            "command": ["python", "train.py"],
            "workdir": "/lab/home/ada/digits",
            "gpus": 1,
            "idempotency_key": "key-00001",
        }
        return RunRequest.model_validate(base | changes)

    def submit(self, **changes: Any) -> Run:
        """A run of ada's."""
        key = f"key-{len(self.store.keys):05d}"
        run, created = self.runs.submit(self.ada, self.request(**{"idempotency_key": key} | changes))
        if created:
            self.runs.make_jobs([run])
        return run

    def row(self, run: Run) -> Run:
        """The row as it is now."""
        return self.store.rows[run.id]


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Lab:
    """ada in vision, bo in speech, both in shared; gpu1 and gpu2 with four GPUs each."""
    monkeypatch.setattr(logs, "_POLL", 0.001)
    lab = Lab()
    lab.cluster.join("vision", "ada", 20001, 30001, max_gpus=4)
    lab.cluster.join("speech", "bo", 20002, 30002)
    for user, uid in (("ada", 20001), ("bo", 20002)):
        lab.cluster.join("shared", user, uid, 30003)
    lab.cluster.add_node("gpu1")
    lab.cluster.add_node("gpu2")
    return lab


@pytest.fixture
def pod_of() -> Callable[..., dict[str, Any]]:
    """Makes a pod of a run."""
    return fakes.pod_of


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that is its own CA, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test portal")])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    pem, private = folder / "ca.crt", folder / "tls.key"
    pem.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return pem, private


@pytest.fixture
def dex(certificate: tuple[Path, Path]) -> Iterator[StandInDex]:
    """A login service on loopback."""
    with StandInDex.started(certificate) as found:
        yield found
