"""The verbs that look: ls, show, logs, queue, nodes, images, whoami, version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from labcluster.cli import output
from labcluster.errors import ConflictError, NotFoundError

from .conftest import RUN, Break, Chunks, FakePortal, Labctl, run

NODE = {
    "name": "gpu1", "ready": True, "gpus": 4, "gpus_used": 1, "cpus": 2.0, "cpus_used": 1.25,
    "memory": 8 * 2**30, "memory_used": 5 * 2**29, "runs": ["vision-7", "speech-2"],
}  # fmt: skip
QUEUED = {
    "priority": "normal",
    "run": "vision-8", "project": "vision", "user": "bo", "name": "train", "gpus": 2, "state": "queued",
    "position": 1, "reason": "waits for 2 GPUs", "submitted_at": "2026-11-21T08:00:00Z",
}  # fmt: skip
IMAGE = {
    "reference": "registry.test:5000/common/python-ml:1.0", "tag": "1.0",
    "digest": "sha256:" + "a" * 64, "size_bytes": 180 * 1024**2,
}  # fmt: skip
ME = {
    "user": "ada", "uid": 20000, "admin": False,
    "projects": [{"name": "vision", "gid": 30000, "gpus": 4, "max_gpus": 8}],
}  # fmt: skip


def test_ls_is_plain_and_aligned_where_a_program_reads(portal: FakePortal, labctl: Labctl) -> None:
    portal.on(
        "GET",
        "/runs",
        {"items": [run("succeeded", id="vision-10", finished_at="2026-11-21T09:00:02Z"), run()]},
    )
    done = labctl("ls")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        "RUN        STATE      NAME   USER  GPUS  SUBMITTED              TOOK  NODE",
        "vision-10  succeeded  train  ada      1  2026-11-21 08:00:00  1h 00m  gpu1",
        "vision-7   queued     train  ada      1  2026-11-21 08:00:00       -  -",
    ]


@pytest.mark.parametrize(
    ("words", "query"),
    [
        ([], {"user": ["ada"], "limit": ["20"]}),
        (["--all"], {"limit": ["20"]}),
        (["-u", "bo", "-p", "vision", "-s", "failed", "-l", "3"],
         {"user": ["bo"], "project": ["vision"], "state": ["failed"], "limit": ["3"]}),
    ],
)  # fmt: skip
def test_ls_asks_for_ones_own_runs_unless_told(
    portal: FakePortal, labctl: Labctl, words: list[str], query: dict[str, list[str]]
) -> None:
    portal.on("GET", "/runs", {"items": []})
    done = labctl("ls", *words)
    assert portal.requests[0].query == query
    assert (done.code, done.out) == (0, "")
    assert "no runs" in done.err


@pytest.mark.parametrize(
    ("words", "path", "answer", "printed"),
    [
        (["ls"], "/runs", {"items": [RUN]}, [RUN]),
        (["show", "vision-7"], "/runs/vision-7", RUN, RUN),
        (["queue"], "/queue", {"items": [QUEUED]}, [QUEUED]),
        (["nodes"], "/nodes", {"items": [NODE]}, [NODE]),
        (["image", "ls"], "/images", {"items": [IMAGE], "usage": []}, {"items": [IMAGE], "usage": []}),
        (["whoami"], "/whoami", ME, ME),
        (["admin", "member", "ls"], "/admin/members", {"items": []}, []),
        (["admin", "project", "ls"], "/admin/projects", {"items": []}, []),
    ],
)
def test_json_is_what_the_portal_said(
    portal: FakePortal, labctl: Labctl, words: list[str], path: str, answer: Any, printed: Any
) -> None:
    portal.on("GET", path, answer)
    done = labctl(*words, "--json")
    assert (done.code, done.json(), done.err) == (0, printed, "")


def test_show_tells_everything_and_leaves_out_what_is_not_there(portal: FakePortal, labctl: Labctl) -> None:
    portal.on("GET", "/runs/vision-7", run("failed", exit_code=3, reason="exit status 3", env={"A": "b c"}))
    done = labctl("show", "vision-7")
    assert done.out.splitlines() == [
        "vision-7 train: failed, exit status 3",
        "  command      python3 train.py --note 'two words'",
        "  directory    /lab/home/ada",
        "  environment  A='b c'",
        "  project      vision",
        "  user         ada (uid 20000, gid 30000)",
        "  resources    1 GPU, 1 CPU, 4Gi memory",
        "  image        registry.test:5000/common/python-ml:1.0",
        "  digest       sha256:" + "0" * 64,
        "  submitted    2026-11-21 08:00:00",
        "  started      2026-11-21 08:00:02",
        "  finished     2026-11-21 08:00:44  (42s)",
        "  exit status  3",
        "  node         gpu1",
        "  files        /lab/projects/vision/runs/7_0_train",
    ]


def test_queue_says_who_waits_for_what(portal: FakePortal, labctl: Labctl) -> None:
    running = QUEUED | {"run": "vision-7", "state": "running", "position": None, "reason": None}
    portal.on("GET", "/queue", {"items": [running, QUEUED]})
    assert labctl("queue").out.splitlines() == [
        "POS  RUN       STATE    NAME   USER  PRIORITY  GPUS  SUBMITTED            REASON",
        "  -  vision-7  running  train  bo    normal       2  2026-11-21 08:00:00  -",
        "  1  vision-8  queued   train  bo    normal       2  2026-11-21 08:00:00  waits for 2 GPUs",
    ]


def test_nodes_says_what_is_free(portal: FakePortal, labctl: Labctl) -> None:
    portal.on("GET", "/nodes", {"items": [NODE, NODE | {"name": "gpu2", "ready": False, "runs": []}]})
    assert labctl("nodes").out.splitlines() == [
        "NODE  STATE      GPUS FREE  CPUS FREE       MEMORY FREE  RUNS",
        "gpu1  ready         3 of 4  0.75 of 2  5.5 GiB of 8 GiB  vision-7 speech-2",
        "gpu2  not ready     3 of 4  0.75 of 2  5.5 GiB of 8 GiB  -",
    ]


def test_images_are_named_as_submit_takes_them(portal: FakePortal, labctl: Labctl) -> None:
    own = IMAGE | {"reference": "registry.test:5000/vision/net:2"}
    usage = [
        {"project": "vision", "used_bytes": 3 * 1024**3, "quota_bytes": 20 * 1024**3},
        {"project": "shared", "used_bytes": None, "quota_bytes": None},
    ]
    portal.on("GET", "/images", {"items": [IMAGE, own], "usage": usage})
    done = labctl("image", "ls", "--project", "vision")
    assert [line.split()[0] for line in done.out.splitlines()] == ["IMAGE", "python-ml:1.0", "vision/net:2"]
    assert "180 MiB" in done.out
    assert portal.requests[0].query == {"project": ["vision"]}
    assert done.err.splitlines() == [
        "project vision uses 3 GiB of 20 GiB in the registry",
        "project shared uses an unknown amount in the registry",
    ]


def test_whoami(portal: FakePortal, labctl: Labctl) -> None:
    portal.on("GET", "/whoami", ME, ME | {"admin": True, "user": "root", "projects": []})
    assert labctl("whoami").out.splitlines() == [
        "ada (uid 20000)",
        "PROJECT    GID  OWN GPUS  AT MOST  FILES",
        "vision   30000         4        8  /lab/projects/vision",
    ]
    assert labctl("whoami").out == "root (uid 20000), an administrator\n"


def test_a_terminal_gets_a_table_that_fits(
    portal: FakePortal, labctl: Labctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "fancy", lambda *_: True)
    portal.on("GET", "/queue", {"items": [QUEUED | {"reason": "waits for 2 GPUs " * 8}]})
    lines = labctl("queue").out.splitlines()
    assert len(lines) > 2
    assert max(map(len, lines)) <= 80


def test_logs_of_a_running_run_come_from_the_portal(portal: FakePortal, labctl: Labctl) -> None:
    portal.on("GET", "/runs/vision-7", run("running"))
    portal.on("GET", "/runs/vision-7/logs", Chunks([b"so far\n"]))
    done = labctl("logs", "vision-7")
    assert (done.code, done.out, done.err) == (0, "so far\n", "")
    assert portal.requests[-1].query == {}


def test_logs_of_another_rank_are_asked_for_or_its_file(
    portal: FakePortal, labctl: Labctl, tmp_path: Path
) -> None:
    portal.on("GET", "/runs/vision-7", run("running"))
    portal.on("GET", "/runs/vision-7/logs", Chunks([b"rank one\n"]))
    assert labctl("logs", "--rank", "1", "vision-7")[:2] == (0, "rank one\n")
    assert portal.requests[-1].query == {"rank": ["1"]}
    (tmp_path / "rank-1.log").write_bytes(b"all of rank one\n")
    portal.on("GET", "/runs/vision-7", run("succeeded", exit_code=0, directory=str(tmp_path)))
    assert labctl("logs", "--rank", "1", "vision-7")[:2] == (0, "all of rank one\n")


def test_logs_of_a_finished_run_are_its_file(portal: FakePortal, labctl: Labctl, tmp_path: Path) -> None:
    (tmp_path / "stdout.log").write_bytes(b"all of it\xff\n")
    portal.on("GET", "/runs/vision-7", run("failed", exit_code=3, directory=str(tmp_path)))
    portal.on("GET", "/runs/vision-7/logs", Chunks([b"only the end\n"]))
    (tmp_path / "stdout.log").write_bytes(b"all of it\n")
    assert labctl("logs", "vision-7")[:2] == (0, "all of it\n")
    assert labctl("logs", "-f", "vision-7")[:2] == (3, "all of it\n")
    (tmp_path / "stdout.log").unlink()
    assert labctl("logs", "vision-7")[:2] == (0, "only the end\n")


def test_logs_of_a_run_that_never_started(portal: FakePortal, labctl: Labctl) -> None:
    portal.on(
        "GET", "/runs/vision-7", run("cancelled", started_at=None, node=None, reason="cancelled by ada")
    )
    portal.on("GET", "/runs/vision-7/logs", ConflictError("run vision-7 has no log: it never started"))
    done = labctl("logs", "vision-7")
    assert (done.code, done.err) == (5, "labctl: run vision-7 has no log: it never started\n")
    done = labctl("logs", "-f", "vision-7")
    assert (done.code, done.err) == (1, "vision-7 cancelled: cancelled by ada\n")


def test_an_unknown_run(portal: FakePortal, labctl: Labctl) -> None:
    portal.on("GET", "/runs/vision-99", NotFoundError("there is no run vision-99 in your projects"))
    for verb in ("show", "logs", "cancel"):
        done = labctl(verb, "vision-99")
        assert (done.code, done.err) == (4, "labctl: there is no run vision-99 in your projects\n")


def test_version_needs_no_portal(labctl: Labctl, settings: Path) -> None:
    settings.unlink()
    done = labctl("version", "--json")
    assert done.code == 0
    assert done.json()["portal"] is None
    assert labctl("version").out.startswith("labctl ")


def test_a_pod_that_goes_while_its_log_is_followed(
    portal: FakePortal, labctl: Labctl, tmp_path: Path
) -> None:
    (tmp_path / "stdout.log").write_bytes(b"one\ntwo\nthree\n")
    ended = run("succeeded", directory=str(tmp_path))
    portal.on("GET", "/runs/vision-7", run("running"), ended)
    gone = NotFoundError("the pod of run vision-7 is gone")
    portal.on("GET", "/runs/vision-7/logs", Chunks([b"one\nt", Break]), gone)
    assert labctl("logs", "-f", "vision-7")[:2] == (0, "one\ntwo\nthree\n")
