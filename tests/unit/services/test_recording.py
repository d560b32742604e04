"""Results in MLflow: from the run table, whatever became of the recorder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from labcluster.errors import NotAllowedError, UnreachableError
from labcluster.models.recording import RecordedRun
from labcluster.models.runs import Run, RunChange, RunState
from labcluster.models.settings import JobSettings, RecordSettings
from labcluster.services.recording import Recording

SETTINGS = JobSettings(
    runner_image="registry:5000/labcluster/runner:1",
    record=RecordSettings(portal_url="https://portal.svc", ca_file=Path("/ca.crt"), ca="-----BEGIN"),
)


class Record:
    """The record of one laboratory: its MLflow, and what is written down of its runs."""

    def __init__(self, lab: Any) -> None:
        self.lab = lab
        self.runs: dict[str, RecordedRun] = {}
        self.ends: dict[str, datetime | None] = {}
        self.finished = 0
        self.away = False
        self.service = Recording(
            table=self, records=self, jobs=lab.cluster, settings=SETTINGS, clock=lab.clock
        )

    # RecordTable
    def unrecorded(self, since: datetime, limit: int, after: Run | None = None) -> list[Run]:
        rows = [
            row
            for row in self.lab.store.rows.values()
            if row.state.final and row.recorded_at is None and row.finished_at > since
        ]
        ordered = sorted(rows, key=lambda row: (row.finished_at, row.id))
        if after is not None:
            ordered = [row for row in ordered if (row.finished_at, row.id) > (after.finished_at, after.id)]
        return ordered[:limit]

    def set_recorded(self, run: Run, moment: datetime) -> None:
        self.lab.store.rows[run.id] = self.lab.row(run).model_copy(update={"recorded_at": moment})

    # Records
    def find(self, run: Run) -> RecordedRun | None:
        self._check()
        return self.runs.get(run.id)

    def finish(self, run: Run, recorded: RecordedRun, status: str, tags: Mapping[str, str]) -> None:
        self._check()
        self.finished += 1
        self.runs[run.id] = RecordedRun(recorded.id, status, {**recorded.tags, **tags})
        self.ends[run.id] = run.finished_at

    def _check(self) -> None:
        if self.away:
            raise UnreachableError("MLflow does not answer")

    def begin(self, run: Run, **tags: str) -> None:
        """What a recorder leaves."""
        self.runs[run.id] = RecordedRun(
            f"m-{run.id}", "RUNNING", {f"labcluster.{key}": value for key, value in tags.items()}
        )

    def turn(self, seconds: float = 0) -> None:
        self.lab.clock.advance(seconds)
        self.service.turn()

    def jobs(self) -> list[Any]:
        """Those that deliver."""
        return [job for (_, name), job in self.lab.cluster.jobs.items() if name.startswith("deliver-")]

    def recorded(self, run: Run) -> bool:
        return self.lab.row(run).recorded_at is not None


@pytest.fixture
def record(lab: Any) -> Record:
    return Record(lab)


def ended(lab: Any, state: RunState, *, started: bool = True, **more: Any) -> Run:
    """A run of ada's that ended just now."""
    run: Run = lab.submit(**more.pop("request", {}))
    started_at = lab.clock() if started else None
    change = RunChange(state=state, started_at=started_at, finished_at=lab.clock(), **more)
    lab.store.change(run, change)
    row: Run = lab.row(run)
    return row


@pytest.mark.parametrize(
    ("state", "status"),
    [
        (RunState.SUCCEEDED, "FINISHED"),
        (RunState.FAILED, "FAILED"),
        (RunState.TIMED_OUT, "FAILED"),
        (RunState.LOST, "FAILED"),
        (RunState.CANCELLED, "KILLED"),
    ],
)
def test_every_end_is_told(lab: Any, record: Record, state: RunState, status: str) -> None:
    run = ended(lab, state, reason="why", node="gpu1", exit_code=3)
    record.begin(run, recorded="1")
    record.turn()
    assert record.runs[run.id].status == status
    told = record.runs[run.id].tags
    assert (told["labcluster.state"], told["labcluster.reason"]) == (state.value, "why")
    assert (told["labcluster.node"], told["labcluster.exit_code"]) == ("gpu1", "3")
    assert record.ends[run.id] == run.finished_at
    assert record.recorded(run)
    assert record.jobs() == []


def test_result_is_told_before_the_rest_is_delivered_and_once(lab: Any, record: Record) -> None:
    run = ended(lab, RunState.FAILED)
    record.begin(run)
    record.turn()
    record.turn(1)
    assert record.runs[run.id].status == "FAILED"
    assert record.finished == 1
    assert not record.recorded(run)


def test_result_that_a_program_wrote_itself_is_put_right(lab: Any, record: Record) -> None:
    run = ended(lab, RunState.FAILED)
    record.begin(run)
    record.turn()
    record.runs[run.id] = RecordedRun("x", "FINISHED", record.runs[run.id].tags)
    record.turn(1)
    assert record.runs[run.id].status == "FAILED"


