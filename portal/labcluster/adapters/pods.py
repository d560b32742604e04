"""Tokens that the kubelet puts into the pods of runs, checked by the apiserver."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any

from labcluster.adapters.kube import KubeApi
from labcluster.errors import NotAuthenticatedError, NotFoundError
from labcluster.models import labels
from labcluster.models.callers import PodOwner

#: What such a token must be meant for.
AUDIENCE = "labcluster"

_REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"
_NAMESPACE = "project-"
# A verdict is used for so long: the pod of a run that ended may go on writing its record until then.
_KEPT_SECONDS = 60.0
_MAX_KEPT = 10_000


class KubePodTokens:
    """Implements `services.authentication.PodTokens`: TokenReview, then the labels of the token's pod."""

    def __init__(self, api: KubeApi, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: dict[bytes, tuple[float, PodOwner | None]] = {}

    def recognises(self, token: str) -> bool:
        """Whether a token names a pod; read without a look at its signature."""
        try:
            part = token.split(".")[1]
            claims = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        except (ValueError, IndexError):
            return False
        return isinstance(claims, dict) and "kubernetes.io" in claims

    def owner(self, token: str) -> PodOwner:
        """Whose pod it is; NotAuthenticatedError if the token is not good, or not one of a run's pod."""
        key, now = sha256(token.encode()).digest(), self._clock()
        with self._lock:
            until, owner = self._kept.get(key, (0.0, None))
        if now >= until:
            owner = self._review(token)
            with self._lock:
                if len(self._kept) >= _MAX_KEPT:
                    self._kept.clear()
                self._kept[key] = (now + _KEPT_SECONDS, owner)
        if owner is None:
            raise NotAuthenticatedError("this token is not (or no longer) that of a run's pod")
        return owner

    def _review(self, token: str) -> PodOwner | None:
        asked = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [AUDIENCE]},
        }
        status = self._api.create(_REVIEWS, asked).get("status") or {}
        user = status.get("user") or {}
        if not status.get("authenticated") or AUDIENCE not in (status.get("audiences") or []):
            return None
        extra = user.get("extra") or {}
        name = _one(extra.get("authentication.kubernetes.io/pod-name"))
        uid = _one(extra.get("authentication.kubernetes.io/pod-uid"))
        namespace = _namespace(str(user.get("username")))
        if not (name and uid and namespace.startswith(_NAMESPACE)):
            return None
        try:
            pod = self._api.get(f"/api/v1/namespaces/{namespace}/pods/{name}")
        except NotFoundError:
            return None
        return _owner(pod, uid, namespace.removeprefix(_NAMESPACE))


def _one(values: Sequence[str] | None) -> str:
    return values[0] if values else ""


def _namespace(username: str) -> str:
    """Of `system:serviceaccount:<namespace>:<name>`."""
    parts = username.split(":")
    return parts[2] if len(parts) == 4 and parts[:2] == ["system", "serviceaccount"] else ""


def _owner(pod: dict[str, Any], uid: str, project: str) -> PodOwner | None:
    metadata = pod["metadata"]
    said = metadata.get("labels") or {}
    user = said.get(labels.USER)
    if metadata["uid"] != uid or not user or said.get(labels.PROJECT) != project:
        return None
    return PodOwner(user, project)
