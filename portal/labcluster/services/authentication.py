"""Who sent a request. On the login node a munge credential proves the uid and the directory knows the name;
elsewhere a token of Dex proves the name; a browser has a session that began with such a token."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from labcluster.errors import NotAllowedError, NotAuthenticatedError
from labcluster.models.callers import BrowserLogin, Caller, Credential, PodOwner, TokenOwner
from labcluster.models.settings import Admin
from labcluster.services.ports import ClusterView

MUNGE = "munge"
BEARER = "bearer"


class CredentialDecoder(Protocol):
    """munged."""

    def decode(self, credential: str) -> Credential:
        """NotAuthenticatedError if it is forged, expired, used before or from a foreign realm."""


class TokenVerifier(Protocol):
    """Dex's keys."""

    def owner(self, token: str, audiences: Collection[str]) -> TokenOwner:
        """NotAuthenticatedError if it is forged, expired or meant for others."""


class PodTokens(Protocol):
    """Tokens that the kubelet puts into the pods of runs."""

    def recognises(self, token: str) -> bool:
        """Whether this looks like a pod's token and not like one of Dex; proves nothing."""

    def owner(self, token: str) -> PodOwner:
        """NotAuthenticatedError if it is forged, expired, meant for others, or its pod is gone."""


class BrowserLogins(Protocol):
    """Logins by Dex's page."""

    def begin(self) -> tuple[str, BrowserLogin]:
        """Where to send the browser, and what it must bring back."""

    def finish(self, login: BrowserLogin, state: str, code: str) -> TokenOwner:
        """NotAuthenticatedError if this is not the end of that beginning, UnreachableError without Dex."""


class Authenticator:
    """Finds the caller of a request."""

    def __init__(
        self,
        decoder: CredentialDecoder,
        view: ClusterView,
        user_by_uid: Callable[[int], str | None],
        uid_by_user: Callable[[str], int | None] = lambda _: None,
        *,
        cluster: str,
        admins: Sequence[Admin],
        tokens: TokenVerifier | None = None,
        audiences: Collection[str] = (),
        pods: PodTokens | None = None,
    ) -> None:
        self._decoder = decoder
        self._view = view
        self._user_by_uid = user_by_uid
        self._uid_by_user = uid_by_user
        self._cluster = cluster
        self._admins = {admin.uid: admin.name for admin in admins}
        self._tokens = tokens
        self._audiences = audiences
        self._pods = pods

    def authenticate(
        self, authorization: str | None, method: str, target: str, body: bytes, *, pods: bool = False
    ) -> Caller:
        """The caller, by the request's Authorization header; `pods`: a pod's token is good here too."""
        scheme, _, credential = (authorization or "").strip().partition(" ")
        if scheme.lower() == MUNGE and credential:
            return self._by_munge(credential.strip(), method, target, body)
        if pods and scheme.lower() == BEARER and self._pods and self._pods.recognises(credential.strip()):
            return self._by_pod(self._pods.owner(credential.strip()))
        if scheme.lower() == BEARER and credential and self._tokens is not None:
            return self.member(self._tokens.owner(credential.strip(), self._audiences).user)
        elsewhere = ", or labctl login elsewhere" if self._tokens is not None else ""
        raise NotAuthenticatedError(f"no credential: use labctl on the login node{elsewhere}")

    def member(self, user: str) -> Caller:
        """A member whose name was proven. Administrators are local users of the nodes: no token makes one."""
        uid = next((member.uid for member in self._view.memberships(user).values()), None)
        uid = self._uid_by_user(user) if uid is None else uid
        if uid is None:
            raise NotAllowedError(
                f"{user} is no member of this cluster (any more): ask your administrator for an account"
            )
        return Caller(user, uid)

    def _by_pod(self, owner: PodOwner) -> Caller:
        """A run acts for its user in its own project, as long as he is a member of it."""
        member = self._view.memberships(owner.user).get(owner.project)
        if member is None:
            raise NotAllowedError(f"{owner.user} is no member of project {owner.project} (any more)")
        return Caller(owner.user, member.uid, project=owner.project)

    def _by_munge(self, credential: str, method: str, target: str, body: bytes) -> Caller:
        """A credential is bound to method, path, query and body, so that whoever sees one cannot use it
        for anything else; that it is used only once is munged's part."""
        decoded = self._decoder.decode(credential)
        if not hmac.compare_digest(decoded.payload, payload(self._cluster, method, target, body)):
            raise NotAuthenticatedError("this credential was made for another request or another cluster")
        admin = self._admins.get(decoded.uid)
        if admin is not None:
            return Caller(admin, decoded.uid, admin=True)
        user = self._view.user_by_uid(decoded.uid) or self._user_by_uid(decoded.uid)
        if user is None:
            raise NotAllowedError(
                f"uid {decoded.uid} is no member of this cluster: ask your administrator for an account"
            )
        return Caller(user, decoded.uid)


def payload(cluster: str, method: str, target: str, body: bytes) -> bytes:
    """What a credential for a request must say; `target` is the path with its query, as sent."""
    digest = hashlib.sha256(body).hexdigest()
    return f"labcluster:{cluster}\n{method} {target}\n{digest}".encode()
