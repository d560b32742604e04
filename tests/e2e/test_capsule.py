"""Code as it was at submit, and running it again, as people meet them on the login node."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

SMALL = "--project vision --memory 256M --cpus 0.2"
GIT = "git -c user.name=ada -c user.email=ada@lab.internal"
FOLDER = "~/e2e-capsule"
SCRIPT = """
import json, os, pathlib, sys
here = pathlib.Path.cwd()
files = {str(path.relative_to(here)): path.read_text() for path in sorted(here.rglob("*.txt"))}
words = {name: os.environ[name] for name in ("LABCLUSTER_SEED", "LABCLUSTER_PARAMS", "LABCLUSTER_SUBMIT_DIR")}
print(json.dumps({"args": sys.argv[1:], "cwd": str(here), "files": files} | words))
"""


def good(done: Any) -> str:
    """The output of a command that must have worked."""
    assert done.code == 0, done.err
    return str(done.out)


@pytest.fixture(scope="module")
def ada(ssh_as: Callable[..., Any]) -> Any:
    """A member of vision and shared, on the login node, with a repository that has uncommitted changes."""
    person = ssh_as("ada")
    steps = (
        f"rm -rf {FOLDER} && mkdir {FOLDER} && cd {FOLDER} && git init -q -b main",
        "cat > tell.py && printf committed > a.txt && printf committed > gone.txt",
        "printf ignored/ > .gitignore",
        f"git add -A && {GIT} commit -q -m first && git remote add origin https://ada:topsecret@git.lab/net.git",
        "printf changed > a.txt && printf untracked > new.txt && rm gone.txt && mkdir ignored sub",
        "printf x > ignored/x.txt && printf below > sub/below.txt",
    )
    good(person(" && ".join(steps), stdin=SCRIPT.encode()))
    return person


def show(user: Any, run: str) -> dict[str, Any]:
    """A run as it is now."""
    found: dict[str, Any] = json.loads(good(user(f"labctl show {run} --json")))
    return found


def ended(user: Any, run: str, seconds: float = 180) -> dict[str, Any]:
    """A run when it has succeeded."""
    deadline = time.monotonic() + seconds
    while (found := show(user, run))["state"] in ("queued", "starting", "running"):
        assert time.monotonic() < deadline, f"{run} is {found['state']}: {found['reason']}"
        time.sleep(0.5)
    assert found["state"] == "succeeded", found["reason"]
    return found


def told(user: Any, run: dict[str, Any]) -> dict[str, Any]:
    """What the script printed."""
    lines = good(user(f"labctl logs {run['id']}")).splitlines()
    found: dict[str, Any] = json.loads(next(line for line in lines if line.startswith("{")))
    return found


@pytest.fixture(scope="module")
def queued(ada: Any) -> dict[str, Any]:
    """A run that waited while its code was edited, committed and thrown away."""
    first = good(ada(f"cd && labctl submit {SMALL} -- sleep 15")).strip()
    words = f"labctl submit {SMALL} --after {first} --set lr=0.1 --seed 7 --name e2e-capsule --json"
    run = json.loads(good(ada(f"cd {FOLDER} && {words} -- python3 tell.py --lr {{lr}} {{other}}")))
    steps = (
        f"cd {FOLDER} && printf edited-later > a.txt && rm new.txt && rm -rf sub",
        f"git add -A && {GIT} commit -q -m later && printf broken > tell.py",
    )
    good(ada(" && ".join(steps)))
    assert show(ada, run["id"])["state"] == "queued"
    return ended(ada, run["id"])


def test_what_is_queued_runs_the_code_as_it_was_at_submit(ada: Any, queued: dict[str, Any]) -> None:
    said = told(ada, queued)
    assert said["files"] == {"a.txt": "changed", "new.txt": "untracked", "sub/below.txt": "below"}
    assert said["args"] == ["--lr", "0.1", "{other}"]
    assert said["cwd"] == f"{queued['directory']}/code"
    assert said["LABCLUSTER_SUBMIT_DIR"] == "/lab/home/ada/e2e-capsule"
    assert (said["LABCLUSTER_SEED"], json.loads(said["LABCLUSTER_PARAMS"])) == ("7", {"lr": "0.1"})


def test_its_record_says_which_code_it_was(ada: Any, queued: dict[str, Any]) -> None:
    code = queued["code"]
    assert code["dirty"]
    assert (code["branch"], code["remote"]) == ("main", "https://git.lab/net.git")
    capsule = json.loads(good(ada(f"cat {queued['directory']}/code.json")))
    assert capsule["git"]["commit"] == code["commit"]
    assert capsule["deleted"] == ["gone.txt"]
    assert "+changed" in good(ada(f"cat {queued['directory']}/code.patch"))
    args = json.loads(good(ada(f"cat {queued['directory']}/args.json")))
    assert args["command"] == ["python3", "tell.py", "--lr", "0.1", "{other}"]
    assert (args["params"], args["seed"]) == ({"lr": "0.1"}, 7)
    assert ada("grep -rl topsecret /lab/projects/vision/capsules").out == ""


def test_rerun_has_the_old_code_and_the_new_parameter(ada: Any, queued: dict[str, Any]) -> None:
    run = json.loads(good(ada(f"cd && labctl rerun {queued['id']} --set lr=0.01 --json")))
    assert (run["parent"], run["code"]) == (queued["id"], queued["code"])
    assert run["image_digest"] == queued["image_digest"]
    before, after = told(ada, queued), told(ada, ended(ada, run["id"]))
    assert after["files"] == before["files"]
    assert after["args"] == ["--lr", "0.01", "{other}"]
    assert after["LABCLUSTER_SEED"] == "7"
    assert queued["id"] in good(ada(f"labctl show {run['id']}"))


def test_rerun_with_the_current_code_has_todays(ada: Any, queued: dict[str, Any]) -> None:
    good(ada(f"cd {FOLDER} && git checkout -q -- tell.py"))
    words = f"labctl rerun {queued['id']} --code current --wait --json"
    run = json.loads(good(ada(f"cd {FOLDER} && {words}", timeout=180)))
    assert told(ada, run)["files"] == {"a.txt": "edited-later"}


def test_many_runs_of_the_same_code_store_it_once(ada: Any) -> None:
    count = "find /lab/projects/vision/capsules -type f | wc -l"
    submit = f"labctl submit {SMALL} --dry-run --json -- true"
    good(ada(f"cd {FOLDER} && labctl submit {SMALL} -- true"))
    before = good(ada(count))
    assert json.loads(good(ada(f"cd {FOLDER} && {submit}")))["code"]["digest"] is None
    lines = "\n".join(
        json.dumps({"command": ["true"], "project": "vision", "memory": "64Mi", "cpus": 0.1})
        for _ in range(20)
    )
    ids = good(ada(f"cd {FOLDER} && labctl submit --file -", stdin=lines.encode())).split()
    assert len(ids) == 20
    assert good(ada(count)) == before
    good(ada(f"labctl cancel {' '.join(ids)}", timeout=120))


def test_another_member_of_the_project_runs_it_again_and_nobody_else(
    ada: Any, ssh_as: Callable[..., Any], queued: dict[str, Any]
) -> None:
    bo = ssh_as("bo")
    mine = queued["code"]["digest"]
    assert bo(f"cat /lab/projects/vision/capsules/{mine[:2]}/{mine}").code != 0
    words = f"labctl submit {SMALL.replace('vision', 'shared')} --wait --json -- python3 tell.py"
    run = json.loads(good(ada(f"cd {FOLDER} && {words}", timeout=180)))
    again = json.loads(good(bo(f"labctl rerun {run['id']} --wait --json", timeout=180)))
    assert (again["user"], again["state"], again["code"]) == ("bo", "succeeded", run["code"])
    name = run["code"]["digest"]
    stored = f"/lab/projects/shared/capsules/{name[:2]}/{name}"
    assert bo(f"echo x >> {stored}").code != 0


def test_code_that_is_gone_is_told_before_anything_is_submitted(ada: Any) -> None:
    run = json.loads(good(ada(f"cd {FOLDER} && date > own.txt && labctl submit {SMALL} --json -- true")))
    name = run["code"]["digest"]
    good(ada(f"labctl cancel {run['id']}"))
    good(ada(f"rm -f /lab/projects/vision/capsules/{name[:2]}/{name}"))
    done = ada(f"labctl rerun {run['id']}")
    assert (done.code, done.err.count("\n")) == (4, 1)
    assert "--code current" in done.err


def test_link_that_leads_out_is_refused_by_name(ada: Any) -> None:
    done = ada(f"cd {FOLDER} && ln -s /lab/datasets data && labctl submit {SMALL} -- true; rm data")
    assert "data (a link that leads out, to /lab/datasets)" in done.err
    assert done.out == ""


def test_runs_on_other_bytes_are_told_apart(ada: Any) -> None:
    good(ada("mkdir -p ~/e2e-data && printf one > ~/e2e-data/a && printf two > ~/e2e-data/b"))
    words = f"cd && labctl submit {SMALL} --data e2e-data --wait --json -- true"

    def digest() -> tuple[str, int]:
        run = json.loads(good(ada(words, timeout=180)))
        (data,) = json.loads(good(ada(f"cat {shlex.quote(run['directory'])}/data.json")))
        return data["digest"], data["files"]

    first = digest()
    assert digest() == first
    good(ada("printf other > ~/e2e-data/b"))
    assert digest() != first


def test_a_submit_of_500_files_is_hardly_later_than_one_of_none(ada: Any) -> None:
    make = "import pathlib\nfor n in range(500):\n    pathlib.Path(f'm{n}.py').write_text('x = 1\\n' * 100)\n"
    steps = f"rm -rf {FOLDER}-500 && mkdir {FOLDER}-500 && cd {FOLDER}-500 && git init -q && python3 -"
    good(ada(f"{steps} && git add -A && {GIT} commit -q -m all", stdin=make.encode()))

    def median(options: str) -> float:
        submit = f"labctl submit {SMALL} {options} --after $RUN -- true >/dev/null"
        once = f"b=$(date +%s%N); {submit}; echo $(( ($(date +%s%N) - b) / 1000000 ))"
        start = f"cd {FOLDER}-500; RUN=$(labctl submit {SMALL} -- sleep 60)"
        times = good(
            ada(
                f"{start}; {submit}; for n in 1 2 3 4 5 6 7; do {once}; done; labctl cancel $RUN", timeout=120
            )
        )
        return sorted(int(line) for line in times.splitlines() if line.isdigit())[3]

    added = median("") - median("--no-code")
    print(f"added by the capsule: {added} ms")
    # A busy lab of two cores; a quiet machine keeps the 100 ms that are promised.
    assert added < 250
