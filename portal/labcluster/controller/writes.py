"""Carries out what has to change in the cluster, several objects at a time."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from labcluster.adapters.kube import MERGE, Json, KubeApi
from labcluster.controller.caches import Caches
from labcluster.errors import LabclusterError, NotFoundError
from labcluster.models.projects import LABEL_PROJECT
from labcluster.services.drift import KINDS, Drift, foreign, key_of, path_of
from labcluster.services.manifests import MANAGER

log = logging.getLogger(__name__)

# Enough to hide the round trips, too few to crowd out other clients of the apiserver.
_WRITERS = 8


@dataclass
class Done:
    """What was really changed (each object with what was there before), and what failed, by project."""

    applied: list[tuple[Json, Json | None]] = field(default_factory=list)
    removed: list[Json] = field(default_factory=list)
    failures: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def fail(self, item: Json, message: str) -> None:
        """Note a failure."""
        kind, namespace, name = key_of(item)
        project = item["metadata"].get("labels", {}).get(LABEL_PROJECT, "")
        self.failures[project].append(f"{kind} {namespace + '/' if namespace else ''}{name}: {message}")
        log.warning("%s", self.failures[project][-1])


class Writer:
    """Applies and removes; one failure does not keep it from the rest."""

    def __init__(self, api: KubeApi, caches: Caches) -> None:
        self._api = api
        self._caches = caches

    def write(self, drift: Drift) -> Done:
        """Carry out everything, and wait until our own copies show it."""
        started = time.monotonic()
        done = Done()
        written = self._apply_all(drift, done)
        for item in drift.remove:
            self._remove(item, done)
        self._caches.settle(written)
        # Drift that is none would be written again at every turn.
        vain = written and not done.applied
        log.log(
            logging.WARNING if vain else logging.INFO,
            "applied %d, changed %d, removed %d, failed %d in %.2f s",
            len(written),
            len(done.applied),
            len(done.removed),
            sum(map(len, done.failures.values())),
            time.monotonic() - started,
        )
        return done

    def _apply_all(self, drift: Drift, done: Done) -> list[Json]:
        written: list[Json] = []
        with ThreadPoolExecutor(_WRITERS, thread_name_prefix="apply") as pool:
            # A namespace must be there before what lies in it; within one stage order does not count.
            for namespaced in (False, True):
                stage = [pair for pair in drift.apply if KINDS[pair[0]["kind"]].namespaced == namespaced]
                answers = pool.map(self._apply, [item for item, _ in stage])
                for (item, there), answer in zip(stage, answers, strict=True):
                    if isinstance(answer, LabclusterError):
                        done.fail(item, f"cannot apply: {answer.detail}")
                        continue
                    written.append({**answer, "kind": item["kind"]})
                    if there is None or _version(there) != _version(answer):
                        done.applied.append((item, there))
        return written

    def _apply(self, item: Json) -> Json | LabclusterError:
        try:
            answer = self._api.apply(path_of(item), item, manager=MANAGER)
            if patch := foreign(answer, item):
                log.warning("removing foreign keys from %s: %s", "/".join(key_of(item)), patch)
                answer = self._api.request("PATCH", path_of(item), body=patch, content_type=MERGE)
            return answer
        except LabclusterError as error:
            return error

    def _remove(self, item: Json, done: Done) -> None:
        log.info("removing %s", "/".join(key_of(item)))
        try:
            self._api.delete(path_of(item))
            done.removed.append(item)
        except NotFoundError:
            """Gone already."""
        except LabclusterError as error:
            done.fail(item, f"cannot remove: {error.detail}")


def protected(drift: Drift, live: Iterable[Json], *, projects: int) -> Drift:
    """The same without its removals when all projects seem to be gone at once.

    The last project can be removed by hand; of several, more likely the definition was removed."""
    namespaces = sum(item["kind"] == "Namespace" for item in live)
    if projects == 0 and namespaces > 1:
        log.error("no Project is left but %d namespaces are: removing nothing", namespaces)
        return Drift(drift.apply, ())
    return drift


def _version(item: Json) -> str:
    return str(item["metadata"].get("resourceVersion"))
