from __future__ import annotations

from typing import Any

import pytest
from identity_fakes import directory
from labcluster.models.members import Directory, Group
from labcluster.models.runs import RunState
from labcluster.services.leaving import cancel_departed, why_departed

HERE = directory({"ada": 20000, "bo": 20001}, vision=(30000, "ada"), shared=(30003, "ada bo"))


def disabled(name: str) -> Directory:
    gone = HERE.members[name].model_copy(update={"disabled": True})
    return HERE.model_copy(update={"members": {**HERE.members, name: gone}})


@pytest.mark.parametrize(
    ("state", "why"),
    [
        (HERE, None),
        (disabled("ada"), "ada was disabled"),
        (disabled("bo"), None),
        (directory({"ada": 20000}, vision=(30000, "bo")), "ada is no member of project vision any more"),
        (
            Directory(members=HERE.members, removed=(Group(name="vision", gid=30000),)),
            "project vision was removed",
        ),
        # What may be a mistake costs nobody a run.
        (Directory(members=HERE.members), None),
        (directory({}, vision=(30000, "")), None),
        (Directory(), None),
    ],
)
def test_only_what_the_directory_says_plainly_ends_runs(state: Directory, why: str | None) -> None:
    assert why_departed(state, "vision", "ada") == why


def test_runs_of_the_departed_are_cancelled_with_a_sentence_and_no_others(lab: Any) -> None:
    gone, stays = lab.submit(), lab.submit(project="shared")
    cancel_departed(lab.store, directory({"ada": 20000}, vision=(30000, ""), shared=(30003, "ada")))
    row = lab.store.get(gone.project, gone.number, gone.trial)
    assert (row.state, row.reason) == (RunState.CANCELLED, "ada is no member of project vision any more")
    assert row.finished_at is not None
    assert lab.store.get(stays.project, stays.number, stays.trial).state is RunState.QUEUED
