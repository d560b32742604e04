"""The module data_nic_check on this machine's loopback interface, which every machine has."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

MODULE = Path(__file__).parents[3] / "ansible" / "roles" / "data_nic" / "library" / "data_nic_check.py"

pytestmark = pytest.mark.skipif(not shutil.which("ip"), reason="needs ip")


def data_nic_check(**arguments: Any) -> dict[str, Any]:
    """What the module answers for the loopback interface."""
    defaults = {"interface": "lo", "address": "127.0.0.1", "mtu": loopback_mtu(), "peers": [], "timeout": 1}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(MODULE)],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": defaults | arguments}),
        capture_output=True,
        text=True,
        check=False,
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def loopback_mtu() -> int:
    """65536, unless somebody changed it."""
    return int(Path("/sys/class/net/lo/mtu").read_text())


def test_a_good_interface_passes_and_changes_nothing() -> None:
    assert data_nic_check()["changed"] is False


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"interface": "absent0"}, "no interface absent0"),
        ({"address": "192.0.2.1"}, "does not have the address 192.0.2.1"),
        ({"mtu": 9000}, "not 9000"),
    ],
)
def test_a_wrong_interface_is_named_with_its_fault(wrong: dict[str, Any], said: str) -> None:
    answer = data_nic_check(**wrong)
    assert answer["failed"] is True
    assert said in answer["msg"]
