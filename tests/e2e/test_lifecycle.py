"""What can happen to a run once accepted: each ends in the right state with a sentence, or goes on."""

from __future__ import annotations

import json
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]
KUBECTL = ROOT / "build/store/bin/kubernetes/kubectl"
SMALL = "--memory 256Mi --cpus 0.2"
# Prints as it goes, so that it can be seen to run, and says so when it is told to end.
STEPS = "trap 'echo saved; exit 0' TERM; i=0; while :; do i=$((i+1)); echo step $i; sleep 0.5 & wait $!; done"


def good(done: Any) -> str:
    """The output of a command that must have worked."""
    assert done.code == 0, done.err
    return str(done.out)


class User:
    """A member on the login node."""

    def __init__(self, run: Callable[..., Any], project: str) -> None:
        self._run = run
        self._project = project

    def run(self, command: str, **options: Any) -> Any:
        """A command; one that the portal did not accept, since it is being restarted, is given again."""
        for _ in range(60):
            done = self._run(command, **options)
            if done.code != 6:
                break
            time.sleep(1)
        return done

    def submit(self, options: str, script: str) -> str:
        """A run of a shell script; the answer is its id."""
        words = f"cd; labctl submit --project {self._project} {SMALL} {options} --json"
        run: dict[str, Any] = json.loads(good(self.run(f"{words} -- bash -c {shlex.quote(script)}")))
        return str(run["id"])

    def show(self, run: str) -> dict[str, Any]:
        """A run as it is now."""
        found: dict[str, Any] = json.loads(good(self.run(f"labctl show {run} --json")))
        return found

    def wait(self, run: str, *states: str, seconds: float = 60, attempt: int | None = None) -> dict[str, Any]:
        """A run when it is in one of some states, and in that attempt."""
        deadline = time.monotonic() + seconds
        while True:
            found = self.show(run)
            if found["state"] in states and attempt in (None, found["attempt"]):
                return found
            told = f"{run} is {found['state']} (attempt {found['attempt']}): {found['reason']}"
            assert time.monotonic() < deadline, f"after {seconds:g} s {told}"
            time.sleep(0.5)

    def cancel(self, *runs: str) -> None:
        """End runs; those that have ended stay as they are."""
        good(self.run(" && ".join(f"labctl cancel {run}" for run in runs)))

    def read(self, run: dict[str, Any], name: str) -> str:
        """A file of a run's folder."""
        return good(self.run(f"cat {run['directory']}/{name}"))

    def closed(self, run: dict[str, Any]) -> bool:
        """Whether nothing in a run's folder can be written any more."""
        return good(self.run(f"find {run['directory']} -perm /222 ! -type l")) == ""


@pytest.fixture(scope="module")
def ada(ssh_as: Callable[..., Any]) -> User:
    """A member of vision."""
    return User(ssh_as("ada"), "vision")


@pytest.fixture(scope="module")
def bo(ssh_as: Callable[..., Any]) -> User:
    """A member of speech."""
    return User(ssh_as("bo"), "speech")


@pytest.fixture(scope="module")
def kubectl(site: Any) -> Callable[..., str]:
    """kubectl as the administrator."""

    def call(*words: str, stdin: str | None = None) -> str:
        command = [KUBECTL, f"--kubeconfig={site.secrets / 'kubeconfig'}", *words]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call


@pytest.fixture
def nothing_left(kubectl: Callable[..., str]) -> Iterator[Callable[..., None]]:
    """nothing_left(run…): that no pod of ended runs goes on; of cancelled ones that nothing at all is left,
    of others that only the ended Job stays for a time (`job`)."""

    def check(*runs: str, job: bool = False) -> None:
        selector = f"labcluster.internal/run in ({','.join(runs)})"
        going = ("get", "pods", "-A", "-l", selector, "-o", "name")
        going += ("--field-selector", "status.phase!=Succeeded,status.phase!=Failed")
        objects = ("get", "pods,jobs,networkpolicies", "-A", "-l", selector, "-o", "name")
        until(30, f"nothing is left of {runs}", lambda: kubectl(*(going if job else objects)) == "")

    yield check


def until(seconds: float, what: str, check: Callable[[], bool]) -> None:
    """Wait for something that must come true."""
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, f"after {seconds:g} s still not: {what}"
        time.sleep(1)


def pod_of(kubectl: Callable[..., str], run: str) -> str:
    """The name of a run's one pod."""
    names = kubectl("get", "pods", "-A", "-l", f"labcluster.internal/run={run}", "-o", "name").split()
    assert len(names) == 1, names
    return names[0].removeprefix("pod/")


def gpus_used(user: User) -> int:
    """GPUs that are taken on all nodes."""
    return sum(node["gpus_used"] for node in json.loads(good(user.run("labctl nodes --json"))))


