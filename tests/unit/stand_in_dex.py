"""Dex as its clients meet it, over TLS on loopback: keys, device flow, refresh and code flow."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey

Answer = tuple[int, dict[str, Any]]
PENDING: Answer = (400, {"error": "authorization_pending"})
SLOW_DOWN: Answer = (400, {"error": "slow_down"})


class StandInDex:
    """One issuer; its token endpoint gives `answers` one after the other, the last for ever."""

    def __init__(self, url: str) -> None:
        self.issuer = f"{url}/dex"
        self.key = RSAKey.generate_key(2048, auto_kid=True)
        self.away = False
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.answers: list[Answer] = []
        self.codes: dict[str, dict[str, str]] = {}

    @classmethod
    @contextmanager
    def started(cls, certificate: tuple[Path, Path]) -> Iterator[StandInDex]:
        """Serve until the end of the block."""
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        trust = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        trust.load_cert_chain(*certificate)
        server.socket = trust.wrap_socket(server.socket, server_side=True)
        dex = cls(f"https://127.0.0.1:{server.server_address[1]}")
        server.dex = dex  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield dex
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def token(self, user: str | None = "ada", audience: str = "labctl", **changes: Any) -> str:
        """An id token; None as a change leaves a claim out."""
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "sub": "x",
            "aud": audience,
            "iat": now,
            "exp": now + 900,
            "preferred_username": user,
            "groups": ["vision"],
        } | changes
        given = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode({"alg": "RS256", "kid": self.key.kid}, given, self.key)

    def tokens(self, seconds: int = 900, refresh: str = "r1") -> Answer:
        """What a good login or refresh is answered with."""
        return 200, {"id_token": self.token(), "refresh_token": refresh, "expires_in": seconds}

    def answer(self, path: str, form: dict[str, str]) -> Answer:
        """What Dex says to a request."""
        self.asked.append((path, form))
        if self.away:
            return 500, {"error": "server_error"}
        if path == "/dex/keys":
            return 200, dict(KeySet([self.key]).as_dict(private=False))
        if path == "/dex/device/code":
            url = f"{self.issuer}/device"
            codes = {"device_code": "d1", "user_code": "ABCD-EFGH", "verification_uri": url}
            return 200, codes | {
                "verification_uri_complete": f"{url}?user_code=ABCD-EFGH",
                "expires_in": 600,
                "interval": 5,
            }
        if form.get("grant_type") == "authorization_code":
            return self._exchange(form)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def _exchange(self, form: dict[str, str]) -> Answer:
        begun = self.codes.pop(form["code"], None)
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if begun is None or begun["code_challenge"] != challenge:
            return 400, {"error": "invalid_grant"}
        token = self.token(begun["user"], begun["client_id"], nonce=begun["nonce"])
        return 200, {"access_token": token, "token_type": "bearer", "expires_in": 900, "id_token": token}


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        form = {name: values[0] for name, values in parse_qs(body).items()}
        status, answer = self.server.dex.answer(self.path, form)  # type: ignore[attr-defined]
        text = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = _serve  # noqa: N815 - http.server's names
