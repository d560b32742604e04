"""The real MLflow of images/mlflow with a PostgreSQL, behind the portal's own application; no cluster."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import uvicorn
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from labcluster.adapters.mlflow import AssertionSigner, MlflowUpstream
from labcluster.errors import NotAuthenticatedError
from labcluster.models.callers import TokenOwner
from labcluster.models.runs import Member
from labcluster.models.settings import MlflowSettings
from labcluster.services.authentication import Authenticator
from labcluster.services.experiments import ExperimentService
from labcluster.services.ports import ClusterView
from labcluster.web.app import create_app
from labcluster.web.wiring import Experiments, Portal
from postgresql_server import running

ROOT = Path(__file__).parents[2]
IMAGE = ROOT / "images" / "mlflow"
VENV = ROOT / "build" / "mlflow"
PROJECTS = {"vision": ["ada", "eve"], "speech": ["bo"], "shared": ["ada", "bo"]}

_START_SECONDS = 120.0
_PEM = serialization.Encoding.PEM


@dataclass(frozen=True)
class Record:
    """Where everything is."""

    portal: str
    upstream: str
    database: str
    artifacts: Path
    authority: Path
    signer: AssertionSigner
    home: Path

    def client(self, user: str, project: str) -> httpx.Client:
        """A user's client of a project, through the portal."""
        headers = {"Authorization": f"Bearer {user}"}
        base = f"{self.portal}/mlflow/w/{project}"
        return httpx.Client(base_url=base, headers=headers, timeout=60, trust_env=False)

    def past_the_portal(self, user: str, project: str, workspace: str) -> httpx.Client:
        """The same at MLflow itself, with a header that asks for another workspace."""

        def sign(request: httpx.Request) -> None:
            request.headers["X-Lab-Assertion"] = self.signer.sign(user, project)

        return httpx.Client(
            base_url=self.upstream,
            headers={"X-MLFLOW-WORKSPACE": workspace},
            verify=ssl.create_default_context(cafile=str(self.authority)),
            event_hooks={"request": [sign]},
            timeout=60,
            trust_env=False,
        )

    def run(self, program: str, **environment: str) -> str:
        """What a Python program prints in MLflow's environment."""
        done = subprocess.run(
            [VENV / "bin" / "python", "-W", "ignore", "-c", program],
            env=_environment() | {"MLFLOW_DISABLE_TELEMETRY": "true", **environment},
            cwd=self.home,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout


class _View:
    """Members, as the watch cache knows them."""

    def memberships(self, user: str) -> dict[str, Member]:
        names = sorted({name for members in PROJECTS.values() for name in members})
        uid = 20000 + names.index(user) if user in names else 0
        return {
            project: Member(user=user, uid=uid, gid=30000, groups=(30000,))
            for project, members in PROJECTS.items()
            if user in members
        }


class _Tokens:
    """A token is its owner's name."""

    def owner(self, token: str, audiences: Collection[str]) -> TokenOwner:
        if token == "forged":
            raise NotAuthenticatedError("forged")
        return TokenOwner(token)


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "HOME") if name in os.environ}
    return kept | {"PYTHONPATH": str(IMAGE), "PYTHONDONTWRITEBYTECODE": "1"}


def _install() -> None:
    """What the image installs, into build/mlflow: once for a requirements.txt."""
    requirements = IMAGE / "requirements.txt"
    stamp, digest = VENV / "labcluster.digest", sha256(requirements.read_bytes()).hexdigest()
    if stamp.is_file() and stamp.read_text() == digest:
        return
    subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], check=True)
    install = [VENV / "bin" / "pip", "install", "--quiet", "--require-hashes", "--only-binary=:all:"]
    subprocess.run([*install, "--requirement", requirements], check=True)
    stamp.write_text(digest)


