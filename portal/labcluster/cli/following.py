"""Staying with a run until its end."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import Any

from labcluster.adapters.portal import BrokenConnectionError, Portal
from labcluster.cli import output
from labcluster.cli.main import INTERRUPTED
from labcluster.errors import ConflictError, LabclusterError, NotFoundError, UnreachableError

#: How long a portal may be away before we give up; the run does not need it.
_PATIENCE_SECONDS = 600.0
_FIRST_POLL, _LAST_POLL = 0.2, 5.0


class Follower:
    """One run's progress on standard error, and its output on standard output."""

    def __init__(self, portal: Portal, run: dict[str, Any], *, quiet: bool = False, rank: int = 0) -> None:
        self.run = run
        self._rank = rank
        self._portal = portal
        self._quiet = quiet
        self._said = ""
        self._sent = 0
        self._lost_since: float | None = None
        self._begun = time.monotonic()

    @property
    def over(self) -> bool:
        """Whether the run has ended."""
        return self.run["state"] not in output.ACTIVE

    def until_over(self) -> None:
        """Ask until the run has ended."""
        while not self.over:
            self._poll()
        self._say()

    def until_started(self) -> None:
        """Ask until the run prints, or has ended."""
        while self.run["state"] in ("queued", "starting"):
            self._poll()
        self._say()

    def print_log(self) -> None:
        """Copy what the run prints until its end; after a broken connection, go on where it broke."""
        self._begun = time.monotonic()
        while True:
            try:
                self._copy_log()
                self._refresh()
                if self.over or self._sent:
                    return
            except BrokenConnectionError:
                self._refresh()
            except UnreachableError as error:
                self._lost(error)
            except (ConflictError, NotFoundError):  # it has no log yet, or never had one, or its pod is gone
                self._refresh()
                if self.over:
                    print_file(self.run, skip=self._sent, rank=self._rank)
                    return
            time.sleep(_FIRST_POLL)

    def _copy_log(self) -> None:
        skip = self._sent
        out = sys.stdout.buffer
        query = {"follow": True, **of_rank(self._rank)}
        for block in self._portal.stream(f"/runs/{self.run['id']}/logs", query):
            self._lost_since = None
            fresh = block[skip:]
            skip = max(0, skip - len(block))
            if fresh:
                out.write(fresh)
                out.flush()
                self._sent += len(fresh)

    def _poll(self) -> None:
        self._say()
        # A short run is seen at once, a long one does not cost the portal much.
        time.sleep(min(_LAST_POLL, _FIRST_POLL + 0.03 * (time.monotonic() - self._begun)))
        self._refresh()

    def _refresh(self) -> None:
        try:
            self.run = self._portal.get(f"/runs/{self.run['id']}")
        except UnreachableError as error:
            self._lost(error)
        else:
            self._lost_since = None

    def _lost(self, error: UnreachableError) -> None:
        now = time.monotonic()
        if self._lost_since is None:
            self._lost_since = now
            output.say(f"{self.run['id']} was accepted and goes on; the portal does not answer, trying again")
        elif now - self._lost_since > _PATIENCE_SECONDS:
            raise LabclusterError(
                f"{self.run['id']} was accepted, but the portal is away since {_PATIENCE_SECONDS:.0f} s:"
                f" labctl show {self.run['id']} tells later how it ended ({error.detail})"
            )

    def _say(self) -> None:
        line = output.state_line(self.run)
        if line != self._said and not self._quiet and not self.over:
            output.say(line)
        self._said = line


def of_rank(rank: int) -> dict[str, Any]:
    """What the portal is asked for the log of one of a run's pods."""
    return {"rank": rank} if rank else {}


def print_file(run: dict[str, Any], skip: int = 0, rank: int = 0) -> bool:
    """Copy a run's stdout.log, without its first bytes; False if the caller may not read it here."""
    name = f"rank-{rank}.log" if rank else "stdout.log"
    try:
        with (Path(run["directory"]) / name).open("rb") as log:
            log.seek(skip)
            shutil.copyfileobj(log, sys.stdout.buffer, 1 << 20)
    except BrokenPipeError:
        raise
    except OSError:
        return False
    sys.stdout.buffer.flush()
    return True


def wait_for_end(
    portal: Portal, run: dict[str, Any], *, logs: bool, as_json: bool = False, rank: int = 0
) -> int:
    """Stay with a run; answers the exit status for labctl. Ctrl-C leaves it running."""
    follower = Follower(portal, run, quiet=as_json, rank=rank)
    try:
        if logs:
            follower.until_started()
            follower.print_log()
        follower.until_over()
    except KeyboardInterrupt:
        run_id = run["id"]
        output.say(
            f"\n{run_id} goes on without you: labctl logs -f {run_id} shows it again,"
            f" labctl cancel {run_id} ends it"
        )
        return INTERRUPTED
    if as_json:
        output.emit_json(follower.run)
    else:
        output.say(output.state_line(follower.run))
    return exit_status(follower.run)


def exit_status(run: dict[str, Any]) -> int:
    """The run's own exit status; 1 if it has none or one that hides what happened."""
    if run["state"] == "succeeded":
        return 0
    return run["exit_code"] or 1
