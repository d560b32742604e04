"""The login host: who gets in, how, and what they find there."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from testinfra.host import Host

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def login(site: Any, infra: Callable[[str], Host]) -> Host:
    """The login host."""
    return infra(site.first("login"))


@pytest.fixture(scope="module")
def sshd_for(login: Host) -> Callable[[str], dict[str, str]]:
    """The settings that sshd applies to a person."""

    def settings(user: str) -> dict[str, str]:
        lines = login.check_output(f"sshd -T -C user={user},host=client,addr=192.0.2.1").splitlines()
        return dict(line.split(" ", 1) for line in lines if " " in line)

    return settings


def test_a_member_is_the_same_person_everywhere(site: Any, infra: Callable[[str], Host]) -> None:
    for name in [site.first("login"), site.first("file_server"), *site.groups["gpu_node"]]:
        host = infra(name)
        assert host.check_output("getent passwd ada").split(":")[2:4] == ["20000", "20000"], name
        assert {"ada", "vision", "shared"} <= set(host.check_output("id --name --groups ada").split()), name


def test_a_member_comes_in_with_the_directorys_key_to_a_home_on_the_tree(ssh_as: Callable[..., Any]) -> None:
    done = ssh_as("ada")("id --user; pwd")
    assert done.out.split() == ["20000", "/lab/home/ada"]


def test_another_members_key_does_not_open_the_door(site: Any, login: Host) -> None:
    keys = login.check_output("sss_ssh_authorizedkeys bo").splitlines()
    public = (site.secrets / "users" / "ada_ed25519.pub").read_text().split()[1]
    assert keys
    assert all(public not in key for key in keys)


def test_members_may_use_a_password_and_administrators_their_own_key_only(
    site: Any, sshd_for: Callable[[str], dict[str, str]]
) -> None:
    member, admin = sshd_for("ada"), sshd_for(site.variables["ansible_user"])
    assert member["passwordauthentication"] == "yes"
    assert member["authorizedkeyscommand"] == "/usr/bin/sss_ssh_authorizedkeys"
    assert member["authorizedkeysfile"] == "none"
    assert admin["passwordauthentication"] == "no"
    assert admin["authorizedkeyscommand"] == "none"
    assert sshd_for("root")["permitrootlogin"] == "no"


def test_a_member_gets_in_on_the_login_host_only(site: Any, run_on: Callable[..., Any]) -> None:
    for name in [site.first("file_server"), site.first("gpu_node")]:
        done = run_on(name, "ada", "true")
        assert done.code == 255, name


def test_munge_has_the_clusters_key_and_proves_the_uid(
    site: Any, login: Host, ssh_as: Callable[..., Any]
) -> None:
    key = login.file("/etc/munge/munge.key")
    assert (key.user, key.mode) == ("munge", 0o400)
    assert key.content == base64.b64decode(site.variables["cluster_secrets"]["munge_key"])
    assert re.search(r"^UID: +ada \(20000\)$", ssh_as("ada")("munge --no-input | unmunge").out, re.MULTILINE)
    assert json.loads(ssh_as("ada")("labctl whoami --json").out)["uid"] == 20000


def test_a_new_shell_has_the_tools_and_says_the_daily_commands(
    ssh_as: Callable[..., Any], login: Host
) -> None:
    ada = ssh_as("ada")
    assert ada("labctl --help").code == 0
    assert ada("kubectl version --client").code == 0
    completion = ada(
        "bash -lc 'source /etc/bash_completion.d/labctl; COMP_WORDS=(labctl sub); COMP_CWORD=1;"
        " _labctl_completion labctl; echo ${COMPREPLY[@]}'"
    )
    assert completion.out.split() == ["submit"], completion.err
    for command in ("labctl submit", "labctl ls", "labctl logs"):
        assert command in login.file("/etc/motd").content_string


def test_the_hosts_own_users_never_come_from_the_directory(site: Any, login: Host) -> None:
    settings = login.file("/etc/sssd/sssd.conf")
    assert settings.mode == 0o600
    names = next(line for line in settings.content_string.splitlines() if line.startswith("filter_users"))
    assert {"root", *(admin["name"] for admin in site.variables["cluster_admins"])} <= set(
        names.partition("=")[2].replace(",", " ").split()
    )
    for database in ("passwd", "group"):
        order = login.check_output(f"grep ^{database}: /etc/nsswitch.conf").split()
        assert order.index("files") < order.index("sss")


OUTAGE = """
add table inet e2e_outage
add chain inet e2e_outage output { type filter hook output priority 0; }
add rule inet e2e_outage output tcp dport 636 drop
"""


@pytest.fixture
def directory_away(login: Host) -> Iterator[None]:
    """The directory does not answer the login host: its packets are lost, which is worse than a refusal."""
    login.run_expect([0], f"nft '{OUTAGE}'")
    yield
    login.run_expect([0], "nft delete table inet e2e_outage && systemctl restart sssd")


@pytest.fixture
def log_in(site: Any, ssh_config: Path, tmp_path: Path) -> Callable[..., tuple[int, float]]:
    """log_in("ada", key): status and seconds of a login; a text in the place of the key is a password."""
    askpass = tmp_path / "askpass"
    askpass.write_text('#!/bin/sh\nprintf "%s\\n" "$E2E_PASSWORD"\n')
    askpass.chmod(0o700)

    def enter(user: str, by: Path | str) -> tuple[int, float]:
        # A connection of its own: one that is shared with earlier tests would ask nobody.
        options = ["-F", str(ssh_config), "-o", "ControlPath=none", "-l", user]
        if isinstance(by, Path):
            options += ["-i", str(by)]
        else:
            options += ["-o", "BatchMode=no", "-o", "PreferredAuthentications=password"]
            options += ["-o", "NumberOfPasswordPrompts=1"]
        environment = {**os.environ, "SSH_ASKPASS": str(askpass), "SSH_ASKPASS_REQUIRE": "force",
                       "E2E_PASSWORD": str(by)}  # fmt: skip
        started = time.monotonic()
        done = subprocess.run(
            ["ssh", *options, site.first("login"), "true"], env=environment, stdin=subprocess.DEVNULL,
            timeout=60, check=False,
        )  # fmt: skip
        return done.returncode, time.monotonic() - started

    return enter


@pytest.fixture
def password(log_in: Callable[..., tuple[int, float]], password_of: Callable[[str], str]) -> str:
    """ada's password, by which she was in before."""
    assert log_in("ada", "guess")[0] == 255
    assert log_in("ada", password_of("ada"))[0] == 0
    return password_of("ada")


def test_people_work_on_and_nobody_waits_while_the_directory_is_away(
    site: Any,
    login: Host,
    password: str,
    directory_away: None,
    log_in: Callable[..., tuple[int, float]],
) -> None:
    login.run("sss_cache --everything")
    keys = site.secrets / "users"
    people = {
        "ada": log_in("ada", keys / "ada_ed25519"),
        "administrator": log_in(site.variables["ansible_user"], site.secrets / "admin_ed25519"),
        "nobody": log_in("nobody-of-that-name", keys / "ada_ed25519"),
        "ada by password": log_in("ada", password),
        "a guess": log_in("ada", "guess"),
    }
    codes = {name: code for name, (code, _) in people.items()}
    assert codes == {"ada": 0, "administrator": 0, "nobody": 255, "ada by password": 0, "a guess": 255}
    # The first login finds the directory away: each of its questions (who, which groups, which keys) waits
    # out a time limit of 2 s on the open connection and on a new one. Everybody after it waits for nothing.
    assert people["ada"][1] < 20, people
    assert people["administrator"][1] < 3, people
    assert people["nobody"][1] < 3, people
    assert people["ada by password"][1] < 3, people
