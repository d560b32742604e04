"""setup.sh refuses an unfit host with one clear line, before it has changed anything."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with nothing but setup.sh, and a folder of stand-ins for the host's programs."""
    (tmp_path / "tree").mkdir()
    shutil.copy(ROOT / "setup.sh", tmp_path / "tree")
    (tmp_path / "bin").mkdir()
    return tmp_path


def setup_on(checkout: Path, **programs: str) -> subprocess.CompletedProcess[str]:
    """Run setup.sh on a host whose programs answer as given; root on Linux with room otherwise."""
    answers = {"id": "0", "uname": "Linux", "df": "Avail\\n99999", "apt-get": ""} | programs
    for name, answer in answers.items():
        program = checkout / "bin" / name
        script = answer if answer.startswith("#!") else f'#!/bin/sh\nprintf "{answer}\\n"\n'
        program.write_text(script)
        program.chmod(0o755)
    (checkout / "meminfo").write_text(f"MemTotal: {programs.get('memory', '16777216')} kB\n")
    path = f"{checkout / 'bin'}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", checkout / "tree" / "setup.sh"],
        env={"PATH": path, "LABCLUSTER_MEMINFO": str(checkout / "meminfo")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


NO_MIRROR = "#!/bin/sh\necho 'cannot resolve mirror' >&2; exit 100\n"
UNAME = '#!/bin/sh\n[ "$1" = -m ] && echo {machine} || echo {system}\n'


@pytest.mark.parametrize(
    ("programs", "sentence"),
    [
        ({"uname": UNAME.format(machine="x86_64", system="Darwin")}, "this host runs Darwin"),
        ({"uname": UNAME.format(machine="aarch64", system="Linux")}, "this host is aarch64"),
        ({"id": "1000"}, "this user is not root: run it again with sudo"),
        ({"memory": "4194304"}, "this host has 4096 MiB of memory: the lab needs 10240 MiB"),
        ({"df": "Avail\\n2048"}, "has 2048 MiB free: 32768 MiB are needed"),
        (
            {"apt-get": NO_MIRROR, "dpkg-query": "#!/bin/sh\nexit 1\n"},
            "package mirror cannot be reached (cannot resolve mirror)",
        ),
    ],
    ids=["not-linux", "not-x86", "not-root", "little-memory", "little-disk", "no-mirror"],
)  # fmt: skip
def test_an_unfit_host_is_refused_in_one_line(
    checkout: Path, programs: dict[str, str], sentence: str
) -> None:
    programs = {"uname": UNAME.format(machine="x86_64", system="Linux")} | programs
    done = setup_on(checkout, **programs)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert done.stderr.endswith("nothing was changed\n")
    assert done.stderr.count("\n") == 1
    left = {path.name for path in (checkout / "tree").iterdir()} - {"setup.sh", "build"}
    assert left == set()
