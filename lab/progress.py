"""Progress of long work: one line a stage with the elapsed time, everything else in a log file."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

#: Lines of the log shown when a command fails: enough to see an Ansible task with its message.
FAILURE_LINES = 40


class StageError(Exception):
    """A stage's command failed; the message says which, with what code, and where its log is."""


def clock(seconds: float) -> str:
    """``mm:ss``, as shown before each progress line."""
    return f"{int(seconds) // 60:02d}:{int(seconds) % 60:02d}"


class Progress:
    """Runs commands as named stages.

    On a terminal the current step is one line that is overwritten; elsewhere every step that
    ``headline`` finds in the output is a plain line. The whole output goes to ``<log_dir>/<stage>.log``.
    """

    def __init__(self, log_dir: Path) -> None:
        self.log_dir = log_dir
        self.began = time.monotonic()
        self.console = Console(highlight=False, soft_wrap=True)
        self.times: dict[str, float] = {}
        log_dir.mkdir(parents=True, exist_ok=True)

    def say(self, stage: str, text: str) -> None:
        """One plain progress line: elapsed time, stage, text."""
        self.console.print(f"[{clock(time.monotonic() - self.began)}] {stage}: {text}", markup=False)

    def run(
        self,
        stage: str,
        command: Sequence[str],
        *,
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
        headline: Callable[[str], str | None] | None = None,
        show: bool = False,
    ) -> None:
        """Run one command as a stage and keep its time; raises StageError on a non-zero exit.

        headline: maps an output line to the step it announces, or None; none announces nothing.
        show: print every line as it is, for commands that report their own progress.
        """
        started = time.monotonic()
        log = self.log_dir / f"{stage}.log"
        with log.open("w") as file, self.console.status("") as status:
            if show or not sys.stdout.isatty():
                status.stop()
            process = subprocess.Popen(
                command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, text=True, errors="replace",
            )  # fmt: skip
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    file.write(line)
                    if show:
                        self.console.print(line.rstrip("\n"), markup=False)
                    elif headline and (step := headline(line.rstrip())):
                        self._step(stage, step, status)
            except KeyboardInterrupt:
                process.wait()
                raise
            code = process.wait()
        self.times[stage] = self.times.get(stage, 0.0) + time.monotonic() - started
        if code:
            tail = "".join(log.read_text(errors="replace").splitlines(keepends=True)[-FAILURE_LINES:])
            raise StageError(
                f"{'' if show else tail}\n{stage} failed with exit code {code}; its whole output: {log}"
            )

    def _step(self, stage: str, step: str, status: object) -> None:
        if sys.stdout.isatty():
            status.update(f"[{clock(time.monotonic() - self.began)}] {stage}: {step}")  # type: ignore[attr-defined]
        else:
            self.say(stage, step)

    def summary(self) -> None:
        """Print how long each stage took, and the whole."""
        for stage, seconds in self.times.items():
            self.console.print(f"  {clock(seconds)}  {stage}", markup=False)
        self.console.print(f"  {clock(time.monotonic() - self.began)}  in all", markup=False)
