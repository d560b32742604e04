"""The directory's adapter against a real slapd with the configuration of our image."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from labcluster.adapters.ldap import LdapDirectory
from labcluster.errors import ConflictError, LabclusterError, NotFoundError, UnreachableError, UsageError
from labcluster.models.members import EnrolmentItem, Group, Member, MemberRequest
from labcluster.services.enrolment import enrol
from labcluster.services.members import ensure_member, set_disabled

IMAGE = Path(__file__).parents[2] / "images" / "openldap"
BASE = "dc=lab,dc=internal"
SLAPD = shutil.which("slapd", path=os.environ["PATH"] + ":/usr/sbin")
ADA = Member(
    name="ada",
    uid=20000,
    full_name="Ada Lovelace",
    mail="ada@lab.internal",
    ssh_keys=("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ5J7Z9d ada@desk",),
    home="/lab/home/ada",
)

pytestmark = pytest.mark.skipif(
    SLAPD is None or not Path("/etc/ldap/schema/core.ldif").exists(), reason="needs Debian's slapd"
)


class Server:
    """slapd on loopback, which can be stopped and started."""

    def __init__(self, home: Path) -> None:
        self.home = home
        with socket.create_server(("127.0.0.1", 0)) as found:
            self.uri = f"ldaps://127.0.0.1:{found.getsockname()[1]}"
        self._process: subprocess.Popen[bytes] | None = None
        _certificates(home)
        for name in ("data", "slapd.d", "run"):
            (home / name).mkdir()
        identity = f"gidNumber={os.getegid()}+uidNumber={os.geteuid()},cn=peercred,cn=external,cn=auth"
        text = (IMAGE / "config.ldif").read_text()
        for old, new in {
            "@BASE@": BASE, "@SELF@": identity, "@LOG@": "none", "@SIZE@": "104857600", "@ROOTPW@": "unused",
            "/etc/openldap/tls": str(home), "/run/openldap": str(home / "run"),
            "/usr/local/share/openldap": str(IMAGE), "/var/lib/openldap/ldap": str(home / "data"),
        }.items():  # fmt: skip
            text = text.replace(old, new)
        text = "\n".join(line for line in text.splitlines() if not line.startswith("#")) + "\n"
        (home / "config.ldif").write_text(text)
        self._run("/usr/sbin/slapadd", "-n0", "-F", home / "slapd.d", "-l", home / "config.ldif")
        entries = (IMAGE / "base.ldif").read_text().replace("@BASE@", BASE).replace("@DC@", "lab")
        for name in ("portal", "controller", "sssd", "dex", "registry"):
            (home / name).write_text(f"password-of-{name}\n")
            entries += (
                f"\ndn: cn={name},ou=services,{BASE}\nobjectClass: applicationProcess\n"
                f"objectClass: simpleSecurityObject\ncn: {name}\nuserPassword: password-of-{name}\n"
            )
        (home / "base.ldif").write_text(entries)
        self._run("/usr/sbin/slapadd", "-F", home / "slapd.d", "-b", BASE, "-l", home / "base.ldif")

    def start(self) -> None:
        assert SLAPD
        command = [SLAPD, "-d", "none", "-F", self.home / "slapd.d", "-h", f"{self.uri}/"]
        with (self.home / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 10
        while not self._listens():
            assert time.monotonic() < deadline, (self.home / "log").read_text()
            time.sleep(0.05)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", int(self.uri.rsplit(":", 1)[1]))) == 0

    def signal(self, number: int) -> None:
        assert self._process
        self._process.send_signal(number)

    def stop(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def directory(self, who: str = "portal", **changes: object) -> LdapDirectory:
        settings: dict[str, object] = {
            "uri": self.uri,
            "base_dn": BASE,
            "bind_dn": f"cn={who},ou=services,{BASE}",
            "password_file": self.home / who,
            "ca_file": self.home / "ca.crt",
            "timeout": 2.0,
        }
        return LdapDirectory(**settings | changes)  # type: ignore[arg-type]

    def _run(self, *command: object) -> None:
        subprocess.run([str(word) for word in command], check=True, capture_output=True)


def _certificates(home: Path) -> None:
    (home / "san").write_text("subjectAltName=IP:127.0.0.1")
    new = ["openssl", "req", "-newkey", "rsa:2048", "-nodes"]
    for command in (
        [*new, "-x509", "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=test CA"],
        [*new, "-keyout", "tls.key", "-out", "tls.csr", "-subj", "/CN=ldap"],
        [
            "openssl", "x509", "-req", "-in", "tls.csr", "-out", "tls.crt", "-extfile", "san",
            "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
        ],
    ):  # fmt: skip
        subprocess.run(command, cwd=home, check=True, capture_output=True)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    server.start()
    yield server
    server.stop()


def test_what_is_written_is_read_back(server: Server) -> None:
    portal = server.directory()
    group = Group(name="vision", gid=30000, members=("ada",), description="pictures")
    portal.add_member(ADA)
    portal.add_group(group)
    read = server.directory("controller").read()
    assert read.members == {"ada": ADA}
    assert read.groups == {"vision": group}


def test_changes_touch_what_differs(server: Server) -> None:
    portal = server.directory()
    portal.add_member(ADA)
    new = ADA.model_copy(update={"full_name": "Ada King", "mail": None, "ssh_keys": ()})
    portal.modify_member(ADA, new)
    assert portal.read().members["ada"] == new


def test_two_changes_of_one_group_both_count(server: Server) -> None:
    portal = server.directory()
    empty = Group(name="vision", gid=30000)
    portal.add_group(empty)
    for name in ("ada", "bo"):
        portal.modify_group(empty, empty.model_copy(update={"members": (name,)}))
    both = portal.read().groups["vision"]
    assert both.members == ("ada", "bo")
    portal.modify_group(both, both.model_copy(update={"members": ("bo",)}))
    with pytest.raises(ConflictError, match="changed by somebody else"):
        portal.modify_group(both, both.model_copy(update={"members": ("bo",)}))


def test_password_is_hashed_by_slapd_and_checked_by_a_bind(server: Server) -> None:
    portal = server.directory()
    request = MemberRequest.model_validate({"full_name": "Ada", "password": "correct horse"})
    assert ensure_member(portal, "ada", request).changed
    assert not ensure_member(portal, "ada", request).changed
    assert portal.has_password("ada", "correct horse")
    assert not portal.has_password("ada", "wrong horse")
    assert not portal.has_password("ada", "")
    assert not portal.has_password("nobody", "correct horse")
    stored = subprocess.run(
        ["/usr/sbin/slapcat", "-F", server.home / "slapd.d", "-b", BASE, "-a", "(uid=ada)"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert "correct horse" not in stored
    assert "e0FSR09OMn0" in stored  # base64 of {ARGON2}


def test_disabled_member_cannot_bind_until_he_is_enabled(server: Server) -> None:
    portal = server.directory()
    portal.add_member(ADA)
    portal.set_password("ada", "correct horse")
    assert set_disabled(portal, "ada", True).changed
    assert portal.read().members["ada"].disabled
    assert not portal.has_password("ada", "correct horse")
    portal.set_password("ada", "better horse")  # which does not let him in either
    assert not portal.has_password("ada", "better horse")
    assert set_disabled(portal, "ada", False).changed
    assert portal.has_password("ada", "better horse")
    assert portal.read().members["ada"] == ADA


def test_entry_of_a_foreign_tool_can_be_disabled(server: Server) -> None:
    entry = (
        f"dn: uid=bo,ou=people,{BASE}\nobjectClass: inetOrgPerson\nobjectClass: posixAccount\nuid: bo\n"
        "cn: Bo\nsn: Bo\nuidNumber: 20001\ngidNumber: 20001\nhomeDirectory: /lab/home/bo\n"
    )
    server.stop()
    subprocess.run(
        ["/usr/sbin/slapadd", "-F", server.home / "slapd.d", "-b", BASE], input=entry.encode(), check=True
    )
    server.start()
    portal = server.directory()
    set_disabled(portal, "bo", True)
    assert portal.read().members["bo"].disabled


def test_removed_project_leaves_its_name_and_gid(server: Server) -> None:
    portal = server.directory()
    group = Group(name="vision", gid=30000, members=("ada",), description="pictures")
    portal.add_group(group)
    portal.remove_group(group)
    portal.remove_group(group)  # interrupted, and done again
    after = server.directory("controller").read()
    assert after.groups == {}
    assert after.removed == (group.model_copy(update={"members": ()}),)


def test_two_hundred_people_are_enrolled_in_seconds(server: Server) -> None:
    portal = server.directory()
    portal.add_group(Group(name="vision", gid=30000))
    people = [EnrolmentItem(name=f"m{i}", full_name=f"M {i}", projects=("vision",)) for i in range(200)]
    started = time.monotonic()
    enrol(portal, people)
    assert time.monotonic() - started < 20
    assert len(portal.read().groups["vision"].members) == 200
    assert not any(result.actions for result in enrol(portal, people))


def test_names_are_data_and_never_syntax(server: Server) -> None:
    portal = server.directory()
    assert not portal.has_password("ada,ou=people)(uid=*", "x")
    with pytest.raises(NotFoundError):
        portal.modify_member(ADA, ADA.model_copy(update={"mail": "x@y"}))


def test_uid_that_another_has_is_refused_by_the_directory(server: Server) -> None:
    portal = server.directory()
    portal.add_member(ADA)
    with pytest.raises(ConflictError):
        portal.add_member(ADA)
    with pytest.raises(UsageError, match="directory refuses"):
        portal.add_member(ADA.model_copy(update={"name": "eve", "home": "/lab/home/eve"}))


@pytest.mark.parametrize("who", ["controller", "sssd", "dex", "registry"])
def test_other_services_read_and_write_nothing(server: Server, who: str) -> None:
    server.directory().add_member(ADA)
    reader = server.directory(who)
    assert reader.read().members == {"ada": ADA}
    with pytest.raises(LabclusterError, match="does not let us"):
        reader.add_group(Group(name="vision", gid=30000))
    with pytest.raises(LabclusterError, match="does not let us"):
        reader.set_password("ada", "mine from now on")


def test_hundreds_of_entries_are_read_whole(server: Server) -> None:
    portal = server.directory()
    for number in range(1100):
        portal.add_group(Group(name=f"g{number}", gid=30000 + number))
    assert len(portal.read().groups) == 1100


def test_connection_that_broke_is_made_anew(server: Server) -> None:
    portal = server.directory()
    portal.read()
    server.stop()
    started = time.monotonic()
    with pytest.raises(UnreachableError, match="does not answer"):
        portal.read()
    assert time.monotonic() - started < 3
    server.start()
    portal.read()
    server.stop()
    server.start()
    portal.read()


def test_server_that_hangs_does_not_hang_us(server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        directory = server.directory(uri=f"ldaps://127.0.0.1:{deaf.getsockname()[1]}")
        started = time.monotonic()
        with pytest.raises(UnreachableError):
            directory.read()
        assert time.monotonic() - started < 6


def test_server_that_freezes_does_not_hang_us(server: Server) -> None:
    portal = server.directory()
    portal.read()
    server.signal(signal.SIGSTOP)
    for _ in range(2):
        started = time.monotonic()
        with pytest.raises(UnreachableError):
            portal.read()
        assert time.monotonic() - started < 6
    server.signal(signal.SIGCONT)
    portal.read()


def test_wrong_certificate_and_wrong_password_are_refused(server: Server, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    _certificates(foreign)
    with pytest.raises(UnreachableError, match="does not answer"):
        server.directory(ca_file=foreign / "ca.crt").read()
    with pytest.raises(UnreachableError, match="our own password"):
        server.directory(password_file=server.home / "controller").read()
