"""The door of the MLflow image: whom it lets in, and what MLflow then sees."""

from __future__ import annotations

import base64
import hmac
import json
import time
from pathlib import Path
from typing import Any

import anyio
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from joserfc import jwt
from joserfc.jwk import OKPKey
from labcluster_mlflow.assertions import Assertions, Passage
from labcluster_mlflow.door import ACCOUNT, Door
from labcluster_mlflow.routes import Routes, honest, lines

PEM, PLAIN = serialization.Encoding.PEM, serialization.NoEncryption()
LIST = "/api/2.0/mlflow/experiments/search"


def pair(folder: Path) -> tuple[OKPKey, Path]:
    key = Ed25519PrivateKey.generate()
    public = folder / "public.pem"
    public.write_bytes(key.public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    return OKPKey.import_key(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, PLAIN)), public


class Site:
    """A door with somebody behind it who remembers what he saw."""

    def __init__(self, folder: Path) -> None:
        self.key, self.public = pair(folder)
        self.ensured: list[Passage] = []
        self.seen: list[dict[str, Any]] = []
        self.door = Door(self._behind, Assertions(self.public), self, Routes.load())

    def ensure(self, passage: Passage) -> None:
        self.ensured.append(passage)

    async def _behind(self, scope: Any, receive: Any, send: Any) -> None:
        self.seen.append({**scope, "account": ACCOUNT.get(None)})
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    def word(self, **changes: Any) -> str:
        """A good assertion of ada's for vision, but for the changes; None leaves a claim out."""
        now = int(time.time())
        claims = {
            "iss": "portal",
            "aud": "mlflow",
            "sub": "ada",
            "prj": "vision",
            "iat": now,
            "exp": now + 60,
        }
        claims |= changes
        given = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode({"alg": "Ed25519"}, given, self.key, algorithms=["Ed25519"])

    def ask(
        self,
        method: str,
        path: str,
        *words: str,
        query: str = "",
        headers: tuple[tuple[bytes, bytes], ...] = (),
        kind: str = "http",
    ) -> tuple[int, dict[str, Any]]:
        """Status and answer."""
        said = [*((b"X-Lab-Assertion", word.encode()) for word in words), *headers]
        scope = {
            "type": kind,
            "method": method,
            "path": path,
            "query_string": query.encode(),
            "headers": said,
        }
        answers: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request"}

        async def send(message: Any) -> None:
            answers.append(message)

        anyio.run(self.door, scope, receive, send)
        if kind == "websocket":
            return answers[0]["code"], answers[0]
        return answers[0]["status"], json.loads(answers[1]["body"])


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_account_is_of_one_person_in_one_project(site: Site) -> None:
    assert site.ask("POST", LIST, site.word())[0] == 200
    assert site.ensured == [Passage("ada", "vision")]
    assert site.seen[0]["account"] == "ada@vision"
    assert ACCOUNT.get(None) is None


def test_workspace_is_the_assertions_whatever_was_asked_for(site: Site) -> None:
    foreign = ((b"X-MLflow-Workspace", b"speech"), (b"x-mlflow-workspace", b"default"))
    proofs = ((b"Authorization", b"Basic x"), (b"x-mlflow-authorization", b"Basic x"), (b"Cookie", b"a=b"))
    site.ask("POST", LIST, site.word(), headers=(*foreign, *proofs, (b"accept", b"*/*")))
    assert site.seen[0]["headers"] == [(b"accept", b"*/*"), (b"x-mlflow-workspace", b"vision")]


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": "labcluster"},
        {"iss": "dex"},
        {"exp": 1_000_000_000, "iat": 999_999_990},
        {"exp": int(time.time()) + 3600},
        {"iat": None},
        {"exp": None},
        {"sub": None},
        {"prj": None},
        {"prj": "v"},
        {"prj": "vision/speech"},
        {"prj": ["vision"]},
        {"sub": "ada@speech"},
        {"sub": ""},
        {"sub": "labcluster:administrator@x"},
    ],
)
def test_other_words_are_not_believed(site: Site, changes: dict[str, Any]) -> None:
    status, said = site.ask("POST", LIST, site.word(**changes))
    assert (status, said["error_code"]) == (401, "UNAUTHENTICATED")
    assert site.seen == site.ensured == []


