"""The output of a run as a stream that waits for its start and survives a lost connection."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from labcluster.errors import ConflictError, LabclusterError, NotFoundError
from labcluster.models.runs import Run, RunState
from labcluster.services.jobs import CONTAINER
from labcluster.services.ports import ClusterView, KubeObject, LogApi, LogStream, RunStore

_POLL = 0.1
# How long after the end of a stream the news of the container's end may take to arrive, in polls.
_END_POLLS = 30
_ASK_STORE_EVERY = 20


def log_file(rank: int) -> str:
    """The file in a run's directory that one of its pods' output is kept in."""
    return f"rank-{rank}.log" if rank else "stdout.log"


class LogTail:
    """The log of one run for one reader."""

    def __init__(
        self,
        run: Run,
        store: RunStore,
        view: ClusterView,
        logs: LogApi,
        user: str,
        follow: bool,
        rank: int = 0,
    ) -> None:
        self._run = run
        self._rank = rank
        self._store = store
        self._view = view
        self._logs = logs
        self._user = user
        self._follow = follow
        self._closed = threading.Event()
        self._stream: LogStream | None = None
        self._last = ""

    def check(self) -> None:
        """Raise what must be said before the first byte is sent."""
        run, pod = self._run, self._view.pod(self._run, self._rank)
        if self._rank >= run.nodes:
            raise NotFoundError(f"run {run.id} has no rank {self._rank}: it has --nodes {run.nodes}")
        if run.state.final and (pod is None or not _started(pod)):
            if run.started_at is None:
                raise ConflictError(f"run {run.id} has no log: it never started ({run.reason or run.state})")
            raise NotFoundError(
                f"the pod of run {run.id} is gone; its log is kept in {run.directory}/{log_file(self._rank)}"
            )
        if not self._follow and (pod is None or not _started(pod)):
            because = f": {run.reason}" if run.reason else ""
            raise ConflictError(f"run {run.id} has no log yet, it is {run.state}{because}")
        if not self._follow and pod is not None:
            # While a refusal can still be told as such.
            self._stream = self._open(pod)

    def close(self) -> None:
        """Stop; wakes a thread that waits for the next line."""
        self._closed.set()
        stream = self._stream
        if stream is not None:
            stream.close()

    def __iter__(self) -> Iterator[bytes]:
        pod = self._wait_for_start()
        while pod is not None and not self._closed.is_set():
            try:
                yield from self._lines(pod)
            except LabclusterError:
                # The headers are sent: what is left to say is said by the run's state.
                if not self._follow:
                    raise
            if not self._follow or self._ended(pod):
                return
            pod = self._view.pod(self._run, self._rank)

    def _lines(self, pod: KubeObject) -> Iterator[bytes]:
        """Lines without their times; a reopened stream begins with some that were sent."""
        sent = self._last
        stream = self._stream or self._open(pod)
        self._stream = stream
        try:
            for line in stream:
                stamp, _, text = line.partition(b" ")
                time = stamp.decode("ascii", "replace")
                if time > sent or not sent:
                    self._last = time
                    yield text
        finally:
            self._stream = None
            stream.close()

    def _open(self, pod: KubeObject) -> LogStream:
        name, since = pod["metadata"]["name"], self._last or None
        return self._logs.open(self._run.namespace, name, user=self._user, follow=self._follow, since=since)

    def _wait_for_start(self) -> KubeObject | None:
        turn = 0
        while not self._closed.is_set():
            pod = self._view.pod(self._run, self._rank)
            if pod is not None and _started(pod):
                return pod
            if turn % _ASK_STORE_EVERY == 0 and turn:
                run = self._store.get(self._run.project, self._run.number, self._run.trial)
                if run is None or run.state.final:
                    return None
            turn += 1
            self._closed.wait(_POLL)
        return None

    def _ended(self, pod: KubeObject) -> bool:
        """Whether the stream ended because the container did, and not the connection."""
        name = pod["metadata"]["name"]
        for turn in range(_END_POLLS):
            now = self._view.pod(self._run, self._rank)
            if now is None or now["metadata"]["name"] != name or _terminated(now):
                return True
            if turn % _ASK_STORE_EVERY == 0:
                try:
                    run = self._store.get(self._run.project, self._run.number, self._run.trial)
                except LabclusterError:
                    run = self._run
                if run is None or run.state in (RunState.CANCELLED, RunState.SUCCEEDED):
                    return True
            if self._closed.wait(_POLL):
                return True
        return False


def _state(pod: KubeObject) -> KubeObject:
    for status in pod.get("status", {}).get("containerStatuses") or []:
        if status["name"] == CONTAINER:
            return dict(status.get("state") or {})
    return {}


def _started(pod: KubeObject) -> bool:
    return bool(_state(pod).keys() & {"running", "terminated"})


def _terminated(pod: KubeObject) -> bool:
    return "terminated" in _state(pod)