def test_what_a_run_does_to_itself(ada: User, nothing_left: Callable[..., None]) -> None:
    memory = ada.submit("--requeue --gpus 1", "exec python3 -c 'x = bytearray(10**9)'")
    disk = ada.submit("--requeue", "head -c 100M /dev/zero > /labcluster/full; sleep 120")
    warned = ada.submit("--time 10s --gpus 1", STEPS)
    deaf = ada.submit("--time 10s", "trap '' TERM; while :; do sleep 0.2; done")

    run = ada.wait(memory, "failed")
    assert run["reason"] == "out of memory: it used more than its --memory 256Mi"
    assert run["attempt"] == 1, "it would do the same again"

    run = ada.wait(warned, "timed_out")
    assert run["reason"] == "stopped at its time limit of 0:00:10: it was warned and ended"
    assert run["exit_code"] == 0
    log = ada.read(run, "stdout.log")
    assert "SIGTERM is sent now" in log
    assert log.endswith("saved\n")
    assert json.loads(ada.read(run, "result.json"))["ended_by"] == "time_limit"
    assert ada.closed(run)

    run = ada.wait(deaf, "timed_out")
    assert run["reason"] == (
        "stopped at its time limit of 0:00:10: it did not end when it was warned, and was killed"
    )

    run = ada.wait(disk, "failed", seconds=90)
    assert "it wrote too much to the node's own disk; write to /lab instead" in run["reason"]
    assert run["attempt"] == 1
    nothing_left(memory, disk, warned, deaf, job=True)


def evict(kubectl: Callable[..., str], run: str) -> None:
    """What `kubectl drain` does to a pod."""
    name, namespace = pod_of(kubectl, run), "project-vision"
    body = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": name, "namespace": namespace},
    }
    path = f"/api/v1/namespaces/{namespace}/pods/{name}/eviction"
    kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(body))


def test_a_drained_run_ends_or_is_tried_again(
    ada: User, kubectl: Callable[..., str], nothing_left: Callable[..., None]
) -> None:
    script = f"test $LABCLUSTER_ATTEMPT = 2 && exit 0; {STEPS}"
    once, again = ada.submit("--gpus 1", script), ada.submit("--gpus 1 --requeue", script)
    for run in (once, again):
        ada.wait(run, "running")
        evict(kubectl, run)
    found = ada.wait(once, "failed")
    assert found["reason"].startswith(f"node {found['node']} was drained while it ran")
    found = ada.wait(again, "succeeded", seconds=90)
    assert found["attempt"] == 2
    log = ada.read(found, "stdout.log")
    assert log.index("saved\n") < log.index("==== attempt 2, ")
    assert json.loads(ada.read(found, "result.json"))["attempt"] == 2
    assert json.loads(ada.read(found, "result.attempt-1.json"))["exit_code"] == 0
    assert ada.closed(found)
    nothing_left(once, again, job=True)


def test_preempted_runs_end_or_wait_again(ada: User, bo: User, nothing_left: Callable[..., None]) -> None:
    low = ada.submit("--gpus 4 --priority low", STEPS)
    normal = ada.submit("--gpus 4 --requeue", STEPS)
    runs = [low, normal]
    try:
        for run in runs:
            ada.wait(run, "running")
        # Everything is vision's now; speech takes back what it owns, from what matters least.
        owner = bo.submit("--gpus 2", STEPS)
        found = ada.wait(low, "failed")
        assert found["reason"].startswith("preempted: another project took back what it had lent")
        assert found["finished_at"]
        bo.wait(owner, "running")
        assert ada.show(normal)["state"] == "running"
        # Within a project the more important goes first: before what waits, and in place of what runs.
        later = ada.submit("--gpus 4 --priority low", "true")
        urgent = ada.submit("--gpus 4 --priority interactive", STEPS)
        runs += [later, urgent]
        ada.wait(urgent, "running")
        found = ada.wait(normal, "queued", attempt=2)
        assert ada.show(later)["state"] == "queued"
        ada.cancel(urgent)
        bo.cancel(owner)
        found = ada.wait(normal, "running")
        assert found["attempt"] == 2
        until(20, "it prints", lambda: "==== attempt 2" in ada.read(found, "stdout.log"))
    finally:
        ada.cancel(*runs)
        bo.cancel(owner)
    nothing_left(normal, urgent, owner)


def test_a_restarted_kubelet_leaves_runs_alone(
    ada: User, kubectl: Callable[..., str], on_host: Callable[..., Any]
) -> None:
    run = ada.submit("--gpus 1", STEPS)
    node = ada.wait(run, "running")["node"]
    try:
        pod = pod_of(kubectl, run)
        good(on_host(node, "systemctl restart kubelet"))
        before = ada.read(ada.show(run), "stdout.log").count("step")
        later = ada.submit("--gpus 1", "true")
        ada.wait(later, "succeeded")
        found = ada.show(run)
        assert (found["state"], found["attempt"], pod_of(kubectl, run)) == ("running", 1, pod)
        assert ada.read(found, "stdout.log").count("step") > before
    finally:
        ada.cancel(run)


