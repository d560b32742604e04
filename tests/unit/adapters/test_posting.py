"""How notices leave the site, over real TLS and real SMTP on the loopback interface."""

from __future__ import annotations

import http.server
import json
import logging
import socketserver
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from labcluster.adapters import posting
from labcluster.adapters.posting import Post
from labcluster.errors import UnreachableError
from labcluster.models.settings import MailSettings, NoticeSettings


class Hooks(http.server.BaseHTTPRequestHandler):
    """Answers as its path says."""

    got: list[Any] = []  # noqa: RUF012 - one server, one test

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        Hooks.got.append((self.path, self.headers["Content-Type"], json.loads(body)))
        if self.path == "/slow/secret":
            for _ in range(100):
                time.sleep(0.05)
                try:
                    self.wfile.write(b"H")
                except OSError:
                    return
        self.send_response(
            302 if self.path == "/moved/secret" else 500 if self.path == "/bad/secret" else 200
        )
        self.send_header("Location", "/ok/secret")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def hooks(certificate: tuple[Path, Path]) -> Iterator[str]:
    Hooks.got = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hooks)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"https://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_webhook_gets_json(
    hooks: str, certificate: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    Post(NoticeSettings(webhook_ca_file=certificate[0])).webhook(f"{hooks}/ok/secret", {"text": "ü"})
    assert Hooks.got == [("/ok/secret", "application/json", {"text": "ü"})]
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    ("path", "says"),
    [("/bad/secret", "answered 500"), ("/moved/secret", "answered 302"), ("/slow/secret", "did not answer")],
)  # fmt: skip
def test_what_is_no_success_is_said_without_the_address(
    hooks: str, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, path: str, says: str
) -> None:
    monkeypatch.setattr(posting, "_SECONDS", 0.3 if "slow" in path else 5.0)
    began = time.monotonic()
    with pytest.raises(UnreachableError) as failed:
        Post(NoticeSettings(webhook_ca_file=certificate[0])).webhook(hooks + path, {"text": "x"})
    assert says in failed.value.detail
    assert "secret" not in failed.value.detail
    assert time.monotonic() - began < 4
    assert len(Hooks.got) == 1


def test_a_stranger_at_the_address_gets_nothing(hooks: str) -> None:
    with pytest.raises(UnreachableError, match="cannot be reached"):
        Post(NoticeSettings()).webhook(f"{hooks}/ok/secret", {"text": "x"})
    assert Hooks.got == []


class Smtp(socketserver.StreamRequestHandler):
    """As much of a mail server as a mail needs."""

    lines: list[str] = []  # noqa: RUF012 - one server, one test
    refuse = False

    def handle(self) -> None:
        self.wfile.write(b"220 mail\r\n")
        data = False
        for raw in self.rfile:
            line = raw.decode().rstrip("\r\n")
            Smtp.lines.append(line)
            if data:
                data = line != "."
                if not data:
                    self.wfile.write(b"250 kept\r\n")
            elif line == "data" or line == "DATA":
                data = True
                self.wfile.write(b"354 go on\r\n")
            elif line.lower().startswith("rcpt") and Smtp.refuse:
                self.wfile.write(b"550 no such user secret\r\n")
            elif line.lower() == "quit":
                self.wfile.write(b"221 bye\r\n")
                return
            else:
                self.wfile.write(b"250 ok\r\n")


@pytest.fixture
def mail() -> Iterator[MailSettings]:
    Smtp.lines, Smtp.refuse = [], False
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Smtp) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield MailSettings(
            host="127.0.0.1", port=server.server_address[1], security="none", sender="lab@lab.test"
        )
        server.shutdown()
        thread.join()


def test_a_mail_is_handed_over(mail: MailSettings) -> None:
    Post(NoticeSettings(mail=mail)).mail("ada@lab.test", "[lab] vision-1 ü", "it ended\n")
    text = "\n".join(Smtp.lines)
    assert "From: lab@lab.test" in text
    assert "To: ada@lab.test" in text
    assert "it ended" in text


def test_a_subject_cannot_add_a_line(mail: MailSettings) -> None:
    with pytest.raises(UnreachableError):
        Post(NoticeSettings(mail=mail)).mail("ada@lab.test", "x\nBcc: eve@evil.test", "text")
    assert "evil" not in "".join(Smtp.lines)


def test_a_refused_mail_is_said(mail: MailSettings) -> None:
    Smtp.refuse = True
    with pytest.raises(UnreachableError, match="mail server") as failed:
        Post(NoticeSettings(mail=mail)).mail("ada@lab.test", "x", "text")
    assert "secret" not in failed.value.detail


def test_encryption_is_not_given_up(mail: MailSettings) -> None:
    strict = mail.model_copy(update={"security": "starttls"})
    with pytest.raises(UnreachableError):
        Post(NoticeSettings(mail=strict)).mail("ada@lab.test", "x", "text")
    assert not any("DATA" in line.upper() for line in Smtp.lines)
