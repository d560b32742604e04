"""What becomes of the runs of those who may not run them any more: they are cancelled, with a sentence.

The reconciler removes the Jobs of cancelled runs, so that it is enough to say it in the table.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Protocol

from labcluster.models.members import Directory
from labcluster.models.runs import Run, RunChange, RunState

log = logging.getLogger(__name__)


class RunTable(Protocol):
    """The run table, as `adapters.postgres` offers it."""

    def active(self) -> Sequence[Run]: ...
    def change(self, run: Run, change: RunChange) -> bool: ...


def cancel(store: RunTable, runs: Iterable[Run], reason: str) -> None:
    """End runs in the table."""
    for run in runs:
        update = {"state": RunState.CANCELLED, "reason": reason, "finished_at": datetime.now(UTC)}
        store.change(run, RunChange.of(run).model_copy(update=update))


def why_departed(directory: Directory, project: str, user: str) -> str | None:
    """Why somebody may not run things in a project any more; None if he may, or if it is not certain.

    Only what the directory says plainly counts. A missing entry, or a group with another gid, may be a
    mistake that is put right in a minute: it bars new runs, but must cost nobody the running ones.
    """
    member = directory.members.get(user)
    if member is not None and member.disabled:
        return f"{user} was disabled"
    group = directory.groups.get(project)
    if group is not None and member is not None and user not in group.members:
        return f"{user} is no member of project {project} any more"
    if group is None and any(old.name == project for old in directory.removed):
        return f"project {project} was removed"
    return None


def cancel_departed(store: RunTable, directory: Directory) -> None:
    """Cancel the runs of everybody who left their project, or was disabled."""
    for run in store.active():
        if reason := why_departed(directory, run.project, run.user):
            log.info("run %s is cancelled: %s", run.id, reason)
            cancel(store, [run], reason)
