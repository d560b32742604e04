"""A project and its people from a list to the end: enrolled, in by key and password, shut out, gone.

Everything here is made for these tests and gone after them, in the directory and on the tree too. The tests
build on one another, in the order in which they stand.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ldap
import pytest

pytestmark = pytest.mark.e2e

KUBECTL = "kubectl --kubeconfig /etc/kubernetes/admin.conf"
# The directory is read every 3 s by controller and file server; the rest is the lab's slowness.
SEEN_SECONDS = 20.0


@dataclass(frozen=True)
class Crew:
    """Who and what is made here."""

    project: str
    ida: str
    tom: str
    key: Path
    askpass: Path


def until(holds: Callable[[], bool], what: str, seconds: float = SEEN_SECONDS) -> float:
    """Wait for something; how long it took."""
    started = time.monotonic()
    while not holds():
        assert time.monotonic() - started < seconds, f"not within {seconds} s: {what}"
        time.sleep(0.3)
    return time.monotonic() - started


@pytest.fixture(scope="module")
def admin(site: Any, ssh_as: Callable[..., Any]) -> Callable[..., Any]:
    """The administrator's shell on the login node."""
    return ssh_as(site.variables["ansible_user"])  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def crew(
    site: Any, admin: Any, address: str, on_host: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Crew]:
    """A project, and two people who are not enrolled yet."""
    home = tmp_path_factory.mktemp("crew")
    mark = secrets.token_hex(3)
    askpass = home / "askpass"
    askpass.write_text('#!/bin/sh\nprintf "%s\\n" "$E2E_PASSWORD"\n')
    askpass.chmod(0o700)
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "e2e", "-f", str(home / "key")]
    subprocess.run(command, check=True)
    crew = Crew(f"e2e-{mark}", f"ida-{mark}", f"tom-{mark}", home / "key", askpass)
    done = admin(f"labctl admin project create {crew.project} --gpus 0 --max-gpus 1 --description e2e")
    assert done.code == 0, done.err
    yield crew
    admin(f"labctl admin project rm {crew.project} --confirm {crew.project}")
    base = site.variables["cluster_ldap_base_dn"]
    directory = ldap.initialize(f"ldaps://{address}")
    directory.set_option(ldap.OPT_X_TLS_CACERTFILE, str(site.secrets / "ca.crt"))
    directory.set_option(ldap.OPT_X_TLS_NEWCTX, 0)
    directory.simple_bind_s(f"cn=admin,{base}", site.variables["cluster_secrets"]["ldap_admin_password"])
    names = "".join(f"({key}={value})" for key, value in
                    (("uid", crew.ida), ("uid", crew.tom), ("cn", crew.project)))  # fmt: skip
    for dn, _ in directory.search_s(base, ldap.SCOPE_SUBTREE, f"(|{names})", ["1.1"]):
        directory.delete_s(dn)
    directory.unbind_s()
    places = [f"/lab/{kind}/{name}" for kind in ("home", "scratch") for name in (crew.ida, crew.tom)]
    places += [f"/lab/projects/{crew.project}", f"/lab/projects/.removed/{crew.project}-*"]
    on_host(site.first("file_server"), f"rm -rf {' '.join(places)}")