def test_run_that_never_began_has_no_record(lab: Any, record: Record) -> None:
    run = ended(lab, RunState.CANCELLED, started=False)
    record.turn()
    assert record.recorded(run)
    assert record.finished == 0


def test_nothing_is_lost_while_mlflow_is_away(lab: Any, record: Record) -> None:
    run = ended(lab, RunState.SUCCEEDED)
    record.away = True
    for _ in range(3):
        with pytest.raises(UnreachableError):
            record.turn(600)
    assert record.jobs() == []
    assert not record.recorded(run)
    record.away = False
    record.turn()
    (job,) = record.jobs()
    assert job["spec"]["template"]["spec"]["containers"][0]["command"] == [
        "/labrun",
        "deliver",
        run.directory,
    ]
    record.begin(run, recorded="1")
    record.turn(10)
    assert record.recorded(run)
    assert record.runs[run.id].status == "FINISHED"


def test_own_recorder_has_a_minute(lab: Any, record: Record) -> None:
    run = ended(lab, RunState.LOST)
    record.begin(run)
    record.turn(30)
    assert record.jobs() == []
    record.turn(40)
    assert len(record.jobs()) == 1
    assert lab.cluster.created_by[-1] == "ada", "the tree is written under the user's own name"


def test_records_of_a_user_are_delivered_together_and_again(lab: Any, record: Record) -> None:
    runs = [ended(lab, RunState.LOST) for _ in range(3)]
    record.turn(120)
    (job,) = record.jobs()
    assert job["spec"]["template"]["spec"]["containers"][0]["command"][2:] == [run.directory for run in runs]
    for _ in range(3):
        record.turn(600)
    assert len(record.jobs()) == 1, "one Job at a time for the same runs"
    lab.cluster.jobs.clear()
    record.turn()
    (again,) = record.jobs()
    assert again["metadata"]["name"] != job["metadata"]["name"]


def test_later_attempt_must_be_delivered_too(lab: Any, record: Record) -> None:
    run = ended(lab, RunState.FAILED)
    lab.store.requeue([run], "again")
    change = RunChange(state=RunState.FAILED, started_at=lab.clock(), finished_at=lab.clock())
    lab.store.change(lab.row(run), change)
    record.begin(run, recorded="1")
    record.turn()
    assert not record.recorded(run)
    record.begin(run, recorded="2")
    record.turn()
    assert record.recorded(run)


def test_what_cannot_be_delivered_is_given_up(lab: Any, record: Record) -> None:
    run = ended(lab, RunState.LOST)
    for _ in range(6):
        record.turn(7200)
        assert not record.recorded(run)
        assert len(record.jobs()) == 1
        lab.cluster.jobs.clear()
    record.turn(7200)
    assert record.recorded(run)
    assert record.jobs() == []


def test_record_of_somebody_who_left_stays_where_it_is(lab: Any, record: Record) -> None:
    run = ended(lab, RunState.LOST)
    lab.cluster.failures = [NotAllowedError("ada is no member")]
    record.turn(120)
    assert record.recorded(run)


def test_job_that_delivers_is_no_runs(lab: Any, record: Record) -> None:
    ended(lab, RunState.LOST)
    record.turn(120)
    (job,) = record.jobs()
    for labels in _labels(job):
        assert labels["labcluster.internal/user"] == "ada"
        assert "labcluster.internal/run" not in labels, "it would be taken for the run's own"
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "default"
    assert job["spec"]["suspend"] is True
    spec = job["spec"]["template"]["spec"]
    assert {"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"} in spec["containers"][0]["env"]
    assert [volume["name"] for volume in spec["volumes"]] == ["lab", "token"]


def _labels(job: Any) -> Iterable[dict[str, str]]:
    return job["metadata"]["labels"], job["spec"]["template"]["metadata"]["labels"]


def test_more_than_a_page_is_looked_at(lab: Any, record: Record) -> None:
    runs = [ended(lab, RunState.SUCCEEDED) for _ in range(450)]
    for run in runs:
        record.begin(run, recorded="1")
    record.turn()
    assert all(record.recorded(run) for run in runs)


def test_one_that_mlflow_refuses_does_not_keep_the_others(lab: Any, record: Record) -> None:
    bad, good = ended(lab, RunState.SUCCEEDED), ended(lab, RunState.SUCCEEDED)
    record.begin(bad, recorded="1")
    record.begin(good, recorded="1")
    finish = record.finish

    def refuse(run: Run, *rest: Any) -> None:
        if run.id == bad.id:
            raise NotAllowedError("refused")
        finish(run, *rest)

    record.finish = refuse  # type: ignore[method-assign]
    record.turn()
    assert (record.recorded(bad), record.recorded(good)) == (False, True)
    record.lab.clock.now += timedelta(days=8)
    record.turn()
    assert record.unrecorded(lab.clock() - timedelta(days=7), 10) == []
