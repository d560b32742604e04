"""What the apiserver has lately judged good, so that it need not judge every run of a kind again."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable
from typing import Any

from labcluster.services.ports import KubeObject

# A policy that changes is felt after so long; until then the reconciler tells of its refusals.
_SECONDS = 20.0
_MAX_SHAPES = 10_000


class Rehearsals:
    """Shapes of Jobs that passed a dry run.

    A shape is the Job without what no policy looks at: the values of the command's own words and
    variables, the working directory, the number. It is kept together with the facts about the user and
    his project that it was judged under.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._passed: dict[str, float] = {}

    def known(self, job: KubeObject, facts: object) -> bool:
        """Whether a Job of this shape passed a short time ago."""
        with self._lock:
            return self._passed.get(_shape(job, facts), float("-inf")) + _SECONDS > self._clock()

    def keep(self, job: KubeObject, facts: object) -> None:
        """Note that it passed."""
        with self._lock:
            if len(self._passed) >= _MAX_SHAPES:
                self._passed.clear()
            self._passed[_shape(job, facts)] = self._clock()

    def forget(self) -> None:
        """A Job was refused that had passed: ask again for all."""
        with self._lock:
            self._passed.clear()


def _shape(job: KubeObject, facts: object) -> str:
    template = job["spec"]["template"]["spec"]
    pod = {
        **template,
        **{
            group: [_container(container) for container in template.get(group, ())]
            for group in ("initContainers", "containers")
        },
    }
    metadata = job["metadata"]
    kept: dict[str, Any] = {
        **job["spec"],
        "template": sorted(job["spec"]["template"]["metadata"]["labels"]),
        "pod": pod,
        "namespace": metadata["namespace"],
        "labels": {key: value for key, value in metadata["labels"].items() if not key.endswith("/run")},
        "annotations": sorted(metadata["annotations"]),
    }
    text = json.dumps(kept, sort_keys=True) + repr(facts)
    return hashlib.sha256(text.encode()).hexdigest()


def _container(container: KubeObject) -> dict[str, Any]:
    own = {"command": len(container["command"]) > 0, "env": [one["name"] for one in container.get("env", ())]}
    return {**container, **own, "workingDir": "workingDir" in container}
