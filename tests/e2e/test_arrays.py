"""Arrays, several submits in one, and chains, as people use them on the login node."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

# So small that what bounds them is the array's own limit.
SMALL = "--project vision --memory 64M --cpus 0.1"
# Each member leaves when it began and ended, and ends with an exit status of its own.
MEMBER = (
    "echo $LABCLUSTER_ARRAY_ID $LABCLUSTER_ARRAY_INDEX of $LABCLUSTER_ARRAY_SIZE;"
    " date +b:%s.%N >> $LABCLUSTER_RUN_DIR/times; sleep 3; date +e:%s.%N >> $LABCLUSTER_RUN_DIR/times;"
    " [ $LABCLUSTER_ARRAY_INDEX != 4 ] || [ $LABCLUSTER_ATTEMPT != 1 ] || exit 7"
)


@pytest.fixture(scope="module")
def ada(ssh_as: Callable[..., Any]) -> Any:
    """A member of vision and shared, on the login node."""
    return ssh_as("ada")


def good(done: Any) -> str:
    """The output of a command that must have worked."""
    assert done.code == 0, done.err
    return str(done.out)


def show(user: Any, run: str) -> dict[str, Any]:
    """A run or an array as it is now."""
    found: dict[str, Any] = json.loads(good(user(f"labctl show {run} --json")))
    return found


def wait_for(user: Any, run: str, *states: str, seconds: float = 60) -> dict[str, Any]:
    """A run when it is in one of some states."""
    deadline = time.monotonic() + seconds
    while (found := show(user, run))["state"] not in states:
        assert time.monotonic() < deadline, f"{run} is {found['state']} after {seconds} s: {found['reason']}"
        time.sleep(0.3)
    return found


def newest(user: Any) -> str:
    """The id of the last run that was accepted in the user's projects."""
    return str(json.loads(good(user("labctl ls --all --limit 1 --json")))[0]["id"])


@pytest.fixture(scope="module")
def array(ada: Any) -> dict[str, Any]:
    """Twelve members, three at a time; member 10 is cancelled while it waits."""
    run = good(ada(f"labctl submit {SMALL} --name e2e-array --array 0-11%3 -- sh -c '{MEMBER}'")).strip()
    assert good(ada(f"labctl cancel {run} --index 10")).startswith(f"{run} now:")
    return wait_for(ada, run, "failed", "succeeded", "cancelled", seconds=150)


def test_never_more_than_three_ran_at_once(ada: Any, array: dict[str, Any]) -> None:
    assert array["array"]["counts"] == {"succeeded": 10, "failed": 1, "cancelled": 1}
    assert array["exit_code"] == 7
    folders = f"/lab/projects/vision/runs/{array['number']}_*_e2e-array"
    words = good(ada(f"cat {folders}/times")).split()
    events = sorted((float(word[2:]), 1 if word.startswith("b") else -1) for word in words)
    running, most = 0, 0
    for _, change in events:
        running += change
        most = max(most, running)
    assert len(events) == 22
    assert 2 <= most <= 3, "three is the limit, and it is used"
    assert f"{array['id']} 11 of 12" in good(ada(f"labctl logs {array['id']}.11"))


def test_array_is_one_row_with_its_members_counted(ada: Any, array: dict[str, Any]) -> None:
    rows = [
        line for line in good(ada("labctl ls --limit 100")).splitlines() if line.split()[0] == array["id"]
    ]
    assert len(rows) == 1
    assert "succeeded:10" in rows[0]
    members = {member["array_index"]: member for member in array["members"]}
    assert list(members) == list(range(12))
    assert (members[4]["state"], members[4]["exit_code"]) == ("failed", 7)
    assert (members[10]["state"], members[10]["reason"]) == ("cancelled", "cancelled by ada")
    assert not members[10]["started_at"]


def test_members_are_queued_again_by_index(ada: Any, array: dict[str, Any]) -> None:
    good(ada(f"labctl cancel --requeue {array['id']} --index 4,10"))
    found = wait_for(ada, array["id"], "succeeded", "failed", seconds=60)
    assert found["array"]["counts"] == {"succeeded": 12}
    attempts = [member["attempt"] for member in found["members"]]
    assert attempts == [2 if index in (4, 10) else 1 for index in range(12)]


def test_file_with_an_error_on_line_3_accepts_nothing(ada: Any) -> None:
    before = newest(ada)
    good(ada("cat > ~/e2e.jsonl", stdin=b'{"command": "true"}\n{"command": "true"}\n{"image": "nosuch"}\n'))
    done = ada(f"labctl submit {SMALL} --file ~/e2e.jsonl -- true")
    assert done.code == 4
    assert "e2e.jsonl line 3: image 'nosuch' is not in the registry" in done.err
    assert newest(ada) == before


def test_file_is_accepted_once_under_one_key(ada: Any) -> None:
    lines = b"".join(b'{"command": ["sleep", "60"], "name": "bulk-%d", "gpus": 4}\n' % n for n in range(5))
    good(ada("cat > ~/e2e.jsonl", stdin=lines))
    words = f"labctl submit {SMALL} --idempotency-key e2e-bulk-{time.time_ns()} --file ~/e2e.jsonl"
    runs = good(ada(words)).split()
    assert len(runs) == len(set(runs)) == 5
    assert good(ada(words)).split() == runs
    good(ada(f"labctl cancel {' '.join(runs)}"))


def test_large_array_is_accepted_at_once_and_ends_at_once(ada: Any) -> None:
    words = f"labctl submit {SMALL} --gpus 4 --name e2e-large --array 0-499%20 -- sleep 60"
    began = time.monotonic()
    run = good(ada(words)).strip()
    took = time.monotonic() - began
    found = show(ada, run)
    assert (found["array"]["total"], len(found["members"])) == (500, 500)
    queue = [line for line in good(ada("labctl queue")).splitlines() if run in line.split()]
    assert len(queue) == 1
    assert good(ada(f"labctl cancel {run}")) == f"{run} now: 500 cancelled\n"
    assert took <= 3


def test_chain_goes_on_after_success_only(ada: Any) -> None:
    good_one = good(ada(f"labctl submit {SMALL} -- true")).strip()
    # Long enough that the others are accepted before: after its end they would be refused at once.
    bad_one = good(ada(f"labctl submit {SMALL} -- sh -c 'sleep 8; exit 1'")).strip()
    after_good = good(ada(f"labctl submit {SMALL} --after {good_one}:ok -- true")).strip()
    after_bad = good(ada(f"labctl submit {SMALL} --after {bad_one}:ok --after {good_one} -- true")).strip()
    after_any = good(ada(f"labctl submit {SMALL} --after {bad_one} -- true")).strip()
    assert wait_for(ada, after_good, "succeeded", "failed", "cancelled")["state"] == "succeeded"
    ended = wait_for(ada, after_bad, "succeeded", "failed", "cancelled")
    assert (ended["state"], ended["started_at"]) == ("cancelled", None)
    assert ended["reason"] == f"cancelled: it was to run after {bad_one} had succeeded, which failed"
    assert wait_for(ada, after_any, "succeeded", "failed", "cancelled")["state"] == "succeeded"
    began = show(ada, after_good)["started_at"]
    assert began >= show(ada, good_one)["finished_at"]


@pytest.mark.parametrize(("after", "code"), [("vision-999999", 4), ("speech-1", 3), ("nonsense", 2)])
def test_unknown_and_foreign_runs_are_not_waited_for(ada: Any, after: str, code: int) -> None:
    assert ada(f"labctl submit {SMALL} --after {after} -- true").code == code
