"""labctl login, logout and kubeconfig against a portal and a login service on loopback."""

from __future__ import annotations

import json
import os
import stat
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from labcluster.adapters import dex_client
from stand_in_dex import PENDING, SLOW_DOWN, StandInDex

from .conftest import FakePortal, Labctl


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A person's empty home."""
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "KUBECONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long labctl waited between its questions."""
    times: list[float] = []
    wait = dex_client.Dex.wait
    monkeypatch.setattr(dex_client.Dex, "wait", lambda self, device: wait(self, device, times.append))
    return times


@pytest.fixture
def site(portal: FakePortal, dex: StandInDex, slept: list[float]) -> FakePortal:
    """A portal with a login service; whose tokens are good there."""
    place = {"issuer": dex.issuer, "client_id": "labctl", "client_id_elsewhere": "labctl-laptop"}
    kubernetes = {"server": "https://api.test:6443", "ca": "PEM"}
    portal.on("GET", "/site", {"cluster": "test", "login": place, "kubernetes": kubernetes})
    portal.on("GET", "/whoami", {"user": "ada", "uid": 20000, "admin": False, "projects": []})
    dex.answers = [dex.tokens()]
    portal.tokens.add(dex.answers[0][1]["id_token"])
    return portal


def token_file(home: Path) -> Path:
    return home / ".local" / "state" / "labcluster" / "test.json"


def age(home: Path, seconds: float) -> None:
    """Let the token be good for so long."""
    kept = json.loads(token_file(home).read_text())
    token_file(home).write_text(json.dumps(kept | {"expires_at": time.time() + seconds}))


def test_login_shows_page_and_code_and_keeps_what_it_got(
    site: FakePortal, dex: StandInDex, labctl: Labctl, home: Path
) -> None:
    done = labctl("login")
    assert (done.code, done.out) == (0, "")
    assert f"{dex.issuer}/device?user_code=ABCD-EFGH" in done.err
    assert "logged in to test as ada" in done.err
    assert stat.S_IMODE(token_file(home).stat().st_mode) == 0o600
    assert stat.S_IMODE(token_file(home).parent.stat().st_mode) == 0o700
    assert {form["client_id"] for _, form in dex.asked} == {"labctl"}


def test_login_asks_as_slowly_as_dex_wants(
    site: FakePortal, dex: StandInDex, labctl: Labctl, slept: list[float]
) -> None:
    dex.answers = [PENDING, SLOW_DOWN, SLOW_DOWN, PENDING, *dex.answers]
    assert labctl("login").code == 0
    assert slept == [5, 5, 10, 15, 15]


@pytest.mark.parametrize("error", ["expired_token", "access_denied"])
def test_login_that_fails_says_so_and_keeps_nothing(
    site: FakePortal, dex: StandInDex, labctl: Labctl, home: Path, error: str
) -> None:
    dex.answers = [(400, {"error": error})]
    done = labctl("login")
    assert done.code == 3
    assert "labctl login" in done.err
    assert not token_file(home).exists()


def test_a_laptop_becomes_one_of_the_sites_by_login(
    site: FakePortal,
    dex: StandInDex,
    labctl: Labctl,
    home: Path,
    certificate: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("LABCTL_CONFIG")
    assert labctl("whoami").code == 2
    assert labctl("login", "--portal", site.url).code == 2
    done = labctl("login", "--portal", site.url, "--ca", str(certificate[0]))
    assert done.code == 0, done.err
    assert {form["client_id"] for _, form in dex.asked} == {"labctl-laptop"}
    folder = home / ".config" / "labcluster"
    assert (folder / "ca.crt").read_text() == certificate[0].read_text()
    # munge is not asked: the token alone proves who this is.
    assert "ada" in labctl("whoami").out
    assert labctl("logout").code == 0
    gone = labctl("whoami")
    assert (gone.code, "labctl login" in gone.err) == (3, True)


def credential(labctl: Labctl) -> Any:
    done = labctl("kubeconfig", "--credential")
    assert done.code == 0, done.err
    return done.json()


def test_kubectl_gets_a_token_that_is_renewed_in_time(
    site: FakePortal, dex: StandInDex, labctl: Labctl, home: Path
) -> None:
    labctl("login")
    first = credential(labctl)
    assert (first["kind"], first["apiVersion"]) == ("ExecCredential", "client.authentication.k8s.io/v1")
    assert credential(labctl) == first
    assert [form.get("grant_type") for _, form in dex.asked].count("refresh_token") == 0
    age(home, 30)
    dex.answers = [(200, {"id_token": "newer", "refresh_token": "r2", "expires_in": 900})]
    assert credential(labctl)["status"]["token"] == "newer"
    assert dex.asked[-1][1]["refresh_token"] == "r1"
    assert json.loads(token_file(home).read_text())["refresh_token"] == "r2"
    assert stat.S_IMODE(token_file(home).stat().st_mode) == 0o600


def test_a_token_that_cannot_be_renewed_is_used_to_its_end(
    site: FakePortal, dex: StandInDex, labctl: Labctl, home: Path
) -> None:
    labctl("login")
    age(home, 30)
    dex.away = True
    assert credential(labctl)["status"]["token"] == dex.answers[0][1]["id_token"]
    age(home, -1)
    done = labctl("kubeconfig", "--credential")
    assert (done.code, "cannot be renewed now" in done.err) == (6, True)
    dex.away = False
    assert credential(labctl)["status"]["token"]


def test_a_login_that_another_one_ended_says_so_and_is_forgotten(
    site: FakePortal, dex: StandInDex, labctl: Labctl, home: Path
) -> None:
    labctl("login")
    age(home, -1)
    dex.answers = [(400, {"error": "invalid_request", "error_description": "claimed by another client"})]
    done = labctl("kubeconfig", "--credential")
    assert (done.code, "another machine" in done.err) == (3, True)
    assert not token_file(home).exists()


def test_kubeconfig_holds_no_secret(site: FakePortal, labctl: Labctl, dex: StandInDex) -> None:
    labctl("login")
    done = labctl("kubeconfig", "--project", "vision")
    config = yaml.safe_load(done.out)
    assert config["current-context"] == "test"
    assert config["contexts"][0]["context"]["namespace"] == "project-vision"
    assert config["clusters"][0]["cluster"]["server"] == "https://api.test:6443"
    assert config["users"][0]["user"]["exec"]["args"] == ["kubeconfig", "--credential"]
    assert dex.answers[0][1]["id_token"] not in done.out


def test_merge_without_kubectl_names_the_other_way(
    site: FakePortal, labctl: Labctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", os.devnull)
    done = labctl("kubeconfig", "--merge")
    assert (done.code, "labctl kubeconfig > FILE" in done.err) == (2, True)
