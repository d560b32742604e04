"""Who may do what in the registry: the decisions of its token service (docker's token authentication).

The registry itself knows nobody. It sends who comes without a token here, and believes what a token of ours
says for the five minutes that it lives. Members prove themselves with their password of the directory or with
a login that the portal got for them; the cluster's own two accounts with theirs, and those never need the
directory: what runs goes on when LDAP is away.
"""

from __future__ import annotations

import hmac
import logging
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from labcluster.errors import LabclusterError, NotAllowedError, NotAuthenticatedError, UsageError
from labcluster.models.members import MEMBER_NAME, Directory
from labcluster.models.registry import GIB, Account, Scope

log = logging.getLogger(__name__)

COMMON = "common"
PLATFORM = "labcluster"

TOKEN_SECONDS = 300
#: Long enough for a big image over a slow line; whether its owner is still a member is asked for every token.
LOGIN_SECONDS = 3600

_PULL, _PUSH, _DELETE = "pull", "push", "delete"
_LOGIN = "registry-login"

_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_PART}(?:/{_PART})*")
_ACTION = re.compile(r"[a-z]+|\*")
_MAX_SCOPES = 20


class Signer(Protocol):
    """The key that the registry trusts."""

    def sign(self, claims: Mapping[str, Any]) -> str: ...
    def sign_login(self, claims: Mapping[str, Any]) -> str: ...
    def read_login(self, token: str) -> dict[str, Any] | None:
        """The claims of a login that this key has signed, expired or not; else None."""
        ...


class People(Protocol):
    """The directory. UnreachableError when it is away."""

    def read(self) -> Directory: ...


class Usage(Protocol):
    """What projects have in the registry, and what they may have."""

    def used(self, project: str) -> int:
        """Bytes."""
        ...

    def quota(self, project: str) -> int | None:
        """Bytes; None for no quota, or one that is not known."""
        ...


