"""Finished runs read on the login node: compare, report and export."""

from __future__ import annotations

import json
import shlex
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

TRAIN = """\
import os, sys
rate = float(sys.argv[2])
print("rate", rate)
for step in range(5):
    print(f"labcluster: step={step} loss={rate / (step + 1)}")
with open(os.environ["LABCLUSTER_ARTIFACTS_DIR"] + "/model.txt", "w") as file:
    file.write(str(rate))
"""
SUBMIT = "labctl submit --project vision --memory 128M --cpus 0.2 --name {name} --wait --json --set lr={lr}"


class Made:
    """Two runs of one repository, of which the second has another rate and one line of code more."""

    def __init__(self, ada: Any, folder: str, name: str) -> None:
        self.ada, self.folder, self.name = ada, folder, name
        self.at("git init -q -b main && git config user.name Ada && git config user.email ada@lab")
        self.at(f"printf %s {shlex.quote(TRAIN)} > train.py && git add . && git commit -qm begin")
        self.first = self.submit("0.5")
        self.at("echo 'print(\"more\")' >> train.py")
        self.second = self.submit("0.25")

    def at(self, command: str) -> str:
        done = self.ada(f"cd {self.folder} && {command}")
        assert done.code == 0, done
        return str(done.out)

    def submit(self, rate: str) -> str:
        command = SUBMIT.format(name=self.name, lr=rate)
        return str(json.loads(self.at(f"{command} -- python3 train.py --lr {{lr}}"))["id"])


@pytest.fixture(scope="module")
def made(ssh_as: Callable[..., Any]) -> Iterator[Made]:
    """The runs, and the folder that they come from."""
    ada = ssh_as("ada")
    name = f"cmp-{uuid.uuid4().hex[:8]}"
    folder = f"/lab/home/ada/{name}"
    assert ada(f"mkdir {folder}").code == 0
    yield Made(ada, folder, name)
    ada(f"rm -rf {folder}")


def test_compare_finds_parameter_metric_and_line_of_code(made: Made) -> None:
    found = json.loads(made.at(f"labctl compare --json {made.first} {made.second}"))
    different = found["differences"]
    assert different["parameters"]["lr"] == ["0.5", "0.25"]
    assert different["metrics"]["loss last"] == [0.1, 0.05]
    assert different["code"]["uncommitted changes"] == ["no", "yes"]
    [code] = found["code"]
    assert [(file["path"], file["change"], file["added"]) for file in code["files"]] == [
        ("train.py", "changed", 1)
    ]
    assert '+print("more")' in made.at(f"labctl compare --code {made.first} {made.second}")


def test_the_page_is_written(made: Made) -> None:
    made.at(f"labctl compare --html page.html {made.first} {made.second}")
    page = made.at("cat page.html")
    assert page.startswith("<!doctype html>")
    assert '"name": "loss"' in page


def test_a_member_of_another_project_reads_nothing(made: Made, ssh_as: Callable[..., Any]) -> None:
    done = ssh_as("bo")(f"cd && labctl compare {made.first} {made.second}")
    assert done.code == 4
    assert done.out == ""


def test_a_report_is_committed_into_the_projects_repository(made: Made) -> None:
    made.at("labctl report --project vision --since 1d --commit")
    assert "train.py" in made.at("git status --short")  # what was not asked for is not committed
    text = made.at("cat reports/vision/*.md")
    assert f"## {made.name}" in text
    assert f"**0.05** by {made.second}" in text
    names = made.at("git show --name-only --format= HEAD").split()
    assert any(name.endswith(".svg") for name in names)


def test_a_bundle_has_everything_of_both_runs(made: Made) -> None:
    made.at(f"labctl export {made.first} {made.second} --bundle paper.zip --license CC-BY-4.0")
    names = made.at("python3 -m zipfile -l paper.zip")
    for run in (made.first, made.second):
        for name in ("code/train.py", "metrics.csv", "stdout.log", "artifacts/model.txt", "result.json"):
            assert f"runs/{run}/{name}" in names
    script = (
        "import json, zipfile; z = zipfile.ZipFile('paper.zip');"
        "print(z.read('ro-crate-metadata.json').decode())"
    )
    graph = json.loads(made.at(f"python3 -c {shlex.quote(script)}"))["@graph"]
    actions = [entity for entity in graph if entity["@type"] == "CreateAction"]
    assert {action["@id"] for action in actions} == {f"#{made.first}", f"#{made.second}"}
    assert all(action["actionStatus"].endswith("/CompletedActionStatus") for action in actions)
