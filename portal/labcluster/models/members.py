"""People and groups as the directory has them, and what an administrator asks for.

Everything that comes out of LDAP is checked here before anything is built on it: a uid below the members'
range in the directory, by mistake or by malice, must never become the uid of a pod.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints, computed_field

# A name is a POSIX login, the value of a Kubernetes label, a key of a ConfigMap and a part of a path.
MEMBER_NAME = re.compile(r"[a-z]([a-z0-9._-]{0,30}[a-z0-9])?")
PROJECT_NAME = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")

MEMBER_UIDS = range(20000, 30000)
PROJECT_GIDS = range(30000, 40000)

SshKey = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True,
        max_length=8192,
        pattern=r"^(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(256|384|521)|sk-(ssh-ed25519|ecdsa-sha2-nistp256)"
        r"@openssh\.com) [A-Za-z0-9+/]+=*( [^\r\n]*)?$",
    ),
]
Password = Annotated[SecretStr, Field(min_length=8, max_length=256)]
OneLine = Annotated[str, StringConstraints(strip_whitespace=True, max_length=200, pattern=r"^[^\r\n\x00]*$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Member(_Frozen):
    """A person of the cluster."""

    name: str
    uid: int
    full_name: str
    mail: str | None = None
    ssh_keys: tuple[str, ...] = ()
    home: str
    shell: str = "/bin/bash"
    disabled: bool = Field(default=False, description="gets in nowhere; files, uid and projects are kept")


class _Person(_Frozen):
    full_name: OneLine = Field(min_length=1)
    mail: OneLine | None = None
    ssh_keys: tuple[SshKey, ...] = ()


class MemberRequest(_Person):
    """What an administrator says of a member; the rest follows from it."""

    password: Password | None = Field(None, description="left out: unchanged")


class EnrolmentItem(_Person):
    """One of many people who are enrolled together."""

    name: str
    projects: tuple[str, ...] = Field((), description="he is added to these; he leaves none")


class EnrolmentResult(_Frozen):
    """What was done, or would be done, for one of them; or what is wrong with what was asked."""

    name: str
    actions: tuple[str, ...] = ()
    error: str | None = None


class PasswordRequest(_Frozen):
    """A new password, set by an administrator."""

    password: Password


class OwnPasswordRequest(_Frozen):
    """A new password, set by its owner, who knows the old one."""

    old: SecretStr = Field(max_length=256)
    new: Password


class MemberView(Member):
    """A member with his projects, as administrators see him."""

    projects: tuple[str, ...] = ()


class Group(_Frozen):
    """A project as the directory has it."""

    name: str
    gid: int
    members: tuple[str, ...] = ()
    description: str = ""


class Directory(_Frozen):
    """Everything the directory says, read at one time."""

    members: dict[str, Member] = Field(default_factory=dict)
    groups: dict[str, Group] = Field(default_factory=dict)
    removed: tuple[Group, ...] = Field((), description="projects that are no more; files carry their gids")

    def groups_of(self, user: str) -> tuple[Group, ...]:
        """The projects of a user, by name."""
        return tuple(group for _, group in sorted(self.groups.items()) if user in group.members)

    def by_uid(self, uid: int) -> Member | None:
        """Whose uid this is."""
        return next((member for member in self.members.values() if member.uid == uid), None)


class Change(_Frozen):
    """What an operation did, or with dry_run would do: one sentence an action."""

    actions: tuple[str, ...] = ()

    @computed_field  # type: ignore[prop-decorator]
    @property
    def changed(self) -> bool:
        """Whether there was anything to do."""
        return bool(self.actions)
