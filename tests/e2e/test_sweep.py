"""A sweep of twelve arms with four at once on the lab, and one whose bad arms are ended early."""

from __future__ import annotations

import json
import re
import shlex
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

pytestmark = pytest.mark.e2e

# Best at x = 2, and the worse the farther away from it, at every step.
TRAIN = """\
import sys, time
x, steps = float(sys.argv[1]), int(sys.argv[2])
for step in range(steps):
    print(f"labcluster: step={step} score={-(x - 2) ** 2 - 1 / (step + 1)}", flush=True)
    time.sleep(float(sys.argv[3]))
"""
SMALL = "--project vision --memory 128M --cpus 0.1"


class Folder:
    """ada in a folder of her own."""

    def __init__(self, ada: Any, path: str) -> None:
        self._ada, self.path = ada, path

    def at(self, command: str) -> str:
        done = self._ada(f"cd {self.path} && {command}")
        assert done.code == 0, done
        return str(done.out)

    def show(self, run: str) -> Any:
        return json.loads(self.at(f"labctl show --json {run}"))

    def until_over(self, run: str, seconds: float) -> tuple[Any, int]:
        """The sweep at its end, and how many arms had a place at once at most."""
        deadline, most = time.monotonic() + seconds, 0
        while time.monotonic() < deadline:
            found = self.show(run)
            most = max(most, sum(arm["state"] in ("starting", "running") for arm in found["members"]))
            settled = all(arm["judged_at"] for arm in found["members"])
            if found["state"] not in ("queued", "starting", "running") and settled:
                return found, most
            time.sleep(2)
        raise AssertionError(f"{run} is not over after {seconds} s: {found}")


@pytest.fixture
def folder(ssh_as: Callable[..., Any]) -> Iterator[Folder]:
    ada = ssh_as("ada")
    path = f"/lab/home/ada/sweep-{uuid.uuid4().hex[:8]}"
    assert ada(f"mkdir {path} && printf %s {shlex.quote(TRAIN)} > {path}/train.py").code == 0
    yield Folder(ada, path)
    ada(f"rm -rf {path}")


def test_twelve_arms_four_at_once_find_the_best(
    folder: Folder, browser: Browser, fill_login: Callable[[Page, str], None]
) -> None:
    sweep = folder.at(
        f"labctl sweep {SMALL} --param x=-4.0..8.0 --arms 12 --max-parallel 4 --metric score --seed 3"
        " -- python3 train.py {x} 5 0.2"
    ).split()[0]
    found, most = folder.until_over(sweep, 600)
    arms = found["members"]
    assert (found["state"], len(arms)) == ("succeeded", 12)
    assert most <= 4
    assert len({arm["params"]["x"] for arm in arms}) == 12
    for arm in arms:
        assert arm["value"] == pytest.approx(-((float(arm["params"]["x"]) - 2) ** 2) - 0.2)
    assert found["best"]["value"] == max(arm["value"] for arm in arms)
    shown = folder.at(f"labctl show {sweep}")
    assert f"best: {found['best']['id']} with score" in shown
    page = browser.new_page(ignore_https_errors=True)  # the site's authority is not this machine's
    page.goto(next(word for word in shown.split() if word.endswith(f"/sweeps/{sweep}")))
    fill_login(page, "ada")
    expect(page.get_by_text(f"{found['best']['id']} · best")).to_be_visible()
    drawn = page.locator("parallel-plot")
    for word in ("x", "score"):
        expect(drawn.locator("text", has_text=re.compile(f"^{word}$"))).to_be_visible()
    page.close()


@pytest.mark.long
def test_bad_arms_are_ended_early_and_the_controller_may_die(
    folder: Folder, on_host: Callable[..., Any]
) -> None:
    file = (
        'command = ["python3", "train.py", "{x}", "60", "1"]\nsampler = "grid"\nmax-parallel = 4\n'
        'metric = "score"\nstop-early = true\ngrace = 5\n[params]\nx = [2, 9, 10, 11]\n'
    )
    folder.at(f"printf %s {shlex.quote(file)} > sweep.toml")
    sweep = folder.at(f"labctl sweep sweep.toml {SMALL}").split()[0]
    kubectl = "kubectl --kubeconfig /etc/kubernetes/admin.conf --namespace labcluster"
    killed = on_host(
        "management", f"{kubectl} delete pod -l app.kubernetes.io/component=controller --wait=false"
    )
    assert killed.code == 0, killed
    found, _ = folder.until_over(sweep, 600)
    ended = [arm for arm in found["members"] if (arm["reason"] or "").startswith("pruned at step")]
    assert found["best"]["params"]["x"] == "2"
    assert ended
    assert all(arm["state"] == "cancelled" and arm["params"]["x"] != "2" for arm in ended)
