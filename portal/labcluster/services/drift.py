"""Where the cluster differs from what it should be, and what to do about it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]
# kind, namespace ("" for cluster-scoped kinds), name
Key = tuple[str, str, str]


@dataclass(frozen=True)
class Kind:
    """Where objects of a kind are, and which parts of them must hold nothing but what we say."""

    root: str
    plural: str
    namespaced: bool
    exact: tuple[str, ...] = ()

    @property
    def collection(self) -> str:
        """The path of all objects of the kind."""
        return f"{self.root}/{self.plural}"

    @property
    def api_version(self) -> str:
        """As it stands in an object."""
        return self.root.removeprefix("/apis/").removeprefix("/api/")

    def path(self, namespace: str, name: str) -> str:
        """The path of one object."""
        middle = f"/namespaces/{namespace}" if self.namespaced else ""
        return f"{self.root}{middle}/{self.plural}/{name}"


_KUEUE = "/apis/kueue.x-k8s.io/v1beta2"
_RBAC = "/apis/rbac.authorization.k8s.io/v1"

# In the order in which objects are made. Exact is what decides who may do what: a foreign key in the members'
# parameters would be a foreign member.
KINDS: Mapping[str, Kind] = {
    "Cohort": Kind(_KUEUE, "cohorts", False),
    "ClusterRole": Kind(_RBAC, "clusterroles", False, ("rules",)),
    "Namespace": Kind("/api/v1", "namespaces", False),
    "ClusterQueue": Kind(_KUEUE, "clusterqueues", False),
    "PersistentVolume": Kind("/api/v1", "persistentvolumes", False),
    "NetworkPolicy": Kind("/apis/networking.k8s.io/v1", "networkpolicies", True, ("spec",)),
    "ConfigMap": Kind("/api/v1", "configmaps", True, ("data", "binaryData")),
    "ServiceAccount": Kind("/api/v1", "serviceaccounts", True),
    "Service": Kind("/api/v1", "services", True),
    "ResourceQuota": Kind("/api/v1", "resourcequotas", True),
    "LimitRange": Kind("/api/v1", "limitranges", True),
    "PersistentVolumeClaim": Kind("/api/v1", "persistentvolumeclaims", True),
    "LocalQueue": Kind(_KUEUE, "localqueues", True),
    "RoleBinding": Kind(_RBAC, "rolebindings", True, ("subjects", "roleRef")),
}
_ORDER = {kind: place for place, kind in enumerate(KINDS)}


@dataclass(frozen=True)
class Drift:
    """What to apply (with what is there now), and what to remove."""

    apply: tuple[tuple[Object, Object | None], ...]
    remove: tuple[Object, ...]

    def __bool__(self) -> bool:
        return bool(self.apply or self.remove)


def key_of(item: Mapping[str, Any]) -> Key:
    """What names an object."""
    metadata = item["metadata"]
    return item["kind"], metadata.get("namespace", ""), metadata["name"]


def path_of(item: Mapping[str, Any]) -> str:
    """Where an object is."""
    kind, namespace, name = key_of(item)
    return KINDS[kind].path(namespace, name)


def compare(desired: Iterable[Object], live: Mapping[Key, Object]) -> Drift:
    """What to do so that `live`, all objects that carry our label, becomes `desired`."""
    wanted = {key_of(item): item for item in desired}
    leaving = {
        item["metadata"]["name"]
        for item in live.values()
        if item["kind"] == "Namespace" and _is_leaving(item)
    }
    apply: list[tuple[Object, Object | None]] = []
    remove: list[Object] = []
    for key, item in sorted(wanted.items(), key=lambda pair: (_ORDER[pair[0][0]], pair[0])):
        # A namespace that is going takes nothing new; it comes back when it is gone.
        if key[1] in leaving or (key[0] == "Namespace" and key[2] in leaving):
            continue
        there = live.get(key)
        if there is None:
            apply.append((item, None))
        elif _must_be_replaced(there, item):
            remove.append(there)
        elif not covers(there, item) or not _exact(there, item):
            apply.append((item, there))
    gone = [item for key, item in live.items() if key not in wanted and not _is_leaving(item)]
    # What lies in a namespace goes with it.
    names = {item["metadata"]["name"] for item in gone if item["kind"] == "Namespace"} | leaving
    gone = [item for item in gone if item["metadata"].get("namespace") not in names]
    remove += sorted(gone, key=lambda item: (-_ORDER[item["kind"]], key_of(item)))
    return Drift(tuple(apply), tuple(remove))


def covers(live: Any, desired: Any) -> bool:
    """Whether all of `desired` stands in `live`, which may hold more: defaults, and what others own."""
    if isinstance(desired, Mapping):
        if not isinstance(live, Mapping):
            return not desired and live is None
        return all(covers(live.get(key), value) for key, value in desired.items())
    if isinstance(desired, (list, tuple)):
        live = [] if live is None else live
        return (
            isinstance(live, (list, tuple))
            and len(live) == len(desired)
            and all(covers(there, item) for there, item in zip(live, desired, strict=True))
        )
    # The apiserver leaves out what is empty.
    return bool(live == desired) or (desired == "" and live is None)


def _exact(live: Object, desired: Object) -> bool:
    return all(
        (live.get(part) or None) == (desired.get(part) or None) for part in KINDS[desired["kind"]].exact
    )


def foreign(live: Object, desired: Object) -> Object:
    """A merge patch that takes out what others wrote and server-side apply has left: their keys of a map."""
    patch: Object = {}
    for part in KINDS[desired["kind"]].exact:
        there, ours = live.get(part), desired.get(part) or {}
        if isinstance(there, Mapping) and isinstance(ours, Mapping) and (more := there.keys() - ours.keys()):
            patch[part] = dict.fromkeys(sorted(more))
    return patch


def _is_leaving(item: Mapping[str, Any]) -> bool:
    return bool(item["metadata"].get("deletionTimestamp"))


def _must_be_replaced(live: Object, desired: Object) -> bool:
    """What Kubernetes lets nobody change: the role of a binding; a volume whose claim was removed, and a
    claim whose volume was. Nothing but the object goes, the tree itself is no part of it."""
    if _is_leaving(live):
        return False
    if live["kind"] == "RoleBinding":
        return bool(live.get("roleRef") != desired.get("roleRef"))
    return live.get("status", {}).get("phase") in ("Released", "Failed", "Lost")
