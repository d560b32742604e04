"""Progress: running times on a terminal, plain lines elsewhere; what tools print goes to a log file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from builder.errors import BuildError


def elapsed(seconds: float) -> str:
    """A short duration: 4.2 s, 3 min 07 s."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


class Progress:
    """Reports steps on a stream, also such as run side by side."""

    def __init__(self, total: int, *, quiet: bool = False, stream: TextIO = sys.stderr) -> None:
        self._total = total
        self._quiet = quiet
        self._stream = stream
        self._number = 0
        self._width = 0
        self._lock = threading.RLock()
        self._begun: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Show that something is being built until it is over."""
        over = threading.Event()
        terminal = self._stream.isatty() and not self._quiet
        with self._lock:
            self._begun[name] = time.monotonic()
            if not terminal:
                self._print(f"[{self._number + len(self._begun):>2}/{self._total}] {name}: building")

        def tick() -> None:
            self._show()
            while not over.wait(1):
                self._show()

        ticker = threading.Thread(target=tick, daemon=True)
        if terminal:
            ticker.start()
        try:
            yield
        finally:
            over.set()
            if terminal:
                ticker.join()
            with self._lock:
                took = elapsed(time.monotonic() - self._begun.pop(name))
                if terminal:
                    self._clear()
        self.line(name, f"built in {took}")

    def note(self, name: str, text: str) -> None:
        """Something worth knowing that is no step."""
        self._print(f"{name}: {text}")

    def skip(self) -> None:
        """A step with nothing to do is counted, not shown."""
        with self._lock:
            self._number += 1

    def line(self, name: str, text: str) -> None:
        """One finished step."""
        with self._lock:
            self._number += 1
            self._print(f"[{self._number:>2}/{self._total}] {name}: {text}")

    def _print(self, text: str) -> None:
        if not self._quiet:
            print(text, file=self._stream, flush=True)

    def _show(self) -> None:
        """What is being built, and for how long, in one line that the next one takes the place of."""
        with self._lock:
            now = time.monotonic()
            steps = ", ".join(f"{name} {elapsed(now - begun)}" for name, begun in self._begun.items())
            text = f"[{self._number + 1:>2}/{self._total}] building {steps}"
            self._stream.write(f"\r{text.ljust(self._width)}")
            self._stream.flush()
            self._width = len(text)

    def _clear(self) -> None:
        self._stream.write(f"\r{' ' * self._width}\r")
        self._stream.flush()
        self._width = 0


class Processes:
    """Programs that run in any thread, to be ended together."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._over = False

    def run(
        self, command: list[str], *, cwd: Path | None, env: Mapping[str, str] | None, output: TextIO
    ) -> int:
        """The exit status of a program, which writes into a file; BuildError once all have been ended."""
        with self._lock:
            if self._over:
                raise BuildError(f"`{command[0]}` was not begun: the build ends")
            process = subprocess.Popen(
                command, cwd=cwd, env=env, stdout=output, stderr=output, stdin=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip
            self._running.add(process)
        try:
            return process.wait()
        finally:
            with self._lock:
                self._running.discard(process)

    def end(self) -> None:
        """End what runs, with its children, and begin nothing any more."""
        with self._lock:
            self._over = True
            running = list(self._running)
        for process in running:
            _signal(process, signal.SIGTERM)
        for process in running:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                _signal(process, signal.SIGKILL)


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # it has ended by itself
        os.killpg(process.pid, number)


class Runner:
    """Runs programs with their output in one log file; a failure shows its last lines."""

    def __init__(self, log: Path, processes: Processes) -> None:
        self._log = log
        self._processes = processes
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("")

    def run(
        self, command: list[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        """Run a program to its end."""
        with self._log.open("a") as log:
            log.write("+ " + " ".join(command) + "\n")
            log.flush()
            try:
                status = self._processes.run(command, cwd=cwd, env=env, output=log)
            except FileNotFoundError as error:
                raise BuildError(f"{command[0]} is not installed; run `make setup`") from error
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