def _keys(home: Path) -> tuple[Path, Path]:
    key = Ed25519PrivateKey.generate()
    private, public = home / "key.pem", home / "public.pem"
    plain = serialization.NoEncryption()
    private.write_bytes(key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, plain))
    public.write_bytes(key.public_key().public_bytes(_PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    return private, public


def _certificate(home: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that is its own authority, and its key."""
    certificate, key = home / "tls.crt", home / "tls.key"
    make = [
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
        "-days", "2", "-subj", "/CN=mlflow", "-addext", "subjectAltName=IP:127.0.0.1",
        "-out", certificate, "-keyout", key,
    ]  # fmt: skip
    subprocess.run(make, check=True, capture_output=True)
    return certificate, key


@contextmanager
def _server(home: Path, database: str, public: Path, certificate: tuple[Path, Path]) -> Iterator[str]:
    """MLflow as its pod runs it; its address."""
    (home / "artifacts").mkdir()
    (home / "state").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    program = [VENV / "bin" / "python", "-W", "ignore", "-m", "labcluster_mlflow"]
    serve = [
        "serve", "--database", database, "--artifacts", home / "artifacts", "--public-key", public,
        "--host", "127.0.0.1", "--port", str(port), "--state", home / "state",
        "--certificate", certificate[0], "--key", certificate[1],
    ]  # fmt: skip
    environment = _environment() | {"MLFLOW_SERVER_ALLOWED_HOSTS": f"127.0.0.1:{port}"}
    subprocess.run([*program, "migrate", "--database", database], check=True, env=environment, cwd=home)
    with (home / "mlflow.log").open("wb") as log:
        process = subprocess.Popen([*program, *serve], env=environment, cwd=home, stdout=log, stderr=log)
        try:
            _wait(process, f"https://127.0.0.1:{port}/health", certificate[0], home / "mlflow.log")
            yield f"https://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(30)


def _wait(process: subprocess.Popen[bytes], url: str, ca: Path, log: Path) -> None:
    end = time.monotonic() + _START_SECONDS
    trust = ssl.create_default_context(cafile=str(ca))
    while True:
        try:
            if httpx.get(url, verify=trust, trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            assert process.poll() is None and time.monotonic() < end, log.read_text()[-3000:]
            time.sleep(0.2)


@contextmanager
def _portal(settings: MlflowSettings) -> Iterator[str]:
    view = cast(ClusterView, _View())
    authenticator = Authenticator(
        cast(Any, None), view, {}.get, cluster="lab", admins=[], tokens=_Tokens(), audiences=["labctl"]
    )
    service = ExperimentService(view, AssertionSigner(settings.key_file))
    portal = SimpleNamespace(
        authenticator=authenticator,
        require_view=lambda: None,
        background=SimpleNamespace(start=lambda: None, stop=lambda: None),
        login=None,
        experiments=Experiments(service, MlflowUpstream(settings)),
    )
    server = uvicorn.Server(
        uvicorn.Config(create_app(cast(Portal, portal)), port=0, log_config=None, access_log=False)
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def started(home: Path) -> Iterator[Record]:
    """Everything, until the end of the block."""
    _install()
    private, public = _keys(home)
    certificate = _certificate(home)
    with running() as place:
        database = f"postgresql+psycopg2://{place}"
        with _server(home, database, public, certificate) as url:
            settings = MlflowSettings(url=url, ca_file=certificate[0], key_file=private)
            with _portal(settings) as portal:
                yield Record(
                    portal=portal,
                    upstream=url,
                    database=f"postgresql+psycopg://{place}",
                    artifacts=home / "artifacts",
                    authority=certificate[0],
                    signer=AssertionSigner(private),
                    home=home,
                )


def registered(record: Record) -> list[tuple[str, str]]:
    """Every route that this version of MLflow has: (method, path with <names>)."""
    program = """
import json, os, uvicorn
from mlflow.server import app as flask_app
from mlflow.server import auth
auth.bootstrap_admin_user = lambda: None
app = auth.create_app()
found = {(m, r.rule) for r in flask_app.url_map.iter_rules() for m in r.methods - {"HEAD", "OPTIONS"}}
def walk(routes, prefix):
    for route in routes:
        if hasattr(route, "original_router"):
            walk(route.original_router.routes, prefix + route.include_context.prefix)
        for method in getattr(route, "methods", None) or []:
            path = route.path.replace("{", "<").replace("}", ">").replace(":path>", ">")
            found.add((method, prefix + path))
walk(app.routes, "")
print("ROUTES" + json.dumps(sorted(found)))
"""
    out = record.run(
        program,
        _MLFLOW_SGI_NAME="uvicorn",
        MLFLOW_ENABLE_WORKSPACES="true",
        MLFLOW_FLASK_SERVER_SECRET_KEY="x" * 32,
        _MLFLOW_SERVER_FILE_STORE="sqlite:////tmp/unused.db",
    )
    return [(method, path) for method, path in json.loads(out.partition("ROUTES")[2])]