class TokenService:
    """Authenticates who asks, and gives him what he may have."""

    def __init__(
        self,
        *,
        service: str,
        issuer: str,
        accounts: Mapping[str, tuple[Account, str]],
        signer: Signer,
        people: People,
        has_password: Callable[[str, str], bool],
        usage: Usage,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._service = service
        self._issuer = issuer
        self._accounts = dict(accounts)
        self._signer = signer
        self._people = people
        self._has_password = has_password
        self._usage = usage
        self._clock = clock

    def authenticate(self, username: str, password: str) -> Account:
        """Whose name and password these are. NotAuthenticatedError where nobody's."""
        known = self._accounts.get(username)
        if known is not None:
            account, secret = known
            if not hmac.compare_digest(password.encode(), secret.encode()):
                raise NotAuthenticatedError(f"wrong password for {username}")
            return account
        if not MEMBER_NAME.fullmatch(username):
            raise NotAuthenticatedError("wrong user name or password")
        claims = self._signer.read_login(password)
        if claims is not None:
            return self._by_login(username, claims)
        if not self._has_password(username, password):
            raise NotAuthenticatedError("wrong user name or password")
        self._require_member(username)
        return Account(username, "member")

    def login(self, asker: Account, username: str, *, admin: bool) -> tuple[str, int]:
        """A password for somebody whom the portal has authenticated, and the seconds that it lasts."""
        if asker.kind != "cluster":
            raise NotAllowedError(f"{asker.name} may not act for others")
        now = int(self._clock())
        claims = {
            "iss": self._issuer,
            "aud": _LOGIN,
            "sub": username,
            "admin": admin,
            "iat": now,
            "exp": now + LOGIN_SECONDS,
        }
        return self._signer.sign_login(claims), LOGIN_SECONDS

    def token(self, account: Account, scopes: Sequence[Scope]) -> dict[str, Any]:
        """A token over what `account` may have of `scopes`, as docker's clients want it.

        A push that is refused fails here with a sentence, because the registry itself could only say
        "denied". So does a pull when nothing else was asked for; beside others it is left out, because
        clients ask for more than they need (to mount layers from other repositories).
        """
        granted: list[Scope] = []
        refusal = ""
        projects = self._projects_of(account) if scopes else frozenset()
        for scope in scopes:
            allowed, reason = self._allowed(account, projects, scope)
            actions = tuple(action for action in scope.actions if action in allowed or "*" in allowed)
            if actions != scope.actions and "*" in scope.actions:  # whatever there is to be had
                actions = tuple(sorted(allowed))
            refused = set() if actions and "*" in scope.actions else set(scope.actions) - set(actions)
            if refused:
                refusal = refusal or reason
                if refused != {_PULL}:
                    raise NotAllowedError(reason)
            if actions:
                granted.append(Scope(scope.kind, scope.name, actions))
        if refusal and not granted:
            raise NotAllowedError(refusal)
        now = int(self._clock())
        token = self._signer.sign(
            {
                "iss": self._issuer,
                "aud": self._service,
                "sub": account.name,
                "iat": now,
                "nbf": now,
                "exp": now + TOKEN_SECONDS,
                "jti": secrets.token_hex(8),
                "access": [
                    {"type": scope.kind, "name": scope.name, "actions": list(scope.actions)}
                    for scope in granted
                ],
            }
        )
        return {"token": token, "access_token": token, "expires_in": TOKEN_SECONDS}

    def _by_login(self, username: str, claims: Mapping[str, Any]) -> Account:
        if claims.get("aud") != _LOGIN or claims.get("sub") != username:
            raise NotAuthenticatedError("this is no login of yours")
        if not isinstance(expiry := claims.get("exp"), int) or expiry <= self._clock():
            raise NotAuthenticatedError("this login has expired: call labctl again")
        if claims.get("admin") is True:
            return Account(username, "admin")
        self._require_member(username)
        return Account(username, "member")

    def _require_member(self, username: str) -> None:
        member = self._people.read().members.get(username)
        if member is None or member.disabled:
            raise NotAuthenticatedError("wrong user name or password")

    def _projects_of(self, account: Account) -> frozenset[str]:
        if account.kind != "member":
            return frozenset()
        return frozenset(group.name for group in self._people.read().groups_of(account.name))

    def _allowed(
        self, account: Account, projects: frozenset[str], scope: Scope
    ) -> tuple[frozenset[str], str]:
        """The actions that an account may do, and a sentence on why it is not more."""
        if account.kind == "cluster":
            return frozenset("*"), ""
        if scope.kind != "repository":
            return frozenset(), "only the cluster itself lists repositories: use labctl image ls"
        if account.kind == "node":
            return frozenset({_PULL}), "nodes only pull"
        owner = scope.owner
        if owner == PLATFORM:
            return frozenset(), f"{scope.name}: the images of the platform are the cluster's own"
        if account.kind == "admin":
            return frozenset({_PULL, _PUSH, _DELETE}), ""
        if owner in projects and "/" in scope.name:
            full = self._full(owner) if _PUSH in scope.actions else None
            if full:
                return frozenset({_PULL, _DELETE}), full
            return frozenset({_PULL, _PUSH, _DELETE}), ""
        if owner == COMMON:
            return frozenset({_PULL}), f"{scope.name}: only administrators change the common images"
        mine = ", ".join(sorted(projects)) or "none"
        return (
            frozenset(),
            f"{scope.name}: {account.name} is no member of {owner}; projects: {mine}",
        )

    def _full(self, project: str) -> str | None:
        quota = self._usage.quota(project)
        if quota is None:
            return None
        used = self._usage.used(project)
        if used < quota:
            return None
        return (
            f"project {project} uses {used / GIB:.1f} GiB of its {quota / GIB:g} GiB in the registry:"
            " remove images (labctl image rm) or ask your administrator for more"
        )


def parse_scopes(texts: Iterable[str]) -> list[Scope]:
    """The `scope` parameters of a request; several may stand in one, parted by spaces."""
    scopes = []
    for text in (part for given in texts for part in given.split()):
        kind, separator, rest = text.partition(":")
        name, other, actions = rest.rpartition(":")
        words = tuple(dict.fromkeys(word for word in actions.split(",") if word))
        good = _REPOSITORY.fullmatch(name) and len(name) <= 255 and all(map(_ACTION.fullmatch, words))
        if not (separator and other and kind and good):
            raise UsageError(f"{text!r} is no scope, such as repository:vision/net:pull,push")
        if words:
            scopes.append(Scope(kind, name, words))
    if len(scopes) > _MAX_SCOPES:
        raise UsageError(f"{len(scopes)} scopes at once: at most {_MAX_SCOPES}")
    return scopes


class RegistryQuotas:
    """Implements `Usage`: what the storage holds, and what the Projects say."""

    def __init__(
        self,
        used: Callable[[str], int],
        quotas: Callable[[], Mapping[str, int]],
        *,
        seconds: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._used = used
        self._read = quotas
        self._seconds = seconds
        self._clock = clock
        self._quotas: Mapping[str, int] = {}
        self._read_at: float | None = None

    def used(self, project: str) -> int:
        """Bytes, counted now."""
        return self._used(project)

    def quota(self, project: str) -> int | None:
        """As the Project said when the apiserver was asked last. Without an answer nobody is held up:
        a quota is an agreement, not what keeps the disk from running full."""
        now = self._clock()
        if self._read_at is None or now - self._read_at >= self._seconds:
            self._read_at = now
            try:
                self._quotas = self._read()
            except LabclusterError as error:
                log.warning("quotas stay as they were: %s", error)
        return self._quotas.get(project)
