"""The decision what to do about a release."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from labcluster.services.releases import STALE_AFTER, decide

NOW = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)


@dataclass(frozen=True)
class Newest:
    status: str = "deployed"
    digest: str = "same"
    at: datetime | None = NOW - timedelta(hours=1)

    @property
    def pending(self) -> bool:
        return self.status.startswith("pending")


def test_release_as_wanted_is_left_alone() -> None:
    assert decide("same", Newest(), [], NOW).action == "none"


def test_absent_release_is_installed() -> None:
    assert decide("same", None, [], NOW).action == "install"


def test_other_content_is_an_upgrade() -> None:
    assert decide("new", Newest(), [], NOW).action == "upgrade"


def test_failed_change_is_tried_again_though_nothing_differs() -> None:
    decision = decide("same", Newest(status="failed"), [], NOW)
    assert decision.action == "upgrade"
    assert "failed" in decision.why


def test_deleted_part_is_brought_back_and_named() -> None:
    decision = decide("same", Newest(), ["Service labcluster/registry"], NOW)
    assert decision.action == "upgrade"
    assert "Service labcluster/registry" in decision.why


@pytest.mark.parametrize("status", ["pending-install", "pending-upgrade", "pending-rollback"])
def test_interrupted_change_is_repaired(status: str) -> None:
    decision = decide("same", Newest(status=status), [], NOW)
    assert decision.action == "repair"
    assert status in decision.why


def test_interrupted_change_without_a_time_is_repaired() -> None:
    assert decide("same", Newest(status="pending-install", at=None), [], NOW).action == "repair"


def test_change_that_may_still_be_going_on_is_waited_for() -> None:
    young = Newest(status="pending-upgrade", at=NOW - STALE_AFTER / 2)
    assert decide("new", young, [], NOW).action == "wait"
