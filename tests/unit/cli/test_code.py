"""Submitting with the code that is there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from capsules import Lab, commit, git, write
from labcluster.cli import code
from labcluster.errors import ConflictError

from .conftest import FakePortal, Labctl, run, sent


def test_code_is_kept_and_the_request_names_it(
    store: Lab, net: Path, accepting: FakePortal, labctl: Labctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(net, {"train.py": "v2\n"})
    monkeypatch.chdir(net / "src")
    done = labctl("submit", "--", "python3", "model.py")
    assert (done.code, done.out, done.err) == (0, "vision-7\n", "")
    reference = sent(accepting)["code"]
    assert reference["digest"] in store.stored()
    assert (reference["root"], reference["subdir"], reference["dirty"]) == (str(net), "src", True)
    assert reference["branch"] == "main"
    assert sent(accepting)["workdir"] == str(net / "src")


def test_nothing_is_kept_of_what_the_portal_refuses(
    store: Lab, net: Path, portal: FakePortal, labctl: Labctl
) -> None:
    portal.on("POST", "/runs/check", ConflictError("--gpus 9 is more than there is"))
    done = labctl("submit", "--gpus", "9", "--", "true")
    assert (done.code, done.err) == (5, "labctl: --gpus 9 is more than there is\n")
    assert store.stored() == set()


def test_dry_run_says_what_would_be_kept_and_keeps_nothing(
    store: Lab, net: Path, accepting: FakePortal, labctl: Labctl
) -> None:
    write(net, {"new.py": "n"})
    done = labctl("submit", "--dry-run", "--", "true")
    assert done.code == 0
    assert f"would be kept: 3 files, 6 B, of {net}, commit" in done.out
    assert "with changes" in done.out
    assert labctl("submit", "--dry-run", "--json", "--", "true").json()["code"]["digest"] is None
    assert store.stored() == set()
    assert not [request for request in accepting.requests if request.path == "/runs"]


@pytest.mark.parametrize("place", ["home", "."])
def test_home_is_worked_in_as_it_is(
    store: Lab,
    accepting: FakePortal,
    labctl: Labctl,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:
    monkeypatch.chdir(tmp_path / place)
    done = labctl("submit", "--", "true")
    assert done.code == 0
    assert done.err.startswith("the code was not kept: ")
    assert done.err.count("\n") == 1
    assert "code" not in sent(accepting)
    assert [request.path for request in accepting.requests] == ["/runs"]


def test_folder_in_a_home_that_is_a_repository_is_kept_alone(
    store: Lab, accepting: FakePortal, labctl: Labctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(tmp_path / "home", "init", "--quiet")
    write(tmp_path / "home", {".bashrc": "", "net/train.py": ""})
    monkeypatch.chdir(tmp_path / "home" / "net")
    assert labctl("submit", "--", "true").code == 0
    assert sent(accepting)["code"]["root"] == str(tmp_path / "home" / "net")
    assert sent(accepting)["code"]["commit"] is None


def test_file_that_the_command_names_and_the_run_will_not_find_is_told(
    store: Lab, net: Path, accepting: FakePortal, labctl: Labctl
) -> None:
    write(net, {".gitignore": "data/\n", "data/a.csv": "", "own.csv": ""})
    (net / "empty").mkdir()
    words = ["train.py", "--data=data", "data/a.csv", "own.csv", "src", ".", "../net/src", "../..", "1"]
    done = labctl("submit", "--", *words)
    assert done.code == 0
    assert [line.split(",")[0] for line in done.err.splitlines()] == [
        "the run will not find ../..",
        "the run will not find ../net/src",
        "the run will not find data",
        "the run will not find data/a.csv",
    ]
    assert f"give its path as {net}/data/a.csv" in done.err


def test_repository_of_somebody_else_is_kept_as_a_plain_folder(
    store: Lab, net: Path, accepting: FakePortal, labctl: Labctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(net, "config", "core.fsmonitor", f"touch {store.folder}/was-started")
    git(net, "config", "filter.evil.clean", f"touch {store.folder}/was-started")
    write(net, {".gitattributes": "* filter=evil\n"})
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    monkeypatch.setattr("labcluster.adapters.git._KEPT", ("GIT_CONFIG", "GIT_TEST"))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.chdir(net / "src")
    done = labctl("submit", "--", "true")
    assert done.code == 0
    assert done.err.startswith("the code was kept without its commit: git does not trust")
    reference = sent(accepting)["code"]
    assert (reference["root"], reference["subdir"], reference["commit"]) == (str(net), "src", None)
    assert not (store.folder / "was-started").exists()


def test_no_code_works_in_the_directory(store: Lab, net: Path, accepting: FakePortal, labctl: Labctl) -> None:
    done = labctl("submit", "--no-code", "--", "true")
    assert (done.code, done.err) == (0, "")
    assert "code" not in sent(accepting)
    assert store.stored() == set()


def test_machine_without_the_tree_keeps_nothing_and_says_so(
    store: Lab, net: Path, accepting: FakePortal, labctl: Labctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code, "PROJECTS", "/nowhere/projects")
    done = labctl("submit", "--", "true")
    assert (done.code, done.err) == (
        0,
        "the code was not kept: there is no /nowhere/projects on this machine\n",
    )
    assert "code" not in sent(accepting)


def test_machine_without_git_keeps_nothing_and_says_so(
    store: Lab, net: Path, accepting: FakePortal, labctl: Labctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    done = labctl("submit", "--", "true")
    assert (done.code, done.err) == (0, "the code was not kept: git is not installed on this machine\n")


def test_project_without_a_store_is_told(
    store: Lab, net: Path, accepting: FakePortal, labctl: Labctl
) -> None:
    store.objects.rmdir()
    done = labctl("submit", "--", "true")
    assert done.code == 4
    assert "project vision has no" in done.err
    assert not [request for request in accepting.requests if request.path == "/runs"]


def test_parameters_seed_and_data_are_sent(
    store: Lab,
    net: Path,
    accepting: FakePortal,
    labctl: Labctl,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    (tmp_path / "datasets" / "mnist").mkdir(parents=True)
    (net / "sub").mkdir()
    monkeypatch.setattr("labcluster.cli.parameters.DATASETS", str(tmp_path / "datasets"))
    words = "submit --set lr=0.1 -s note=a=b --seed 7 --data mnist --data sub -- train --lr {lr}"
    assert labctl(*words.split()).code == 0
    body = sent(accepting)
    assert (body["params"], body["seed"]) == ({"lr": "0.1", "note": "a=b"}, 7)
    assert body["data"] == [str(tmp_path / "datasets" / "mnist"), str(net / "sub")]
    assert body["command"] == ["train", "--lr", "{lr}"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--set lr -- x", "--set 'lr': write it as NAME=VALUE"),
        ("--seed -1 -- x", "-1 is not in the range"),
        ("--data train.py -- x", "it is no directory"),
    ],
)
def test_wrong_words_are_told(store: Lab, net: Path, labctl: Labctl, words: str, says: str) -> None:
    done = labctl("submit", *words.split())
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert says in done.err


def test_toml_beside_the_code_gives_defaults(
    store: Lab, net: Path, accepting: FakePortal, labctl: Labctl
) -> None:
    write(
        net,
        {
            "labcluster.toml": '[submit]\ngpus = 2\ntime = "2h"\nproject = "speech"\nrequeue = true\n'
            'data = ["src"]\n'
            "[submit.env]\nA = 1\nB = 2\n[submit.set]\nlr = 0.1\nepochs = 3\n"
        },
    )
    assert labctl("submit", "--project", "vision", "--set", "lr=1", "-e", "B=3", "--", "true").code == 0
    body = sent(accepting)
    assert (body["gpus"], body["time_seconds"], body["project"], body["requeue"]) == (2, 7200, "vision", True)
    assert body["env"] == {"A": "1", "B": "3"}
    assert body["params"] == {"lr": "1", "epochs": "3"}
    assert body["data"] == [str(net / "src")]


def test_toml_can_say_that_no_code_is_kept(
    store: Lab, net: Path, accepting: FakePortal, labctl: Labctl
) -> None:
    write(net, {"labcluster.toml": "[submit]\nno-code = true\n"})
    assert labctl("submit", "--", "true").code == 0
    assert "code" not in sent(accepting)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[submit]\ngpu = 1\n", "[submit] has 'gpu', but the options are after, array, cpus"),
        ('[submit]\ngpus = "many"\n', "gpus under [submit]: 'many' is not a valid integer range"),
        ('[submit]\ntime = "soon"\n', "--time 'soon' is not a time"),
        ("submit = 1\n", "submit must be a table"),
        ("[submit\n", "labcluster.toml: "),
        ("[code]\nlimit = 5\n", 'limit = "500M"'),
        ("[submit]\ndry-run = true\n", "has 'dry-run'"),
    ],
)
def test_wrong_toml_is_told_in_one_line(
    store: Lab, net: Path, accepting: FakePortal, labctl: Labctl, text: str, says: str
) -> None:
    write(net, {"labcluster.toml": text})
    done = labctl("submit", "--", "true")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert says in done.err


def test_limit_of_the_toml_holds(store: Lab, net: Path, accepting: FakePortal, labctl: Labctl) -> None:
    write(net, {"labcluster.toml": '[code]\nlimit = "1K"\n', "big.csv": "x" * 2000})
    done = labctl("submit", "--", "true")
    assert done.code == 2
    assert "more than 1.0 KiB; the largest: big.csv (2.0 KiB)" in done.err


def test_file_keeps_the_code_of_all_its_lines_once(
    store: Lab, net: Path, accepting: FakePortal, labctl: Labctl, tmp_path: Path
) -> None:
    write(tmp_path / "other", {"x.py": "x"})
    lines = [
        {"command": "a"},
        {"command": "b", "set": {"lr": 1}},
        {"command": "c", "workdir": str(tmp_path / "other")},
    ]
    (net / "runs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    commit(net, {})
    accepting.on("POST", "/runs/bulk/check", {"items": [run(), run(), run()]})
    accepting.on("POST", "/runs/bulk", {"ids": ["vision-1", "vision-2", "vision-3"]})
    done = labctl("submit", "--set", "epochs=3", "--file", "runs.jsonl")
    assert (done.code, done.out) == (0, "vision-1\nvision-2\nvision-3\n")
    items = sent(accepting, "/runs/bulk")["items"]
    assert items[0]["code"] == items[1]["code"] != items[2]["code"]
    assert {item["code"]["digest"] for item in items} <= store.stored()
    assert [item["params"] for item in items] == [
        {"epochs": "3"},
        {"epochs": "3", "lr": "1"},
        {"epochs": "3"},
    ]


def test_show_tells_code_parameters_seed_data_and_parent(portal: FakePortal, labctl: Labctl) -> None:
    kept = {
        **{"digest": "a" * 64, "commit": "b" * 40, "branch": "main", "remote": "https://git.lab/net"},
        **{"dirty": True, "subdir": "", "root": "/lab/home/ada/net"},
    }
    more = {
        "code": kept,
        "params": {"lr": "0.1"},
        "seed": 7,
        "data": ["/lab/datasets/a"],
        "parent": "vision-3",
    }
    portal.on("GET", "/runs/vision-7", run("running", **more))
    text = labctl("show", "vision-7").out
    assert "bbbbbbbbbb of main, https://git.lab/net, with changes" in text
    for name, value in (
        ("parameters", "lr=0.1"),
        ("seed", "7"),
        ("data", "/lab/datasets/a"),
        ("repeats", "vision-3"),
    ):
        assert any(line.split() == [name, value] for line in text.splitlines()), name
