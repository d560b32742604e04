"""The experiment record with the real MLflow and PostgreSQL: what a member of another project gets of it.

Needs Debian's postgresql, and once the package index for images/mlflow/requirements.txt (into build/mlflow).
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterator
from typing import Any

import httpx
import mlflow_probes as probes
import mlflow_victim
import pytest
from labcluster_mlflow.routes import Routes
from mlflow_site import IMAGE, Record, registered, started
from mlflow_tricks import TRICKS
from mlflow_victim import SECRET, Victim

#: Closed routes of MLflow, by what they are for. One that is neither open nor here is new: look at it first.
CLOSED = {
    "accounts are the door's business": r".*/mlflow/(users/(?!current).*|roles/.*)|/signup",
    "workspaces are projects": r".*/mlflow/workspaces(/<workspace_name>)?",
    "the gateway to paid services": r".*/gateway(-proxy|/.*)|/gateway/.*",
    "jobs of the server": r".*/3\.0/(mlflow/)?jobs.*|.*online-configs?",
    "code on the server": r".*/(scorer|issues|genai/evaluate)/invoke",
    "optimisation of prompts": r".*/prompt-optimization/.*|.*/create-promptlab-run",
    "connections to elsewhere": r".*/webhooks.*|.*/mcp-servers.*|.*/assistant/.*|.*/ui-telemetry",
    "demonstrations": r".*/demo/.*",
    "storage that we do not have": r".*/presigned.*|.*/mpu/.*",
    "another product": r".*/unified-traces|.*/get-online-trace-details",
    "static files by another name, a route that is misspelt": r"/build/<.*|.*/2\.0mlflow/.*",
    "the kubelet's": r"/health",
    "answered by the door": r"/ajax-api/3.0/mlflow/server-info",
    "queries that a link could bring": r"/graphql",
}


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Record]:
    with started(tmp_path_factory.mktemp("mlflow")) as record:
        yield record


@pytest.fixture(scope="module")
def victim(record: Record) -> Victim:
    """ada's in vision, and beside it what bo has in speech."""
    with record.client("ada", "vision") as client:
        victim = mlflow_victim.make(client)
    with record.client("bo", "speech") as client:
        experiment = client.post("/api/2.0/mlflow/experiments/create", json={"name": "own"}).json()
        run = client.post("/api/2.0/mlflow/runs/create", json=experiment).json()["run"]["info"]
        own = {"own_experiment": experiment["experiment_id"], "own_run": run["run_id"]}
        own["own_artifacts"] = f"{own['own_experiment']}/{own['own_run']}/artifacts"
        mlflow_victim.upload(client, f"{own['own_artifacts']}/own.txt", b"own")
    victim.ids |= own | {"root": str(record.artifacts)}
    return victim


@pytest.fixture(params=["through the portal", "past the portal"])
def attacker(request: pytest.FixtureRequest, record: Record, victim: Victim) -> Iterator[httpx.Client]:
    """bo, who is a member of speech; past the portal he asks for the other workspace in a header too."""
    if request.param == "through the portal":
        client = record.client("bo", "speech")
    else:
        client = record.past_the_portal("bo", "speech", "vision")
    with client:
        yield client


def send(client: httpx.Client, victim: Victim, probe: probes.Probe) -> httpx.Response:
    """A probe with its names filled in, its path as it stands."""
    method, path, body = probe
    raw = client.base_url.raw_path.rstrip(b"/") + victim.fill(path).encode()
    url = client.base_url.copy_with(raw_path=raw)
    if isinstance(body, bytes) or body is None:
        return client.request(method, url, content=body)
    return client.request(method, url, json=json.loads(victim.fill(json.dumps(body))))


def kept(record: Record) -> tuple[mlflow_victim.Rows, dict[str, bytes]]:
    """All that may not change: every row, and the files of vision."""
    return mlflow_victim.rows(record.database), mlflow_victim.files(
        record.artifacts / "workspaces" / "vision"
    )


def test_every_route_is_open_or_closed_for_a_reason(record: Record) -> None:
    routes = Routes.load()
    unknown = [
        f"{method} {path}"
        for method, path in registered(record)
        if not routes.opens(method, re.sub(r"<[^>]*>", "x", path))
        and not any(re.fullmatch(pattern, path) for pattern in CLOSED.values())
    ]
    assert unknown == []


