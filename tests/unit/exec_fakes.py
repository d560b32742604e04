"""Commands in pods, in memory."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Any

from labcluster.errors import LabclusterError


class FakeExecStream:
    """A command that sends back what it gets, until `end`."""

    def __init__(self, taking: bool) -> None:
        self.succeeded = False
        self.complaint = ""
        self.closed = threading.Event()
        self.got = 0
        self._taking = asyncio.Event()
        if taking:
            self._taking.set()
        self._output: asyncio.Queue[bytes | None] = asyncio.Queue(maxsize=1)
        self._loop = asyncio.get_running_loop()

    def end(self, *, well: bool) -> None:
        """End the command; called by the test's thread."""
        self.succeeded = well
        asyncio.run_coroutine_threadsafe(self._output.put(None), self._loop).result(5)

    def take(self) -> None:
        """Take input from now on."""
        self._loop.call_soon_threadsafe(self._taking.set)

    async def send(self, block: bytes) -> None:
        await self._taking.wait()
        self.got += len(block)
        await self._output.put(block)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (block := await self._output.get()) is not None:
            yield block

    async def close(self) -> None:
        self.closed.set()


class FakeExec:
    """Commands in pods."""

    def __init__(self) -> None:
        self.streams: list[FakeExecStream] = []
        self.asked: list[dict[str, Any]] = []
        self.refusal: LabclusterError | None = None
        self.taking = True

    async def open(
        self, namespace: str, pod: str, container: str, command: Sequence[str], *, user: str
    ) -> FakeExecStream:
        if self.refusal:
            raise self.refusal
        self.asked.append(
            {"namespace": namespace, "pod": pod, "container": container, "command": command, "user": user}
        )
        self.streams.append(FakeExecStream(self.taking))
        return self.streams[-1]