EXCHANGE = """
python3 -m http.server --directory /dev/shm 29500 >/dev/null 2>&1 &
echo rank $NODE_RANK of $WORLD_SIZE > /dev/shm/rank; sleep 1
if [ $NODE_RANK = 1 ]; then python3 - <<'END'
import os, time, urllib.request
for turn in range(60):
    try:
        url = f"http://{os.environ['MASTER_ADDR']}:29500/rank"
        print(urllib.request.urlopen(url, timeout=2).read().decode())
        break
    except OSError:
        time.sleep(0.5)
END
fi
wait
"""
PROBE = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], 29500), timeout=3)
    print("reached")
except OSError:
    print("not reached")
"""


def test_only_the_pods_of_a_run_reach_one_another_and_a_cancel_leaves_nothing(
    ada: User, kubectl: Callable[..., str], nothing_left: Callable[..., None]
) -> None:
    run = ada.submit("--nodes 2", EXCHANGE)
    try:
        found = ada.wait(run, "running")
        until(
            40,
            "rank 1 reads from rank 0",
            lambda: "rank 0 of 2" in good(ada.run(f"labctl logs --rank 1 {run}")),
        )
        selector = f"labcluster.internal/run={run}"
        addresses = kubectl("get", "pods", "-A", "-l", selector, "-o", "jsonpath={.items[*].status.podIP}")
        probe = ada.submit("", f"python3 -c {shlex.quote(PROBE)} {addresses.split()[0]}")
        ada.wait(probe, "succeeded")
        assert good(ada.run(f"labctl logs {probe}")) == "not reached\n"
    finally:
        ada.cancel(run)
    nothing_left(run)
    assert json.loads(ada.read(found, "result.json"))["signal"] == "SIGTERM"
    assert ada.closed(found)


def test_one_pod_that_fails_ends_all(ada: User, nothing_left: Callable[..., None]) -> None:
    run = ada.submit("--nodes 2", "test $NODE_RANK = 1 && { echo one; exit 3; }; echo zero; sleep 300")
    found = ada.wait(run, "failed")
    assert "rank 1 on " in found["reason"]
    assert found["reason"].endswith("ended with exit code 3")
    until(40, "its folder is closed by the last", lambda: ada.closed(found))
    assert ada.read(found, "rank-1.log") == "one\n"
    assert json.loads(ada.read(found, "rank-1.json"))["exit_code"] == 3
    nothing_left(run, job=True)


def test_two_runs_that_each_need_every_gpu_both_train(ada: User, nothing_left: Callable[..., None]) -> None:
    example = (ROOT / "examples/all-reduce/train.py").read_bytes()
    good(ada.run("mkdir -p ~/e2e-all-reduce && cat > ~/e2e-all-reduce/train.py", stdin=example))
    runs = [
        ada.submit("--nodes 2 --gpus 4", f"exec python3 ~/e2e-all-reduce/train.py --seed {seed}")
        for seed in (1, 2)
    ]
    for run in runs:
        found = ada.wait(run, "succeeded", seconds=90)
        result = json.loads(ada.read(found, "artifacts/result.json"))
        assert (result["size"], len({rank["host"] for rank in result["ranks"]})) == (2, 2)
        assert result["largest_error"] < 0.05
        first, second = (rank["weights"] for rank in result["ranks"])
        assert first == second, "they have exchanged every gradient"
    nothing_left(*runs, job=True)


@pytest.mark.long
def test_a_lost_node_is_noticed_and_its_runs_end_or_move(
    ada: User,
    kubectl: Callable[..., str],
    on_host: Callable[..., Any],
    nothing_left: Callable[..., None],
) -> None:
    """The node is cut off: its kubelet says nothing, but the commands go on."""
    script = f"test $LABCLUSTER_ATTEMPT = 2 && exit 0; {STEPS}"
    runs = [ada.submit("--gpus 4", STEPS), ada.submit("--gpus 4", STEPS)]
    try:
        for run in runs:
            ada.wait(run, "running")
        node = ada.show(runs[0])["node"]
        ada.cancel(runs[0])
        once, again = ada.submit("--gpus 1", STEPS), ada.submit("--gpus 1 --requeue", script)
        runs += [once, again]
        for run in (once, again):
            assert ada.wait(run, "running")["node"] == node
        good(on_host(node, "systemctl stop kubelet"))
        try:
            ada.cancel(runs[1])
            found = ada.wait(once, "lost", seconds=120)
            assert found["reason"].startswith(f"node {node} was lost while it ran")
            found = ada.wait(again, "succeeded", seconds=90)
            assert (found["attempt"], found["node"] != node) == (2, True)
            log = ada.read(found, "stdout.log")
            assert "==== attempt 2, " in log
            # The first attempt saw the second one's claim and wrote no more into its files.
            assert "step" not in log[log.index("==== attempt 2, ") :]
            nothing_left(once, again, job=True)
            assert gpus_used(ada) == 0
        finally:
            good(on_host(node, "systemctl start kubelet"))
            kubectl("wait", "--for=condition=Ready", f"node/{node}", "--timeout=50s")
    finally:
        ada.cancel(*runs)
    until(
        40,
        "no process of them is left",
        lambda: on_host(node, "pgrep -f 'labrun exec'").out == "",
    )
