"""labctl as people use it: through ssh on the login node, with their own keys."""

from __future__ import annotations

import io
import json
import re
import shlex
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "digits"
# Small enough that several fit on a node of a lab with two cores.
SMALL = "--project vision --memory 256M --cpus 0.2"


@pytest.fixture(scope="module")
def ada(ssh_as: Callable[..., Any]) -> Any:
    """A member of vision and shared, on the login node."""
    return ssh_as("ada")


@pytest.fixture(scope="module")
def bo(ssh_as: Callable[..., Any]) -> Any:
    """A member of speech and shared, on the login node."""
    return ssh_as("bo")


@pytest.fixture(scope="module")
def me(ada: Any) -> dict[str, Any]:
    """What the cluster says of ada."""
    found: dict[str, Any] = json.loads(good(ada("labctl whoami --json")))
    return found


def good(done: Any) -> str:
    """The output of a command that must have worked."""
    assert done.code == 0, done.err
    return str(done.out)


def submit(user: Any, options: str, command: str) -> dict[str, Any]:
    """A run that was accepted."""
    run: dict[str, Any] = json.loads(good(user(f"labctl submit {SMALL} {options} --json -- {command}")))
    return run


def show(user: Any, run: str) -> dict[str, Any]:
    """A run as it is now."""
    found: dict[str, Any] = json.loads(good(user(f"labctl show {run} --json")))
    return found


def wait_for(user: Any, run: str, *states: str, seconds: float = 60) -> dict[str, Any]:
    """A run when it is in one of some states."""
    deadline = time.monotonic() + seconds
    while (found := show(user, run))["state"] not in states:
        assert time.monotonic() < deadline, f"{run} is {found['state']} after {seconds} s: {found['reason']}"
        time.sleep(0.3)
    return found


def run_ids(user: Any) -> list[str]:
    """All runs that a user may see."""
    return [run["id"] for run in json.loads(good(user("labctl ls --all --limit 1000 --json")))]


