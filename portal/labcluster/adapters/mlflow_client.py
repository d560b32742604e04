"""MLflow's REST API with nothing but the standard library: what a task of a pipeline records itself with."""

from __future__ import annotations

import base64
import json
import os
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labcluster.errors import LabclusterError, UnreachableError

_SECONDS = 5.0
# MLflow's own limits of one batch and of one value.
_MOST_PARAMS, _MOST_METRICS = 100, 1000
_PARAM_LENGTH, _TAG_LENGTH = 6000, 5000
# The proof of a run's pod for the cluster's own server; renewed there long before it ends.
_POD_TOKEN = Path("/var/run/secrets/labcluster/token/token")


class MlflowClient:
    """One tracking server, as MLflow's own variables describe it."""

    def __init__(
        self, url: str, *, headers: Mapping[str, str], ca: str | None = None, token: Path | None = None
    ) -> None:
        self.url = url.rstrip("/")
        self._token = token
        self._headers = dict(headers)
        self._tls = ssl.create_default_context(cafile=ca) if url.startswith("https://") else None

    @classmethod
    def from_environment(cls, env: Mapping[str, str] = os.environ) -> MlflowClient | None:
        """The server of MLFLOW_TRACKING_URI; None where it names none that is reached by HTTP."""
        url = env.get("MLFLOW_TRACKING_URI", "")
        if not url.startswith(("http://", "https://")):
            return None
        headers = {}
        if token := env.get("MLFLOW_TRACKING_TOKEN"):
            headers["Authorization"] = f"Bearer {token}"
        elif user := env.get("MLFLOW_TRACKING_USERNAME"):
            pair = f"{user}:{env.get('MLFLOW_TRACKING_PASSWORD', '')}".encode()
            headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
        if workspace := env.get("MLFLOW_WORKSPACE"):
            headers["X-MLFLOW-WORKSPACE"] = workspace
        own = env.get("LABCLUSTER_PORTAL", "")
        renewed = _POD_TOKEN if own and url.startswith(own) and _POD_TOKEN.exists() else None
        return cls(url, headers=headers, ca=env.get("MLFLOW_TRACKING_SERVER_CERT_PATH"), token=renewed)

    def create_run(
        self, experiment: str, name: str, tags: Mapping[str, str], started: float | None = None
    ) -> str:
        """Begin a run, now or at a time in Unix seconds; gives its id."""
        body = {
            "experiment_id": experiment,
            "run_name": name,
            "start_time": _milliseconds(started),
            "tags": _pairs(tags, _TAG_LENGTH),
        }
        return str(self._post("runs/create", body)["run"]["info"]["run_id"])

    def log(
        self,
        run: str,
        *,
        params: Mapping[str, str] | None = None,
        metrics: list[tuple[str, float, int]] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Add parameters, metrics (key, value, step) and tags to a run, in as many requests as it takes."""
        now = _milliseconds()
        points = [
            {"key": key, "value": value, "timestamp": now, "step": step} for key, value, step in metrics or []
        ]
        pairs, marks = _pairs(params or {}, _PARAM_LENGTH), _pairs(tags or {}, _TAG_LENGTH)
        while pairs or points or marks:
            body = {
                "run_id": run,
                "params": pairs[:_MOST_PARAMS],
                "metrics": points[: _MOST_METRICS - 2 * _MOST_PARAMS],
                "tags": marks[:_MOST_PARAMS],
            }
            self._post("runs/log-batch", body)
            pairs, marks = pairs[_MOST_PARAMS:], marks[_MOST_PARAMS:]
            points = points[_MOST_METRICS - 2 * _MOST_PARAMS :]

    def end_run(self, run: str, status: str) -> None:
        """Say how a run ended: FINISHED, FAILED or KILLED."""
        self._post("runs/update", {"run_id": run, "status": status, "end_time": _milliseconds()})

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        request = urllib.request.Request(  # noqa: S310 - the scheme was looked at in from_environment
            f"{self.url}/api/2.0/mlflow/{path}",
            data=json.dumps(body).encode(),
            headers={**self._headers, "Content-Type": "application/json"},
        )
        try:
            if self._token:
                request.add_header("Authorization", f"Bearer {self._token.read_text().strip()}")
            with urllib.request.urlopen(request, timeout=_SECONDS, context=self._tls) as answer:  # noqa: S310
                return json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as error:
            said = error.read(300).decode(errors="replace")
            raise LabclusterError(f"MLflow at {self.url} answered {error.code} to {path}: {said}") from None
        except (OSError, ValueError) as error:
            raise UnreachableError(f"MLflow at {self.url} does not answer: {error}") from None


def _pairs(values: Mapping[str, str], length: int) -> list[dict[str, str]]:
    return [{"key": key, "value": str(value)[:length]} for key, value in values.items()]


def _milliseconds(at: float | None = None) -> int:
    return int((time.time() if at is None else at) * 1000)