def test_no_line_of_the_list_is_for_nothing(record: Record) -> None:
    """A route that is gone, or that was written wrongly, would stand there for ever."""
    there = {(method, re.sub(r"<[^>]*>", "x", path)) for method, path in registered(record)}
    for line in (IMAGE / "labcluster_mlflow" / "routes.txt").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        method, path = line.split()
        paths = [re.sub(r"<[^>]*>", "x", path.replace("{api}", api)) for api in ("/api", "/ajax-api")]
        assert any((method, path) in there for path in paths), line


@pytest.mark.parametrize("kind", ["reads", "writes", "tricks"])
def test_nothing_of_another_project_is_read_or_written(
    record: Record, victim: Victim, attacker: httpx.Client, kind: str
) -> None:
    before = kept(record)
    seen = []
    for probe in {"reads": probes.READS, "writes": probes.WRITES, "tricks": TRICKS}[kind]:
        answer = send(attacker, victim, probe)
        if SECRET in answer.text or answer.status_code >= 500 or "root:x:0" in answer.text:
            seen.append((probe, answer.status_code, answer.text[:300]))
        if kind != "tricks" and "graphql" not in probe[1] and answer.status_code < 400:
            # Some lists are filtered and not refused: they must be empty.
            assert not re.search(r'"[a-z_]+": *[\[{"]', answer.text), (probe, answer.text[:500])
    assert seen == []
    unchanged(record, victim, before)


def unchanged(record: Record, victim: Victim, before: tuple[mlflow_victim.Rows, dict[str, bytes]]) -> None:
    """Nothing of before is gone or different, and nothing new belongs to the victim."""
    rows, files = kept(record)
    assert files == before[1]
    for table, lines in before[0].items():
        assert lines <= rows[table] | _own(lines, victim), table
    for table, lines in rows.items():
        for line in lines - before[0].get(table, set()):
            row = json.loads(line)
            assert row.get("experiment_id") not in (
                victim.ids["experiment"],
                int(victim.ids["experiment"]),
            ), line
            assert row.get("workspace") != "vision", line
            for name in ("run", "logged", "trace", "assessment", "dataset", "issue", "label", "queue"):
                assert victim.ids[name] not in line, (table, line)


def _own(lines: set[str], victim: Victim) -> set[str]:
    """Rows that are the attacker's: he may change them."""
    return {line for line in lines if victim.ids["own_run"] in line or '"workspace": "speech"' in line}


def _names(victim: Victim) -> dict[str, Any]:
    """What a request could call the victim's things."""
    ids = victim.ids
    return {
        **dict.fromkeys(("run_id", "run_uuid", "source_run_id"), ids["run"]),
        **dict.fromkeys(("trace_id", "request_id"), ids["trace"]),
        "trace_ids": [ids["trace"]],
        "request_ids": [ids["trace"]],
        **dict.fromkeys(("workspace", "workspace_name"), "vision"),
        **dict.fromkeys(("username", "user"), "ada@vision"),
        **dict.fromkeys(("value", "description", "instruction"), "changed"),
        **dict.fromkeys(("key", "tag_key"), "k"),
        "experiment_id": ids["experiment"],
        "experiment_ids": [ids["experiment"]],
        "experiment_name": ids["name"],
        "run_ids": [ids["run"]],
        "name": ids["name"],
        "prompt_name": ids["prompt"],
        "model_id": ids["logged"],
        "model_ids": [ids["logged"]],
        "dataset_id": ids["dataset"],
        "dataset_ids": [ids["dataset"]],
        "issue_id": ids["issue"],
        "schema_id": ids["label"],
        "queue_id": ids["queue"],
        "assessment_id": ids["assessment"],
        "version": "1",
        "alias": "best",
        "metric_key": "loss",
        "path": "secret.txt",
        "artifact_path": ids["artifacts"] + "/secret.txt",
        "new_name": "stolen",
        "status": "FINISHED",
        "view_type": "ALL",
    }


def _swept(victim: Victim, method: str, path: str) -> Iterator[tuple[str, Any]]:
    """Path and content of a route's requests for the victim's things."""
    names = _names(victim)
    # A few routes call different things by one name.
    for name in ("name", "prompt_name"):
        filled = re.sub(
            r"<(?:path:)?([^>]*)>",
            lambda match: str(names.get(match[1]) or names["run_id"]),
            path,
        )
        said = names | {"name": names[name]}
        if method in ("GET", "DELETE"):
            yield f"{filled}?{httpx.QueryParams(said)}", None
        if method != "GET":
            yield filled, said


