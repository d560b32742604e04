"""The tests of labrun, which are Go's own: images/runner/main_test.go."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
# Where setup.sh puts Go on a machine that has none, and where the Go project's archive goes.
PLACES = os.pathsep.join([os.environ.get("PATH", ""), str(ROOT / "build/go/bin"), "/usr/local/go/bin"])


def test_labrun_passes_its_own_tests() -> None:
    go = shutil.which("go", path=PLACES)
    if go is None:
        pytest.skip("there is no Go on this machine")
    # Standard library only: nothing may be fetched, neither modules nor another Go.
    environment = os.environ | {"GOPROXY": "off", "GOFLAGS": "-mod=readonly", "CGO_ENABLED": "0"}

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [go, *words],
            cwd=ROOT / "images" / "runner",
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    if call("version").returncode:
        pytest.skip("the Go that labrun asks for is not on this machine yet: make artifacts")
    for words in (["vet", "."], ["test", "-count=1", "."]):
        done = call(*words)
        assert done.returncode == 0, done.stdout + done.stderr
