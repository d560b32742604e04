"""Who used how much of GPUs, processors and storage."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Protocol

from labcluster.errors import (
    NotAllowedError,
    NotAuthenticatedError,
    NotFoundError,
    UnreachableError,
    UsageError,
)
from labcluster.models.callers import Caller
from labcluster.models.usage import (
    Consumption,
    StorageAmount,
    StorageLimits,
    StorageReport,
    Usage,
    UsageLine,
)
from labcluster.services.ports import ClusterView

DEFAULT_DAYS = 30
_GIB = 2**30


class UsageStore(Protocol):
    """What is remembered of usage."""

    def consumed(
        self, since: datetime, until: datetime, projects: frozenset[str] | None, user: str | None
    ) -> tuple[Sequence[Consumption], Sequence[Consumption]]:
        """By project and by user, for runs of these projects (None: all) and this user (None: all)."""

    def keep_storage(self, report: StorageReport) -> None:
        """Remember the newest report of the file server."""

    def storage(self) -> StorageReport | None:
        """The newest report."""


class UsageService:
    """Answers `labctl usage`, and takes what the file server counts."""

    def __init__(
        self,
        store: UsageStore,
        view: ClusterView,
        images: Callable[[], Mapping[str, int]],
        storage_token_sha256: str | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store = store
        self._view = view
        self._images = images
        self._token = storage_token_sha256
        self._clock = clock

    def usage(
        self,
        caller: Caller,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        project: str | None = None,
        user: str | None = None,
    ) -> Usage:
        """What was used from `since` (30 days ago) to `until` (now).

        A member sees his projects, and of their users what these did there; an administrator sees all.
        """
        end = min(_aware(until) or self._clock(), self._clock())
        start = _aware(since) or end - timedelta(days=DEFAULT_DAYS)
        if start >= end:
            raise UsageError(f"the time to look at ends ({end:%F %T}) before it begins ({start:%F %T})")
        mine = frozenset(self._view.memberships(caller.user))
        if project is not None:
            if self._view.project(project) is None:
                raise NotFoundError(f"there is no project {project!r}")
            if project not in mine and not caller.admin:
                raise NotAllowedError(f"{caller.user} is no member of project {project}")
        seen = frozenset({project}) if project else None if caller.admin else mine
        by_project, by_user = self._store.consumed(start, end, seen, user)
        report = self._store.storage()
        shares = {share.name: share for share in self._view.projects()}
        listed = shares.keys() if seen is None else seen & shares.keys()
        limits = {name: shares[name].storage_gib * _GIB or None for name in listed}
        people = report.people if report else {}
        if not caller.admin or project:
            # What others keep at home is theirs.
            people = {name: amount for name, amount in people.items() if name == caller.user}
        if user is not None:
            people = {name: amount for name, amount in people.items() if name == user}
        return Usage(
            since=start,
            until=end,
            projects=self._with_images(
                _lines(by_project, set(listed), report.projects if report else {}, limits)
            ),
            users=_lines(by_user, set(people), people, {}),
            storage_measured_at=report.measured_at if report else None,
            storage_enforced=report.quotas if report else False,
        )

    def _with_images(self, lines: list[UsageLine]) -> list[UsageLine]:
        try:
            used = self._images()
        except UnreachableError:  # the rest is worth having without it
            return lines
        return [line.model_copy(update={"registry_bytes": used.get(line.name, 0)}) for line in lines]

    def take_storage(self, token: str | None, report: StorageReport) -> StorageLimits:
        """Keep what the file server counted and tell it the limits. NotAuthenticatedError for others."""
        digest = hashlib.sha256((token or "").encode()).hexdigest()
        if not self._token or not hmac.compare_digest(digest, self._token):
            raise NotAuthenticatedError("only the file server reports what is stored")
        self._store.keep_storage(report)
        return StorageLimits(
            projects={
                share.name: share.storage_gib * _GIB for share in self._view.projects() if share.storage_gib
            }
        )


def _aware(moment: datetime | None) -> datetime | None:
    return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment


def _lines(
    consumed: Sequence[Consumption],
    also: set[str],
    stored: Mapping[str, StorageAmount],
    limits: Mapping[str, int | None],
) -> list[UsageLine]:
    """One line for whoever ran or may store something, those who used most first."""
    known = {line.name: line for line in consumed}
    lines = []
    for name in known.keys() | also:
        line = known.get(name) or Consumption(
            name=name, runs=0, gpu_hours=0.0, cpu_hours=0.0, wait_seconds=None
        )
        amount = stored.get(name)
        lines.append(
            UsageLine(
                **line.model_dump(),
                storage_bytes=amount.bytes if amount else None,
                storage_files=amount.files if amount else None,
                storage_limit_bytes=limits.get(name),
            )
        )
    return sorted(lines, key=lambda line: (-line.gpu_hours, -line.cpu_hours, line.name))
