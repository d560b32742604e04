"""How labctl fails: one line, the right exit status, and no promise that it cannot keep."""

from __future__ import annotations

import base64
import socket
from pathlib import Path

import pytest
from labcluster.adapters import munge_client
from labcluster.adapters import portal as portal_client
from labcluster.cli import output
from labcluster.cli.main import main
from labcluster.errors import UncertainError, UnreachableError

from .conftest import Break, FakePortal, Labctl, run


def one_line(text: str) -> str:
    assert text.count("\n") == 1
    assert text.startswith("labctl: ")
    return text


def test_a_portal_that_is_down_has_accepted_nothing(labctl: Labctl, settings: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    lines = settings.read_text().splitlines()[1:]
    settings.write_text("\n".join([f'portal = "https://127.0.0.1:{port}"', *lines]))
    for words in (["submit", "--", "true"], ["ls"], ["cancel", "vision-7"]):
        done = labctl(*words)
        assert done.code == 6
        assert f"https://127.0.0.1:{port} (connection refused): nothing was accepted" in one_line(done.err)


def test_a_name_that_nobody_knows(labctl: Labctl, settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    done = labctl("whoami")
    assert done.code == 6
    assert "its name is not known" in one_line(done.err)


def test_a_stranger_at_the_portals_address(labctl: Labctl, settings: Path, portal: FakePortal) -> None:
    import certifi  # some other CAs

    text = settings.read_text().splitlines()
    settings.write_text("\n".join([*text[:2], f'ca = "{certifi.where()}"']))
    done = labctl("submit", "--", "true")
    assert done.code == 6
    assert "is not the portal of this site" in one_line(done.err)
    assert portal.requests == []


@pytest.mark.parametrize(("status", "code"), [(502, 6), (503, 6), (504, 6), (500, 1), (404, 1)])
def test_an_answer_that_is_not_the_portals(
    labctl: Labctl, portal: FakePortal, status: int, code: int
) -> None:
    portal.on("POST", "/runs", status)
    done = labctl("submit", "--", "true")
    assert done.code == code
    assert f"answered {status}" in one_line(done.err)
    assert ("nothing was accepted" in done.err) is (code == 6)


def test_a_read_that_breaks_twice(labctl: Labctl, portal: FakePortal) -> None:
    portal.on("GET", "/queue", Break)
    done = labctl("queue")
    assert done.code == 6
    assert "broke" in one_line(done.err)
    assert len(portal.requests) == 2


@pytest.fixture
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portal_client, "_UNCERTAIN_PAUSE", 0.001)
    monkeypatch.setattr(portal_client, "_UNCERTAIN_SECONDS", 0.3)


@pytest.mark.usefixtures("_hurried")
def test_a_submit_whose_answer_got_lost_is_asked_for_until_it_is_known(
    labctl: Labctl, portal: FakePortal
) -> None:
    away = UnreachableError("the run database does not answer")
    portal.on("POST", "/runs", Break, away, UncertainError("the database died over the commit"), Break, run())
    done = labctl("submit", "--", "true")
    assert (done.code, done.out) == (0, "vision-7\n")
    assert done.err == "the portal broke off before its answer: asking again whether this was done\n"
    assert len({request.body["idempotency_key"] for request in portal.requests}) == 1
    assert len(portal.requests) == 5


@pytest.mark.usefixtures("_hurried")
@pytest.mark.parametrize("first", [Break, UncertainError("the database died over the commit")])
def test_what_stays_unknown_is_never_called_not_accepted(
    labctl: Labctl, portal: FakePortal, first: object
) -> None:
    portal.on("POST", "/runs", first, UnreachableError("the database does not answer: nothing was accepted"))
    done = labctl("submit", "--", "true")
    assert done.code == 1
    assert "not known whether this was done" in done.err
    assert "nothing was accepted" not in done.err


def test_no_munge_on_this_machine(
    labctl: Labctl, portal: FakePortal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(munge_client, "_LIBRARY", "libmunge-that-is-not-there.so.2")
    with pytest.raises(Exception, match="use labctl on a login node"):
        munge_client.encode(b"payload")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "there is no "),
        ("portal = ", "cannot be read"),
        ('portal = "https://p"\ncluster = "c"', "lacks ca"),
        ('portal = "http://p"\ncluster = "c"\nca = "f"', "must begin with https://"),
        ('portal = "https://p"\ncluster = "c"\nca = "f"\nproxy = 1', "unknown keys proxy"),
    ],
)
def test_a_machine_that_is_not_set_up(labctl: Labctl, settings: Path, text: str | None, says: str) -> None:
    settings.unlink()
    if text is not None:
        settings.write_text(text)
    done = labctl("ls")
    assert done.code == 2
    assert says in one_line(done.err)
    assert str(settings) in done.err


def test_a_missing_ca_file(labctl: Labctl, settings: Path) -> None:
    settings.write_text(settings.read_text().replace("ca.crt", "gone.crt"))
    done = labctl("ls")
    assert done.code == 1
    assert "gone.crt: no such file" in one_line(done.err)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["sumbit"], "there is no verb 'sumbit': did you mean submit?"),
        (["admin", "members"], "did you mean member?"),
        (["show"], "missing argument 'RUN'"),
        (["ls", "--state", "done"], "'done' is not one of 'queued'"),
        (["completion", "tcsh"], "'tcsh' is not one of"),
    ],
)
def test_a_mistyped_command(labctl: Labctl, words: list[str], says: str) -> None:
    done = labctl(*words)
    assert done.code == 2
    assert says in one_line(done.err)


def test_no_verb_at_all_shows_the_help(labctl: Labctl) -> None:
    done = labctl()
    assert done.code == 2
    assert "Run a command on the cluster." in done.err


def test_a_fault_of_ours_is_one_line_too(labctl: Labctl, portal: FakePortal) -> None:
    portal.on("GET", "/queue", {"unexpected": 1})
    done = labctl("queue")
    assert done.code == 1
    assert "a fault in labctl itself, KeyError" in one_line(done.err)
    assert "LABCTL_DEBUG=1" in done.err


def test_debugging_shows_where(labctl: Labctl, portal: FakePortal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABCTL_DEBUG", "1")
    portal.on("GET", "/queue", {"unexpected": 1})
    with pytest.raises(KeyError):
        main(["queue"])


def test_colours_only_on_a_terminal_that_wants_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert output.coloured("failed", "failed") == "failed"
    monkeypatch.setattr(output, "fancy", lambda *_: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert output.coloured("failed", "failed") == "\x1b[31mfailed\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert output.coloured("failed", "failed") == "failed"


def test_a_credential_is_made_for_each_request(labctl: Labctl, portal: FakePortal) -> None:
    portal.on("GET", "/queue", {"items": []})
    labctl("queue")
    labctl("queue")
    payloads = [base64.b64decode(text).partition(b"|")[2] for text in portal.credentials]
    assert len(payloads) == 2
    assert payloads[0].startswith(b"labcluster:test\nGET /api/v1/queue\n")


def test_a_verb_of_another_machine(labctl: Labctl, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "labcluster.adapters.inventory", None)
    done = labctl("validate", str(tmp_path))
    assert done.code == 2
    assert "is not on this machine" in one_line(done.err)
