"""The tests of labssh, which are Go's own: images/runner/ssh/main_test.go."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
from test_labrun import PLACES, ROOT


def test_labssh_passes_its_own_tests() -> None:
    go = shutil.which("go", path=PLACES)
    if go is None:
        pytest.skip("there is no Go on this machine")
    # Its modules were fetched when it was built; a test fetches nothing.
    environment = os.environ | {"GOPROXY": "off", "GOFLAGS": "-mod=readonly", "CGO_ENABLED": "0"}

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [go, *words],
            cwd=ROOT / "images" / "runner" / "ssh",
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    if call("version").returncode or call("build", "-o", os.devnull, ".").returncode:
        pytest.skip("Go or the modules of labssh are not on this machine yet: make artifacts")
    for words in (["vet", "."], ["test", "-count=1", "."]):
        done = call(*words)
        assert done.returncode == 0, done.stdout + done.stderr