@pytest.fixture(scope="module")
def digits(ada: Any) -> dict[str, Any]:
    """The example, run on one GPU by `submit --wait`."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.add(EXAMPLE, arcname="e2e-digits")
    good(ada("tar -xzf - --no-same-owner -C ~", stdin=packed.getvalue()))
    words = "cd ~/e2e-digits && labctl submit --project vision --gpus 1 --name digits --env SEED=3"
    done = ada(
        f"{words} --time 10m --wait --json -- bash -c 'exec python3 train.py --seed $SEED'", timeout=180
    )
    found: dict[str, Any] = json.loads(good(done))
    return found


def test_whoami_knows_the_user_and_his_projects(me: dict[str, Any]) -> None:
    assert me["user"] == "ada"
    assert me["uid"] >= 20000
    assert not me["admin"]
    projects = {project["name"]: project for project in me["projects"]}
    assert {"vision", "shared"} <= set(projects)
    assert "speech" not in projects
    assert projects["vision"]["gid"] >= 30000


def test_a_training_run_succeeds_on_a_gpu_node(digits: dict[str, Any], me: dict[str, Any]) -> None:
    assert (digits["state"], digits["exit_code"], digits["gpus"]) == ("succeeded", 0, 1)
    assert digits["node"].startswith("gpu")
    assert re.fullmatch(r"vision-\d+", digits["id"])
    assert digits["uid"] == me["uid"]
    assert digits["started_at"] <= digits["finished_at"]
    assert digits["image_digest"].startswith("sha256:")


def test_its_files_are_the_users_and_the_projects(
    ada: Any, digits: dict[str, Any], me: dict[str, Any]
) -> None:
    gid = next(project["gid"] for project in me["projects"] if project["name"] == "vision")
    listing = good(ada(f"cd {digits['directory']} && find . -printf '%P %U %G %m\\n'")).splitlines()
    entries = {line.split(" ")[0]: line.split(" ")[1:] for line in listing}
    expected = {
        "run.json",
        "args.json",
        "env.json",
        "stdout.log",
        "metrics.jsonl",
        "result.json",
        "artifacts",
    }
    expected |= {f"artifacts/{name}" for name in ("metrics.json", "confusion-matrix.png", "model.joblib")}
    assert expected <= set(entries)
    for name, (uid, group, mode) in entries.items():
        assert (int(uid), int(group)) == (me["uid"], gid), name
        assert not int(mode, 8) & 0o222, f"{name} of a finished run can be written: {mode}"
    metrics = json.loads(good(ada(f"cat {digits['directory']}/artifacts/metrics.json")))
    assert metrics["accuracy"] > 0.9
    assert metrics["seed"] == 3
    picture = good(ada(f"od -An -tx1 -N4 {digits['directory']}/artifacts/confusion-matrix.png"))
    assert picture.split() == ["89", "50", "4e", "47"]


def test_its_record_says_what_ran(ada: Any, digits: dict[str, Any]) -> None:
    def read(name: str) -> Any:
        return json.loads(good(ada(f"cat {digits['directory']}/{name}")))

    assert read("run.json")["id"] == digits["id"]
    assert read("env.json") == {"SEED": "3"}
    assert read("args.json")["command"] == digits["command"]
    result = read("result.json")
    assert (result["exit_code"], result["signal"]) == (0, None)
    steps = good(ada(f"cat {digits['directory']}/metrics.jsonl")).splitlines()
    assert [json.loads(line)["step"] for line in steps] == list(range(1, 31))


def test_its_log_names_its_one_gpu(ada: Any, digits: dict[str, Any]) -> None:
    log = good(ada(f"labctl logs {digits['id']}"))
    assert len(re.findall(r"/dev/nvidia\d+", log)) == 1
    assert log == good(ada(f"cat {digits['directory']}/stdout.log"))


def test_it_is_listed_and_shown(ada: Any, digits: dict[str, Any]) -> None:
    listed = {run["id"]: run for run in json.loads(good(ada("labctl ls --json")))}
    assert listed[digits["id"]]["state"] == "succeeded"
    assert re.search(rf"^{digits['id']} +succeeded +digits +ada +1 ", good(ada("labctl ls")), re.MULTILINE)
    assert digits["directory"] in good(ada(f"labctl show {digits['id']}"))


def test_another_project_does_not_see_it(bo: Any, digits: dict[str, Any]) -> None:
    for verb in ("show", "logs", "cancel"):
        done = bo(f"labctl {verb} {digits['id']}")
        assert (done.code, done.err.count("\n")) == (4, 1), done
    assert digits["id"] not in run_ids(bo)
    assert bo(f"cat {digits['directory']}/run.json").code != 0


def test_wait_ends_with_the_commands_exit_status(ada: Any) -> None:
    done = ada(f"cd && labctl submit {SMALL} --wait -- bash -c 'exit 7'", timeout=60)
    assert done.code == 7
    assert "failed" in done.err.splitlines()[-1]


def test_follow_prints_what_the_run_prints(ada: Any) -> None:
    script = "echo one; sleep 1; echo two >&2; sleep 1; printf three; exit 5"
    done = ada(f"cd && labctl submit {SMALL} --follow -- bash -c {shlex.quote(script)}", timeout=60)
    assert (done.code, done.out) == (5, "one\ntwo\nthree")
    assert "exit code 5" in done.err.splitlines()[-1]


def test_ctrl_c_leaves_the_run(ada: Any) -> None:
    key = f"e2e-{time.time_ns()}"
    words = f"labctl submit {SMALL} --idempotency-key {key} --follow -- sleep 300"
    done = ada(f"cd; timeout --foreground --signal INT 8 {words}")
    run = submit(ada, f"--idempotency-key {key}", "sleep 300")
    try:
        assert done.err.splitlines()[-1] == (
            f"{run['id']} goes on without you: labctl logs -f {run['id']} shows it again,"
            f" labctl cancel {run['id']} ends it"
        )
        wait_for(ada, run["id"], "running")
    finally:
        good(ada(f"labctl cancel {run['id']}"))


def test_a_run_has_its_users_identity_and_surroundings(ada: Any, me: dict[str, Any]) -> None:
    script = (
        "id -u; id -g; echo $HOME $USER $LABCLUSTER_PROJECT $PWD;"
        "df --output=fstype,size -k /dev/shm | tail -1;"
        "ls /dev | grep -c nvidia; cat /proc/1/comm; touch $LABCLUSTER_ARTIFACTS_DIR/mine"
    )
    run = json.loads(
        good(ada(f"cd ~ && labctl submit {SMALL} --wait --json -- bash -c {shlex.quote(script)}", timeout=60))
    )
    lines = good(ada(f"labctl logs {run['id']}")).splitlines()
    vision = next(project for project in me["projects"] if project["name"] == "vision")
    assert lines[:2] == [str(me["uid"]), str(vision["gid"])]
    assert lines[2] == "/lab/home/ada ada vision /lab/home/ada"
    kind, size = lines[3].split()
    assert kind == "tmpfs"
    assert 64 * 1024 < int(size) <= 256 * 1024  # half of the memory, not the runtime's 64 MiB
    assert lines[4:] == ["0", "labrun"]


def test_queue_and_nodes_show_a_run_while_it_runs(ada: Any) -> None:
    run = submit(ada, "--gpus 2 --name busy", "sleep 300")["id"]
    try:
        node = wait_for(ada, run, "running")["node"]
        queue = {item["run"]: item for item in json.loads(good(ada("labctl queue --json")))}
        assert queue[run]["state"] == "running"
        nodes = {item["name"]: item for item in json.loads(good(ada("labctl nodes --json")))}
        assert run in nodes[node]["runs"]
        assert nodes[node]["gpus"] == 4
        assert nodes[node]["gpus_used"] >= 2
        assert run in good(ada("labctl queue"))
        assert node in good(ada("labctl nodes"))
    finally:
        good(ada(f"labctl cancel {run}"))


def test_a_run_that_must_wait_says_for_what(ada: Any) -> None:
    first = [submit(ada, "--gpus 4", "sleep 300")["id"] for _ in range(2)]
    waiting = submit(ada, "--gpus 4", "true")["id"]
    try:
        for run in first:
            wait_for(ada, run, "running")
        item = next(item for item in json.loads(good(ada("labctl queue --json"))) if item["run"] == waiting)
        assert item["state"] == "queued"
        assert item["reason"]
        good(ada(f"labctl cancel {first[0]}"))
        assert wait_for(ada, waiting, "succeeded", "failed")["state"] == "succeeded"
    finally:
        good(ada(f"labctl cancel {' '.join([*first, waiting])}"))


def test_cancel_lets_the_command_save_and_leaves_a_record(ada: Any) -> None:
    script = "trap 'echo saved; exit 143' TERM; echo ready; sleep 300 & wait"
    run = submit(ada, "", f"bash -c {shlex.quote(script)}")["id"]
    found = wait_for(ada, run, "running")
    time.sleep(1)
    assert good(ada(f"labctl cancel {run}")).startswith(run)
    assert wait_for(ada, run, "cancelled")["finished_at"]
    deadline = time.monotonic() + 30
    while ada(f"test -e {found['directory']}/result.json").code and time.monotonic() < deadline:
        time.sleep(0.5)
    assert json.loads(good(ada(f"cat {found['directory']}/result.json")))["exit_code"] == 143
    assert good(ada(f"cat {found['directory']}/stdout.log")) == "ready\nsaved\n"
    assert "cancelled already" in good(ada(f"labctl cancel {run}"))


def test_a_run_is_ended_after_its_time(ada: Any) -> None:
    done = ada(f"cd && labctl submit {SMALL} --time 3s --wait --json -- sleep 300", timeout=90)
    assert done.code != 0
    assert json.loads(done.out)["state"] == "timed_out"


def test_a_command_that_is_not_there(ada: Any) -> None:
    done = ada(f"cd && labctl submit {SMALL} --follow -- no-such-program", timeout=60)
    assert (done.code, done.out) == (
        127,
        "labrun: no-such-program: command not found in the image; choose another with --image\n",
    )


def test_the_same_key_is_the_same_run(ada: Any) -> None:
    key = f"e2e-{time.time_ns()}"
    first = submit(ada, f"--idempotency-key {key}", "true")
    assert submit(ada, f"--idempotency-key {key}", "true")["id"] == first["id"]
    done = ada(f"cd && labctl submit {SMALL} --idempotency-key {key} -- false")
    assert (done.code, done.err.count("\n")) == (5, 1)


def test_images_are_listed_and_can_be_named(ada: Any) -> None:
    images = json.loads(good(ada("labctl image ls --json")))["items"]
    assert any("/common/python-ml:" in image["reference"] for image in images)
    name = good(ada("labctl image ls")).splitlines()[1].split()[0]
    words = f"cd && labctl submit {SMALL} --image {name} --wait --json"
    done = ada(f"{words} -- python3 -c 'import sklearn'", timeout=90)
    assert json.loads(good(done))["state"] == "succeeded"


def test_a_dry_run_says_what_would_be_and_creates_nothing(ada: Any) -> None:
    before = run_ids(ada)
    done = ada(f"cd; labctl submit {SMALL} --gpus 1 --dry-run --json -- python3 train.py")
    planned = json.loads(good(done))
    assert (planned["project"], planned["name"], planned["gpus"]) == ("vision", "train", 1)
    assert planned["image_digest"].startswith("sha256:")
    assert ada("cd; labctl submit --project speech --dry-run -- true").code == 3
    assert run_ids(ada) == before


BAD = {
    "unknown project": ("cd; labctl submit --project visoin -- true", 4, "visoin"),
    "a project of others": ("cd; labctl submit --project speech -- true", 3, "no member of project speech"),
    "more GPUs than exist": ("cd; labctl submit --project vision --gpus 99 -- true", 5, "more than there is"),
    "more GPUs than the project may use": ("cd; labctl submit --project shared --gpus 5 -- true", 5, "gpus"),
    "an absent image": ("cd; labctl submit --project vision --image python-lm -- true", 4, "python-ml"),
    "a foreign image": ("cd; labctl submit --project vision --image docker.io/x/y -- true", 3, "registry"),
    "no command": ("cd; labctl submit --project vision --", 2, "no command given"),
    "a directory that runs cannot see": ("cd /tmp; labctl submit --project vision -- true", 2, "/tmp"),
    "a directory of others": ("cd /; labctl submit --project vision -- true", 2, "working directory /"),
    "no memory to speak of": ("cd; labctl submit --project vision --memory 1K -- true", 2, "memory"),
    "more memory than a node has": ("cd; labctl submit --project vision --memory 9T -- true", 5, "memory"),
    "a variable of ours": ("cd; labctl submit --project vision --env LABCLUSTER_X=1 -- a", 2, "LABCLUSTER_X"),
    "a name that is none": ("cd; labctl submit --project vision --name ../x -- true", 2, "name"),
    "an unknown run": ("labctl show vision-999999", 4, "vision-999999"),
    "no id of a run": ("labctl show everything", 2, "everything"),
    "an administrator's verb": ("labctl admin project ls", 3, "administrator"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_creates_nothing(ada: Any, name: str) -> None:
    command, code, says = BAD[name]
    before = run_ids(ada)
    done = ada(command)
    assert (done.code, done.out) == (code, ""), done
    assert done.err.count("\n") == 1
    assert done.err.startswith("labctl: ")
    assert says in done.err
    assert run_ids(ada) == before


def test_somebody_without_a_project_is_refused(ssh_as: Callable[..., Any], ada: Any) -> None:
    before = run_ids(ada)
    done = ssh_as("labadmin")("cd /lab/datasets; labctl submit -- true")
    assert (done.code, done.err.count("\n")) == (3, 1), done
    assert run_ids(ada) == before


def test_administrators_see_members_and_projects(ssh_as: Callable[..., Any]) -> None:
    admin = ssh_as("labadmin")
    members = {member["name"]: member for member in json.loads(good(admin("labctl admin member ls --json")))}
    assert {"ada", "bo"} <= set(members)
    projects = {item["name"]: item for item in json.loads(good(admin("labctl admin project ls --json")))}
    assert "ada" in projects["vision"]["members"]
    assert projects["vision"]["ready"]
    vision = projects["vision"]
    again = f"labctl admin project create vision --description {shlex.quote(vision['description'])}"
    again += f" --gpus {vision['gpus']} --max-gpus {vision['max_gpus']} --weight {vision['weight']} --dry-run"
    assert good(admin(again)) == "project vision: nothing to do\n"
    planned = good(admin("labctl admin project add-member speech ada --dry-run"))
    assert planned.startswith("would ")
    assert "ada" not in projects["speech"]["members"]


@contextmanager
def portal_down(on_host: Callable[..., Any]) -> Iterator[None]:
    """The portal scaled to nothing, and back."""
    kubectl = "kubectl --kubeconfig /etc/kubernetes/admin.conf --namespace labcluster"
    gone = "wait --for=delete pod -l app.kubernetes.io/component=web --timeout=60s"
    try:
        good(on_host("management", f"{kubectl} scale deployment portal --replicas=0"))
        good(on_host("management", f"{kubectl} {gone}", timeout=90))
        yield
    finally:
        good(on_host("management", f"{kubectl} scale deployment portal --replicas=1"))
        good(on_host("management", f"{kubectl} rollout status deployment portal --timeout=110s", timeout=120))


def test_a_portal_that_is_down_accepts_nothing(ada: Any, on_host: Callable[..., Any]) -> None:
    before = run_ids(ada)
    with portal_down(on_host):
        for words in ("submit --project vision -- true", "ls", "queue"):
            done = ada(f"cd; labctl {words}")
            assert (done.code, done.out, done.err.count("\n")) == (6, "", 1), done
            assert "nothing was accepted" in done.err
    assert run_ids(ada) == before