def test_no_route_gives_or_takes_anything_of_another_project(
    record: Record, victim: Victim, attacker: httpx.Client
) -> None:
    """Every route that MLflow has, open or closed, with the victim's names in everything that it may read."""
    before = kept(record)
    asked = 0
    for method, path in registered(record):
        for target, content in _swept(victim, method, path):
            answer = send(attacker, victim, (method, target, content))
            asked += 1
            assert SECRET not in answer.text, (method, target, answer.text[:500])
    assert asked > 1000
    unchanged(record, victim, before)


@pytest.mark.parametrize("user", ["eve", "ada"])
def test_members_get_all_of_it(record: Record, victim: Victim, user: str) -> None:
    """The control: the same requests by who may, his own and his colleague's things alike."""
    with record.client(user, "vision") as client:
        for probe in probes.READS:
            answer = send(client, victim, probe)
            assert answer.status_code == 200, (probe, answer.text[:500])
            assert not re.search(r'"errors":\s*\[', answer.text), (probe, answer.text[:500])


def test_members_change_all_of_it(record: Record) -> None:
    """The control of the writes, on a victim of its own, by a colleague of its maker."""
    with record.client("ada", "vision") as client:
        other = mlflow_victim.make(client, "other")
    with record.client("eve", "vision") as client:
        for probe in probes.WRITES:
            answer = send(client, other, probe)
            assert answer.status_code == 200, (probe, answer.text[:500])


def test_member_of_both_sees_in_each_what_is_there(record: Record, victim: Victim) -> None:
    with record.client("ada", "shared") as client:
        found = client.post("/api/2.0/mlflow/experiments/search", json={"max_results": 100}).json()
        assert found == {}
        assert send(client, victim, probes.READS[3]).status_code in (403, 404)


def test_who_leaves_a_project_is_outside_at_once(
    record: Record, victim: Victim, monkeypatch: pytest.MonkeyPatch
) -> None:
    with record.client("eve", "vision") as client:
        assert send(client, victim, probes.READS[3]).status_code == 200
        monkeypatch.setitem(mlflow_site_projects(), "vision", ["ada"])
        answer = send(client, victim, probes.READS[3])
    assert (answer.status_code, answer.json()["code"]) == (403, 3)


def mlflow_site_projects() -> dict[str, list[str]]:
    import mlflow_site

    return mlflow_site.PROJECTS


def test_artifact_of_200_mib_goes_up_and_down(record: Record, victim: Victim) -> None:
    block, blocks = bytes(range(256)) * 4096, 200
    digest = hashlib.sha256()

    def content() -> Iterator[bytes]:
        for _ in range(blocks):
            digest.update(block)
            yield block

    path = f"/api/2.0/mlflow-artifacts/artifacts/{victim.ids['artifacts']}/large.bin"
    with record.client("ada", "vision") as client:
        began = time.monotonic()
        assert client.put(path, content=content()).status_code == 200
        up = time.monotonic() - began
        received = hashlib.sha256()
        began = time.monotonic()
        with client.stream("GET", path) as answer:
            for part in answer.iter_bytes():
                received.update(part)
        down = time.monotonic() - began
        assert client.delete(path).status_code == 200
    assert received.digest() == digest.digest()
    print(f"200 MiB: up {200 / up:.0f} MiB/s, down {200 / down:.0f} MiB/s")


def test_mlflows_own_client_works_through_the_portal(record: Record) -> None:
    """With what a run's environment gives it, and nothing else."""
    program = """
import mlflow, os, pathlib
experiment = mlflow.set_experiment("client")
with mlflow.start_run(run_name="r") as run:
    mlflow.log_params({"lr": 0.1})
    for step in range(20):
        mlflow.log_metric("loss", 1 / (step + 1), step=step)
    pathlib.Path("plot.txt").write_text("picture")
    mlflow.log_artifact("plot.txt", "pictures")
    mlflow.log_dict({"a": 1}, "d.json")
client = mlflow.MlflowClient()
found = client.get_run(run.info.run_id)
print(found.data.params["lr"], found.data.metrics["loss"], found.info.status)
print(sorted(f.path for f in client.list_artifacts(run.info.run_id)))
print(mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/pictures/plot.txt"))
print(len(mlflow.search_runs(experiment_names=["client"])))
"""
    out = record.run(
        program,
        MLFLOW_TRACKING_URI=f"{record.portal}/mlflow/w/vision",
        MLFLOW_TRACKING_TOKEN="ada",
        MLFLOW_WORKSPACE="vision",
    )
    assert out.splitlines()[-4:] == ["0.1 0.05 FINISHED", "['d.json', 'pictures']", "picture", "1"]