@pytest.fixture(scope="module")
def enter(site: Any, ssh_config: Path, crew: Crew) -> Callable[..., Any]:
    """enter("ida", "id", password=…): a login of its own, by the key or with a password."""

    def log_in(user: str, command: str = "true", password: str | None = None) -> Any:
        words = ["ssh", "-F", str(ssh_config), "-o", "ControlPath=none", "-l", user]
        if password is None:
            words += ["-o", "PreferredAuthentications=publickey", "-i", str(crew.key)]
        else:
            words += ["-o", "BatchMode=no", "-o", "PreferredAuthentications=password"]
            words += ["-o", "NumberOfPasswordPrompts=1"]
        environment = {**os.environ, "SSH_ASKPASS": str(crew.askpass), "SSH_ASKPASS_REQUIRE": "force",
                       "E2E_PASSWORD": password or ""}  # fmt: skip
        return subprocess.run(
            [*words, site.first("login"), "--", command], env=environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    return log_in


def enrol(admin: Any, text: str, *options: str) -> Any:
    command = f"labctl admin member add --file $f {' '.join(options)}"
    return admin(f"f=$(mktemp); cat > $f; {command}; c=$?; rm $f; exit $c", stdin=text.encode())


@pytest.fixture(scope="module")
def people(crew: Crew) -> str:
    """The list of both."""
    public = crew.key.with_suffix(".pub").read_text().strip()
    return (
        "name,full_name,mail,ssh_keys,projects\n"
        f"{crew.ida},Ida Rhodes,ida@lab.internal,{public},{crew.project}\n"
        f'{crew.tom},"Kilburn, Tom",,{public},{crew.project}; shared\n'
    )


def test_a_list_with_a_fault_enrols_nobody(admin: Any, crew: Crew, people: str) -> None:
    done = enrol(admin, people + "eve,Eve,,,no-such-project\n")
    assert done.code == 2
    assert ":4: eve: there is no project 'no-such-project'" in done.err
    assert admin(f"labctl admin member show {crew.ida}").code == 4


def test_a_list_is_enrolled_once(admin: Any, crew: Crew, people: str) -> None:
    rehearsed = enrol(admin, people, "--dry-run")
    assert f"{crew.ida}: would add member {crew.ida} with uid" in rehearsed.out
    assert admin(f"labctl admin member show {crew.ida}").code == 4
    done = enrol(admin, people)
    assert done.code == 0, done.err
    assert done.out.count(f"add {crew.tom} to project") == 2
    assert enrol(admin, people).out == f"{crew.ida}: nothing to do\n{crew.tom}: nothing to do\n"


def test_who_is_enrolled_gets_in_by_key_and_has_a_home_and_a_project(crew: Crew, enter: Any) -> None:
    until(lambda: enter(crew.ida, "test -w ~").returncode == 0, "a login with a home")
    assert enter(crew.ida, "pwd").stdout.strip() == f"/lab/home/{crew.ida}"

    def projects() -> list[str]:
        answer = json.loads(enter(crew.ida, "labctl whoami --json").stdout or "{}")
        return [project["name"] for project in answer.get("projects", ())]

    until(lambda: projects() == [crew.project], "a project in whoami")


def test_a_password_is_set_and_changed_and_opens_the_door(admin: Any, crew: Crew, enter: Any) -> None:
    first, second = secrets.token_urlsafe(12), secrets.token_urlsafe(12)
    assert enter(crew.ida, password=first).returncode == 255
    done = admin(f"labctl admin member passwd {crew.ida} --password-stdin", stdin=f"{first}\n".encode())
    assert done.code == 0, done.err
    assert enter(crew.ida, password=first).returncode == 0
    wrong = enter(crew.ida, f"printf 'guess\\n{second}\\n' | labctl passwd --password-stdin")
    assert (wrong.returncode, "old password is wrong" in wrong.stderr) == (3, True)
    changed = enter(crew.ida, f"printf '{first}\\n{second}\\n' | labctl passwd --password-stdin")
    assert changed.returncode == 0, changed.stderr
    assert enter(crew.ida, password=first).returncode == 255
    assert enter(crew.ida, password=second).returncode == 0


def sleeper(enter: Any, user: str, project: str) -> str:
    """A run that does not end by itself."""
    done = enter(user, f"labctl submit --project {project} --memory 64Mi --cpus 0.1 --json -- sleep 600")
    assert done.returncode == 0, done.stderr
    return str(json.loads(done.stdout)["id"])


def cancelled(admin: Any, run: str, why: str) -> bool:
    row = json.loads(admin(f"labctl show --json {run}").out)
    return bool(row["state"] == "cancelled" and why in row["reason"])


def may_submit(site: Any, on_host: Any, user: str, project: str) -> bool:
    asked = f"{KUBECTL} auth can-i create jobs.batch --as {user} --namespace project-{project}"
    return bool(on_host(site.first("management"), asked).out.strip() == "yes")


def no_pods(site: Any, on_host: Any, project: str, user: str) -> bool:
    asked = f"{KUBECTL} get jobs,pods -n project-{project} -l labcluster.internal/user={user} -o name"
    return bool(on_host(site.first("management"), asked).out.strip() == "")


def test_a_disabled_member_is_out_everywhere_at_once(
    site: Any, admin: Any, on_host: Any, crew: Crew, enter: Any
) -> None:
    run = sleeper(enter, crew.ida, crew.project)
    assert may_submit(site, on_host, crew.ida, crew.project)
    assert admin(f"labctl admin member disable {crew.ida}").code == 0
    assert "nothing to do" in admin(f"labctl admin member disable {crew.ida}").out
    until(lambda: enter(crew.ida).returncode == 255, "the key is refused")
    until(lambda: not may_submit(site, on_host, crew.ida, crew.project), "the binding is gone")
    until(lambda: cancelled(admin, run, f"{crew.ida} was disabled"), "the run is cancelled")
    until(lambda: no_pods(site, on_host, crew.project, crew.ida), "the Job is gone", 60)
    # Whoever is in already, for example in a screen session, can do nothing either.
    said = on_host(site.first("login"), f"runuser -u {crew.ida} -- labctl whoami")
    assert (said.code, "is disabled" in said.err) == (3, True), said


def test_an_enabled_member_is_back_with_all_that_was_his(
    site: Any, admin: Any, on_host: Any, crew: Crew, enter: Any
) -> None:
    assert admin(f"labctl admin member enable {crew.ida}").code == 0
    until(lambda: enter(crew.ida).returncode == 0, "the key is good again")
    until(lambda: may_submit(site, on_host, crew.ida, crew.project), "the binding is back")


def test_who_leaves_a_project_loses_its_files_and_runs(
    site: Any, admin: Any, on_host: Any, crew: Crew, enter: Any
) -> None:
    files = site.first("file_server")
    folder = f"/lab/projects/{crew.project}/data"
    until(lambda: enter(crew.tom, f"echo kept > {folder}/of-tom").returncode == 0, "tom writes")
    run = sleeper(enter, crew.tom, crew.project)
    assert crew.project in on_host(files, f"id --name --groups {crew.tom}").out.split()
    assert admin(f"labctl admin project remove-member {crew.project} {crew.tom}").code == 0
    took = until(
        lambda: crew.project not in on_host(files, f"id --name --groups {crew.tom}").out.split(),
        "the file server knows",
        15,
    )
    print(f"the file server knew of a leaving member after {took:.1f} s")
    until(lambda: cancelled(admin, run, f"no member of project {crew.project} any more"), "his run ends")
    until(lambda: not may_submit(site, on_host, crew.tom, crew.project), "the binding is gone")
    assert on_host(files, f"cat {folder}/of-tom").out == "kept\n"
    assert enter(crew.tom).returncode == 0


def test_a_removed_project_keeps_its_files_and_its_name(
    site: Any, admin: Any, on_host: Any, crew: Crew
) -> None:
    refused = admin(f"labctl admin project rm {crew.project}")
    assert (refused.code, f"--confirm {crew.project}" in refused.err) == (2, True)
    gid = json.loads(admin(f"labctl admin project show --json {crew.project}").out)["gid"]
    done = admin(f"labctl admin project rm {crew.project} --confirm {crew.project}")
    assert done.code == 0, done.err
    kept = f"/lab/projects/.removed/{crew.project}-{gid}"
    assert kept in done.out
    files = site.first("file_server")
    until(lambda: on_host(files, f"cat {kept}/data/of-tom").out == "kept\n", "the files are put away")
    assert on_host(files, f"stat --format=%a:%u {Path(kept).parent}").out.strip() == "700:0"
    namespace = f"{KUBECTL} get namespace project-{crew.project} --ignore-not-found -o name"
    until(lambda: on_host(site.first("management"), namespace).out == "", "the namespace is gone", 90)
    again = admin(f"labctl admin project create {crew.project} --gpus 0")
    assert (again.code, "choose another name" in again.err) == (5, True)
    next_one = admin(f"labctl admin project create {crew.project}-b --gpus 0 --dry-run").out
    assert f"with gid {gid} " not in next_one
