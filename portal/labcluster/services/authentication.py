"""Who sent a request: a munge credential proves the uid, the directory knows the name."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence
from typing import Protocol

from labcluster.errors import NotAllowedError, NotAuthenticatedError
from labcluster.models.callers import Caller, Credential
from labcluster.models.settings import Admin
from labcluster.services.ports import ClusterView

SCHEME = "Munge"


class CredentialDecoder(Protocol):
    """munged."""

    def decode(self, credential: str) -> Credential:
        """NotAuthenticatedError if it is forged, expired, used before or from a foreign realm."""


class Authenticator:
    """Finds the caller of a request."""

    def __init__(
        self,
        decoder: CredentialDecoder,
        view: ClusterView,
        user_by_uid: Callable[[int], str | None],
        *,
        cluster: str,
        admins: Sequence[Admin],
    ) -> None:
        self._decoder = decoder
        self._view = view
        self._user_by_uid = user_by_uid
        self._cluster = cluster
        self._admins = {admin.uid: admin.name for admin in admins}

    def authenticate(self, authorization: str | None, method: str, target: str, body: bytes) -> Caller:
        """The caller, if his credential was made for exactly this request.

        A credential is bound to method, path, query and body, so that whoever sees one cannot use it
        for anything else; that it is used only once is munged's part.
        """
        scheme, _, credential = (authorization or "").strip().partition(" ")
        if scheme.lower() != SCHEME.lower() or not credential:
            raise NotAuthenticatedError("no munge credential: use labctl on the login node")
        decoded = self._decoder.decode(credential.strip())
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
