"""What the database knows of usage, in memory."""

from __future__ import annotations

from datetime import datetime

from labcluster.errors import UnreachableError
from labcluster.models.usage import Consumption, StorageReport


class FakeUsage:
    """Implements `services.usage.UsageStore`: sums that are given, and the newest report."""

    def __init__(self) -> None:
        self.runs: list[tuple[str, str, float, float]] = []
        self.report: StorageReport | None = None
        self.stored_images: dict[str, int] | None = {"vision": 5000}
        self.asked: list[tuple[datetime, datetime]] = []

    def consumed(
        self, since: datetime, until: datetime, projects: frozenset[str] | None, user: str | None
    ) -> tuple[list[Consumption], list[Consumption]]:
        self.asked.append((since, until))
        seen = [
            run
            for run in self.runs
            if (projects is None or run[0] in projects) and (user is None or run[1] == user)
        ]
        return _sums(seen, 0), _sums(seen, 1)

    def images(self) -> dict[str, int]:
        if self.stored_images is None:
            raise UnreachableError("the registry does not answer")
        return self.stored_images

    def keep_storage(self, report: StorageReport) -> None:
        self.report = report

    def storage(self) -> StorageReport | None:
        return self.report


def _sums(runs: list[tuple[str, str, float, float]], key: int) -> list[Consumption]:
    return [
        Consumption(
            name=name,
            runs=len([run for run in runs if run[key] == name]),
            gpu_hours=sum(run[2] for run in runs if run[key] == name),
            cpu_hours=sum(run[3] for run in runs if run[key] == name),
            wait_seconds=60.0,
        )
        for name in {str(run[key]) for run in runs}
    ]
