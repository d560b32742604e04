"""Images reach a registry byte for byte, and only what it lacks is sent."""

from __future__ import annotations

import base64
import datetime
import hashlib
import http.server
import io
import ipaddress
import json
import ssl
import tarfile
import threading
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from role_files import plugin

module = plugin("library/registry_images.py")
CREDENTIAL = base64.b64encode(b"cluster:secret").decode()


@dataclass
class Content:
    """What a registry holds, and which calls it got."""

    blobs: dict[tuple[str, str], bytes] = field(default_factory=dict)
    manifests: dict[tuple[str, str], bytes] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    token_seconds: int = 300


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def handler(content: Content) -> type[http.server.BaseHTTPRequestHandler]:
    """As much of the distribution API as a push needs."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None: ...

        def answer(self, status: int, **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": "0", **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()

        def serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            target = urllib.parse.urlsplit(self.path)
            query = dict(urllib.parse.parse_qsl(target.query))
            if target.path == "/token":
                self.token(urllib.parse.parse_qs(target.query))
                return
            repository, _, rest = target.path.removeprefix("/v2/").rpartition("/blobs/")
            if not repository:
                repository, _, rest = target.path.removeprefix("/v2/").rpartition("/manifests/")
                self.manifest(repository, rest, body)
                return
            content.calls.append(f"{self.command} blob")
            wanted = {repository: "pull" if self.command == "HEAD" else "push"}
            wanted |= {query["from"]: "pull"} if "from" in query else {}
            if not all(self.may(name, action) for name, action in wanted.items()):
                self.answer(401)
            elif self.command == "HEAD":
                self.answer(200 if (repository, rest) in content.blobs else 404)
            elif self.command == "POST" and (query.get("from", ""), query.get("mount", "")) in content.blobs:
                data = content.blobs[query["from"], query["mount"]]
                content.blobs[repository, query["mount"]] = data
                self.answer(201)
            elif self.command == "POST":
                self.answer(202, Location=f"/v2/{repository}/blobs/uploads/1?state=x")
            else:
                assert digest_of(body) == query["digest"]
                content.blobs[repository, query["digest"]] = body
                self.answer(201)

        def token(self, query: dict[str, list[str]]) -> None:
            """A token is the scopes themselves, as this registry is only there to be asked."""
            content.calls.append("GET token")
            if self.headers["Authorization"] != f"Basic {CREDENTIAL}":
                self.answer(401)
                return
            assert query["service"] == ["registry.lab.internal:5000"]
            text = base64.b64encode(" ".join(query["scope"]).encode()).decode()
            body = json.dumps({"token": text, "expires_in": content.token_seconds}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def may(self, repository: str, action: str) -> bool:
            scheme, _, token = (self.headers["Authorization"] or "").partition(" ")
            scopes = base64.b64decode(token).decode().split() if scheme == "Bearer" else []
            return any(
                scope.startswith(f"repository:{repository}:") and action in scope.split(":")[2].split(",")
                for scope in scopes
            )

        def manifest(self, repository: str, tag: str, body: bytes) -> None:
            content.calls.append(f"{self.command} manifest")
            if not self.may(repository, "push" if self.command == "PUT" else "pull"):
                self.answer(401)
                return
            if self.command == "PUT":
                content.manifests[repository, tag] = body
            found = content.manifests.get((repository, tag))
            if found is None:
                self.answer(404)
            else:
                status = 201 if self.command == "PUT" else 200
                self.answer(status, Docker_Content_Digest=digest_of(found))

        do_GET = do_HEAD = do_POST = do_PUT = serve  # noqa: N815 (names of the standard library)

    return Handler


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of 127.0.0.1 with its key, in one file."""

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "registry")])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "registry.pem"
    path.write_bytes(
        built.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path


@pytest.fixture
def content() -> Content:
    return Content()


@pytest.fixture
def address(content: Content, certificate: Path) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler(content))
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def client(address: str, authority: Path, password: str = "secret") -> Any:
    token_url, service = f"https://{address}/token", "registry.lab.internal:5000"
    return module.Registry(address, str(authority), "cluster", password, token_url, service, patience=0)


