"""Progress: running times on a terminal, plain lines elsewhere; what tools print goes to a log file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from builder.errors import BuildError


def elapsed(seconds: float) -> str:
    """A short duration: 4.2 s, 3 min 07 s."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


class Progress:
    """Reports one step after another on a stream."""

    def __init__(self, total: int, *, quiet: bool = False, stream: TextIO = sys.stderr) -> None:
        self._total = total
        self._quiet = quiet
        self._stream = stream
        self._number = 0
        self._width = 0

    @contextmanager
    def step(self, name: str, doing: str) -> Iterator[None]:
        """Show that something is being done until it is over."""
        started = time.monotonic()
        over = threading.Event()
        terminal = self._stream.isatty() and not self._quiet
        label = f"[{self._number + 1:>2}/{self._total}] {name}: {doing}"
        if not terminal and not self._quiet:
            print(label, file=self._stream, flush=True)

        def tick() -> None:
            while not over.wait(1):
                self._show(f"{label} {elapsed(time.monotonic() - started)}")

        ticker = threading.Thread(target=tick, daemon=True)
        if terminal:
            self._show(label)
            ticker.start()
        try:
            yield
        except BaseException:
            over.set()
            if terminal:
                self._show("")
            raise
        over.set()
        if terminal:
            ticker.join()
            self._show("")
        self.line(name, f"built in {elapsed(time.monotonic() - started)}")

    def note(self, name: str, text: str) -> None:
        """Something worth knowing that is no step."""
        if not self._quiet:
            print(f"{name}: {text}", file=self._stream, flush=True)

    def skip(self) -> None:
        """A step with nothing to do is counted, not shown."""
        self._number += 1

    def line(self, name: str, text: str) -> None:
        """One finished step."""
        self._number += 1
        if not self._quiet:
            print(f"[{self._number:>2}/{self._total}] {name}: {text}", file=self._stream, flush=True)

    def _show(self, text: str) -> None:
        self._stream.write(f"\r{text.ljust(self._width)}" + ("" if text else "\r"))
        self._stream.flush()
        self._width = len(text)


class Runner:
    """Runs programs with their output in one log file; a failure shows its last lines."""

    def __init__(self, log: Path) -> None:
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("")

    def run(
        self, command: list[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        """Run a program to its end; when we are interrupted, it and its children are too."""
        with self._log.open("a") as log:
            log.write("+ " + " ".join(command) + "\n")
            log.flush()
            try:
                process = subprocess.Popen(
                    command, cwd=cwd, env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )  # fmt: skip
            except FileNotFoundError as error:
                raise BuildError(f"{command[0]} is not installed; run `make setup`") from error
            try:
                status = process.wait()
            except BaseException:
                os.killpg(process.pid, signal.SIGTERM)
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                raise
        if status != 0:
            tail = "\n".join("    " + line for line in self._log.read_text().splitlines()[-15:])
            raise BuildError(
                f"`{' '.join(command[:3])} …` failed with status {status}; log {self._log}:\n{tail}"
            )

    def output(self, command: list[str], *, env: Mapping[str, str] | None = None) -> str:
        """The standard output of a short program."""
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise BuildError(f"`{' '.join(command[:3])} …` failed: {done.stderr.strip()[-400:]}")
        return done.stdout.strip()
