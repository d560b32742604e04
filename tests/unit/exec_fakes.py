"""Commands in pods, in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from labcluster.errors import LabclusterError


class FakeExecStream:
    """A command that sends back what it gets, until it is told to end."""

    def __init__(self) -> None:
        self.got = bytearray()
        self.closed = False
        self.succeeded = False
        self.complaint = ""
        self.output: asyncio.Queue[bytes | None] = asyncio.Queue(maxsize=1)

    async def send(self, block: bytes) -> None:
        self.got += block
        await self.output.put(block)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (block := await self.output.get()) is not None:
            yield block

    async def close(self) -> None:
        self.closed = True


class FakeExec:
    """Commands in pods."""

    def __init__(self) -> None:
        self.streams: list[FakeExecStream] = []
        self.asked: list[dict[str, Any]] = []
        self.refusal: LabclusterError | None = None

    async def open(
        self, namespace: str, pod: str, container: str, command: Sequence[str], *, user: str
    ) -> FakeExecStream:
        if self.refusal:
            raise self.refusal
        self.asked.append(
            {"namespace": namespace, "pod": pod, "container": container, "command": command, "user": user}
        )
        self.streams.append(FakeExecStream())
        return self.streams[-1]
