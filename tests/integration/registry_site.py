"""A registry on loopback with its token service, and a directory that can go away."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import ssl
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

import httpx
from labcluster.adapters.registry_storage import RegistryStorage
from labcluster.errors import UnreachableError
from labcluster.models.members import Directory, Group, Member

PASSWORDS = {"ada": "lovelace", "bo": "ek-ek-ek"}
ADA = "ada:lovelace"
CLUSTER, NODE = "cluster:of-the-cluster", "node:of-the-nodes"


def _member(name: str, uid: int) -> Member:
    return Member(name=name, uid=uid, full_name=name, home=f"/lab/home/{name}")


@dataclass
class Site:
    """A registry with its token service on loopback, and a directory that can go away."""

    home: Path
    address: str
    token_url: str
    storage: RegistryStorage
    away: bool = False
    quota: int | None = None
    #: Seconds that the token service's clock is ahead.
    ahead: float = 0.0

    def read(self) -> Directory:
        if self.away:
            raise UnreachableError("the directory does not answer")
        return Directory(
            members={"ada": _member("ada", 20000), "bo": _member("bo", 20001)},
            groups={
                "vision": Group(name="vision", gid=30000, members=("ada",)),
                "speech": Group(name="speech", gid=30001, members=("bo",)),
            },
        )

    def has_password(self, name: str, password: str) -> bool:
        self.read()
        return PASSWORDS.get(name) == password

    def skopeo(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["skopeo", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def push(self, who: str, name: str, image: str = "image.tar") -> str:
        """Nothing, or what was said."""
        done = self.skopeo(
            "copy", "--dest-creds", who, f"--dest-cert-dir={self.home}/trust",
            f"oci-archive:{self.home / image}", f"docker://{self.address}/{name}",
        )  # fmt: skip
        return done.stderr if done.returncode else ""

    def pull(self, who: str | None, name: str) -> str:
        login = ["--src-creds", who] if who else ["--src-no-creds"]
        shutil.rmtree(self.home / "pulled", ignore_errors=True)
        done = self.skopeo(
            "copy", *login, f"--src-cert-dir={self.home}/trust",
            f"docker://{self.address}/{name}", f"dir:{self.home / 'pulled'}",
        )  # fmt: skip
        return done.stderr if done.returncode else ""

    def client(self, who: str) -> httpx.Client:
        name, _, password = who.partition(":")
        return httpx.Client(auth=(name, password), verify=self.trust(), trust_env=False)

    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.home / "ca.crt"))

    def token(self, who: str, *scopes: str) -> httpx.Response:
        with self.client(who) as client:
            return client.get(f"{self.token_url}/token", params=[("scope", scope) for scope in scopes])


def make_certificates(home: Path) -> None:
    (home / "san").write_text("subjectAltName=IP:127.0.0.1")
    new = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    sign = ["openssl", "x509", "-req", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial"]
    commands = [[*new, "-x509", "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=test CA"]]
    for name in ("tls", "tokens", "other"):
        commands += [
            [*new, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}"],
            [*sign, "-in", f"{name}.csr", "-out", f"{name}.crt", "-extfile", "san"],
        ]
    for command in commands:
        subprocess.run(command, cwd=home, check=True, capture_output=True)


def make_image(file: Path, content: bytes) -> None:
    """An OCI archive of one layer."""

    def layer() -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as archive:
            entry = tarfile.TarInfo("hello")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        return out.getvalue()

    with tarfile.open(file, "w") as archive:

        def add(name: str, data: bytes) -> None:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))

        def blob(kind: str, data: bytes) -> dict[str, object]:
            name = hashlib.sha256(data).hexdigest()
            add(f"blobs/sha256/{name}", data)
            return {"mediaType": kind, "digest": f"sha256:{name}", "size": len(data)}

        prefix = "application/vnd.oci.image"
        tar = blob(f"{prefix}.layer.v1.tar", layer())
        rootfs = {"type": "layers", "diff_ids": [tar["digest"]]}
        config = {"architecture": "amd64", "os": "linux", "rootfs": rootfs}
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{prefix}.manifest.v1+json",
            "config": blob(f"{prefix}.config.v1+json", json.dumps(config).encode()),
            "layers": [tar],
        }
        listed = blob(f"{prefix}.manifest.v1+json", json.dumps(manifest).encode())
        index = {"schemaVersion": 2, "manifests": [listed]}
        add("index.json", json.dumps(index).encode())
        add("oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