def test_words_of_other_keys_are_not_believed(site: Site, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    good, foreign = site.word(), Site(tmp_path / "other").word()
    head, body, _ = good.split(".")
    # The public key taken for a shared secret, and no signature at all: the classics.
    said = f"eyJhbGciOiJIUzI1NiJ9.{body}"
    mac = hmac.digest(site.public.read_bytes(), said.encode(), "sha256")
    shared = f"{said}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"
    for word in (foreign, shared, f"eyJhbGciOiJub25lIn0.{body}.", f"{head}.{body}.", "", "x", good[:-2]):
        assert site.ask("POST", LIST, word)[0] == 401
    assert site.ask("POST", LIST)[0] == 401
    assert site.ask("POST", LIST, good, good)[0] == 401
    assert site.seen == []


def test_server_does_not_start_with_a_key_that_could_sign(site: Site, tmp_path: Path) -> None:
    private = tmp_path / "private.pem"
    private.write_bytes(site.key.as_pem(private=True))
    with pytest.raises(ValueError, match="public half"):
        Assertions(private)


def test_kubelet_is_answered_without_a_word_and_sees_nothing_else(site: Site) -> None:
    assert site.ask("GET", "/health")[0] == 200
    assert site.seen[0]["headers"] == []
    assert site.seen[0]["account"] is None
    for method, path in (("POST", "/health"), ("GET", "/health/"), ("GET", "/version"), ("GET", "/")):
        assert site.ask(method, path)[0] == 401


def test_websockets_are_closed(site: Site) -> None:
    assert site.ask("GET", "/ajax-api/3.0/mlflow/assistant/x", site.word(), kind="websocket")[0] == 1008
    assert site.seen == []


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/static-files/static/js/main.js"),
        ("POST", "/api/2.0/mlflow/runs/log-batch"),
        ("POST", "/ajax-api/2.0/mlflow/runs/search"),
        ("PUT", "/api/2.0/mlflow-artifacts/artifacts/1/2/artifacts/a b.txt"),
        ("GET", "/ajax-api/3.0/mlflow/traces/tr-1/assessments/a-1"),
        ("POST", "/graphql"),
    ],
)
def test_members_routes_are_open(site: Site, method: str, path: str) -> None:
    assert site.ask(method, path, site.word())[0] == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/signup"),
        ("GET", "/metrics"),
        ("GET", "/graphql"),
        ("HEAD", "/get-artifact"),
        ("OPTIONS", LIST),
        ("POST", "/api/2.0/mlflow/users/create"),
        ("GET", "/api/2.0/mlflow/users/list"),
        ("PATCH", "/api/2.0/mlflow/users/update-admin"),
        ("POST", "/api/3.0/mlflow/users/permissions/grant"),
        ("POST", "/api/3.0/mlflow/roles/assign"),
        ("POST", "/api/3.0/mlflow/workspaces"),
        ("DELETE", "/api/3.0/mlflow/workspaces/vision"),
        ("GET", "/api/3.0/mlflow/gateway/secrets/list"),
        ("POST", "/gateway/mlflow/v1/chat/completions"),
        ("POST", "/ajax-api/2.0/mlflow/gateway-proxy"),
        ("GET", "/api/2.0/mlflow/webhooks"),
        ("POST", "/ajax-api/3.0/mlflow/scorer/invoke"),
        ("POST", "/ajax-api/3.0/mlflow/demo/generate"),
        ("POST", "/ajax-api/3.0/jobs"),
        ("GET", "/ajax-api/3.0/mlflow/assistant/config"),
        ("POST", "/ajax-api/2.0/mlflow/runs/create-promptlab-run"),
        ("GET", "/api/2.0/mlflow-artifacts/presigned/1/2"),
        ("POST", "/api/2.0/mlflow-artifacts/mpu/create/1/2"),
        ("POST", "/v1/metrics"),
        ("GET", "/api/2.0/mlflow/experiments/search/"),
        ("GET", "/API/2.0/mlflow/experiments/search"),
        ("GET", "/api/9.0/mlflow/experiments/search"),
        ("GET", "/static-files/../../api/2.0/mlflow/users/list"),
        ("GET", "/api/2.0/mlflow-artifacts/artifacts/1/../2"),
        ("GET", "/api/2.0/mlflow-artifacts/artifacts/1/%2e%2e/2"),
        ("GET", "/api/2.0/mlflow-artifacts/artifacts/1/%252e%252e%252f2"),
        ("GET", "/api/2.0/mlflow-artifacts/artifacts//etc/passwd"),
        ("GET", "/api/2.0/mlflow-artifacts/artifacts/1/..\\2"),
        ("GET", "/api/2.0/mlflow-artifacts/artifacts/1/a\x00b"),
    ],
)
def test_everything_else_is_closed(site: Site, method: str, path: str) -> None:
    status, said = site.ask(method, path, site.word())
    assert (status, said["error_code"]) == (403, "PERMISSION_DENIED")
    assert site.seen == site.ensured == []


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("path=model/weights.bin", 200),
        ("path=100%25", 200),
        ("path=../../speech", 403),
        ("path=a/%252e%252e/b", 403),
        ("run_id=1&path=..", 403),
        ("path=a&path=..%2fb", 403),
        ("filter=a..b//c", 200),
    ],
)
def test_places_in_queries_do_not_climb(site: Site, query: str, status: int) -> None:
    assert site.ask("GET", "/api/2.0/mlflow/artifacts/list", site.word(), query=query)[0] == status


def test_pages_know_one_workspace_and_clients_that_there_are_more(site: Site) -> None:
    status, said = site.ask("GET", "/ajax-api/3.0/mlflow/server-info", site.word())
    assert (status, said["workspaces_enabled"]) == (200, False)
    assert site.ask("GET", "/ajax-api/3.0/mlflow/ui-telemetry", site.word())[1]["disable_ui_telemetry"]
    assert site.seen == []
    assert site.ask("GET", "/ajax-api/3.0/mlflow/server-info")[0] == 401
    site.ask("GET", "/api/3.0/mlflow/server-info", site.word())
    assert [scope["path"] for scope in site.seen] == ["/api/3.0/mlflow/server-info"]


def test_path_that_is_encoded_without_end_is_not_honest() -> None:
    assert not honest("/" + "%" + "25" * 20 + "2e")
    assert honest("/a/100%/b")


def test_no_route_is_listed_twice() -> None:
    found = list(
        lines((Path(__file__).parents[3] / "images/mlflow/labcluster_mlflow/routes.txt").read_text())
    )
    assert len(found) == len(set(found)) > 100
