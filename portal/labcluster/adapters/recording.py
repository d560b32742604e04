"""Records of ended runs: what the run table knows of them, and MLflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from labcluster.adapters.mlflow import MlflowApi
from labcluster.adapters.postgres import PUBLIC, reachable, run_of
from labcluster.adapters.tables import ACTIVE_SQL, RUNS
from labcluster.errors import NotFoundError
from labcluster.models.recording import RecordedRun
from labcluster.models.runs import Run

_MAX_TAG = 5000


class PostgresRecords:
    """Implements `services.recording.RecordTable`."""

    def __init__(self, pool: sa.Engine) -> None:
        self._pool = pool

    def unrecorded(self, since: datetime, limit: int, after: Run | None = None) -> Sequence[Run]:
        """Runs that ended after `since` and whose record has not got its result, the earliest end first."""
        order = (RUNS.c.finished_at, RUNS.c.project, RUNS.c.number, RUNS.c.trial)
        # The index is on exactly this.
        ended = sa.text(f"NOT ({ACTIVE_SQL})")
        query = sa.select(*PUBLIC).where(RUNS.c.recorded_at.is_(None), ended, RUNS.c.finished_at > since)
        if after is not None:
            place = (after.finished_at, after.project, after.number, after.trial)
            query = query.where(sa.tuple_(*order) > sa.tuple_(*place))
        with reachable(), self._pool.connect() as connection:
            return [run_of(row) for row in connection.execute(query.order_by(*order).limit(limit))]

    def set_recorded(self, run: Run, moment: datetime) -> None:
        """Note that this attempt's record has its result."""
        same = (RUNS.c.project == run.project, RUNS.c.number == run.number, RUNS.c.trial == run.trial)
        update = RUNS.update().where(*same, RUNS.c.attempt == run.attempt).values(recorded_at=moment)
        with reachable(), self._pool.begin() as connection:
            connection.execute(update)


class MlflowRecords:
    """Implements `services.recording.Records`."""

    def __init__(self, api: MlflowApi) -> None:
        self._api = api

    def find(self, run: Run) -> RecordedRun | None:
        """The run with its tag labcluster.run; the recorder sees to it that there is one."""
        try:
            named = self._api.get(run.project, "experiments/get-by-name", {"experiment_name": run.name})
        except NotFoundError:
            return None
        asked = {
            "experiment_ids": [named["experiment"]["experiment_id"]],
            "filter": f"tags.`labcluster.run` = '{run.id}'",
            "order_by": ["attributes.start_time ASC"],
            "max_results": 2,
        }
        runs = self._api.post(run.project, "runs/search", asked).get("runs") or []
        if not runs:
            return None
        tags = {tag["key"]: tag.get("value", "") for tag in runs[0]["data"].get("tags") or []}
        return RecordedRun(runs[0]["info"]["run_id"], runs[0]["info"]["status"], tags)

    def finish(self, run: Run, recorded: RecordedRun, status: str, tags: Mapping[str, str]) -> None:
        """Write how it ended, and when; the tags first, so that a status is never without its reason."""
        pairs = [{"key": key, "value": value[:_MAX_TAG]} for key, value in tags.items()]
        self._api.post(run.project, "runs/log-batch", {"run_id": recorded.id, "tags": pairs})
        update: dict[str, Any] = {"run_id": recorded.id, "status": status}
        if run.finished_at:
            update["end_time"] = int(run.finished_at.timestamp() * 1000)
        self._api.post(run.project, "runs/update", update)