@pytest.fixture
def registry(address: str, certificate: Path) -> Iterator[object]:
    found = client(address, certificate)
    yield found
    found.connection.close()
    found.tokens.close()


def image(path: Path, *layers: bytes, damaged: bool = False) -> str:
    """Write an OCI archive; the digest of its manifest."""
    config = json.dumps({"architecture": "amd64", "layers": len(layers)}).encode()
    described = [{"digest": digest_of(data), "size": len(data)} for data in (config, *layers)]
    manifest = json.dumps({"schemaVersion": 2, "config": described[0], "layers": described[1:]}).encode()
    with tarfile.open(path, "w") as archive:
        for data in (config, *layers, manifest):
            entry = tarfile.TarInfo(f"blobs/{digest_of(data).replace(':', '/')}")
            written = data[:-1] + b"!" if damaged and data == manifest else data
            entry.size = len(written)
            archive.addfile(entry, io.BytesIO(written))
    return digest_of(manifest)


def test_pushed_image_keeps_its_digest(registry: Any, content: Content, tmp_path: Path) -> None:
    digest = image(tmp_path / "a.tar", b"base", b"program")
    assert not registry.has("labcluster/a", "1", digest)
    registry.push("labcluster/a", "1", digest, tmp_path / "a.tar")
    assert registry.has("labcluster/a", "1", digest)
    assert digest_of(content.manifests["labcluster/a", "1"]) == digest
    assert b"program" in content.blobs.values()


def test_tag_of_another_image_is_not_the_same(registry: Any, tmp_path: Path) -> None:
    registry.push("labcluster/a", "1", image(tmp_path / "a.tar", b"old"), tmp_path / "a.tar")
    assert not registry.has("labcluster/a", "1", image(tmp_path / "b.tar", b"new"))


def test_layer_that_is_there_is_not_sent_again(registry: Any, content: Content, tmp_path: Path) -> None:
    registry.push("labcluster/a", "1", image(tmp_path / "a.tar", b"base", b"a"), tmp_path / "a.tar")
    content.calls.clear()
    registry.push("labcluster/b", "1", image(tmp_path / "b.tar", b"base", b"b"), tmp_path / "b.tar")
    # What both share, a layer and the config, is taken over from the first repository.
    assert content.calls.count("PUT blob") == 1
    assert content.blobs["labcluster/b", digest_of(b"base")] == b"base"


def test_damaged_archive_is_named(registry: Any, content: Content, tmp_path: Path) -> None:
    digest = image(tmp_path / "a.tar", b"base", damaged=True)
    with pytest.raises(module.PushError, match="make artifacts"):
        registry.push("labcluster/a", "1", digest, tmp_path / "a.tar")
    assert content.manifests == {}


def test_wrong_password_is_said_so(address: str, certificate: Path) -> None:
    registry = client(address, certificate, "guess")
    with pytest.raises(module.PushError, match="refuses the credential"):
        registry.has("labcluster/a", "1", "sha256:0")
    registry.tokens.close()


def test_registry_that_is_not_there_is_said_so(certificate: Path) -> None:
    registry = client("127.0.0.1:1", certificate)
    with pytest.raises(module.PushError, match=r"127\.0\.0\.1:1 does not answer"):
        registry.has("labcluster/a", "1", "sha256:0")


def test_missing_authority_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(module.PushError, match="no usable certificate authority"):
        client("127.0.0.1:1", tmp_path / "ca.crt")


def test_one_token_serves_a_repository_until_half_its_time_is_over(
    registry: Any, content: Content, tmp_path: Path
) -> None:
    registry.push("labcluster/a", "1", image(tmp_path / "a.tar", b"base"), tmp_path / "a.tar")
    assert content.calls.count("GET token") == 1
    content.token_seconds = 0
    registry.push("labcluster/b", "1", image(tmp_path / "b.tar", b"b"), tmp_path / "b.tar")
    assert content.calls.count("GET token") > 2
