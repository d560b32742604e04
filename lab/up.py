#!/usr/bin/env python3
"""From this machine to a finished training run on a virtual site: what `make up` and `make down` call.

usage: python lab/up.py [--site inventory/lab] [--down] [--no-run]
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from progress import Progress, StageError

ROOT = Path(__file__).resolve().parent.parent
BIN = ROOT / ".venv" / "bin"

#: What a stage prints that is worth a progress line.
_PLAY = re.compile(r"^PLAY \[(.+)\]")
_TASK = re.compile(r"^TASK \[(.+)\]")


def ansible_step(line: str) -> str | None:
    """The play that an Ansible output line begins; on a terminal each task too."""
    if match := _PLAY.match(line):
        return match[1]
    if sys.stdout.isatty() and (match := _TASK.match(line)):
        return match[1]
    return None


@contextlib.contextmanager
def only_one(site: str) -> Iterator[None]:
    """Hold the site's lock: a second `make up` at the same time is told so and changes nothing."""
    lock = ROOT / "build" / f"{Path(site).name}.lock"
    lock.parent.mkdir(exist_ok=True)
    with lock.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            print(
                f"up: another make up or down of {site} is running (process {holder}): "
                "wait for it or stop it; nothing was changed",
                file=sys.stderr,
            )
            sys.exit(5)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


class Lab:
    """The lab of one inventory folder, brought up and taken down by playbooks."""

    def __init__(self, site: str, progress: Progress) -> None:
        self.inventory = (ROOT / site).resolve()
        self.progress = progress
        self.environment = os.environ | {
            "PATH": f"{BIN}:{ROOT}/build/go/bin:{os.environ['PATH']}",
            "PYTHONUNBUFFERED": "1",
            "ANSIBLE_FORCE_COLOR": "0",
        }

    def artifacts(self) -> None:
        """Build what changed into build/store."""
        self.progress.run(
            "artifacts", [str(BIN / "python"), "images/build.py"], cwd=ROOT, env=self.environment, show=True
        )

    def playbook(self, stage: str, name: str) -> None:
        """Run one playbook of ansible/playbooks on this site as a stage."""
        self.progress.run(
            stage,
            [str(BIN / "ansible-playbook"), "-i", str(self.inventory), f"playbooks/{name}.yml"],
            cwd=ROOT / "ansible",
            env=self.environment,
            headline=ansible_step,
        )

    def first_run(self) -> None:
        """Make the lab's people and projects and let one of them train on a GPU."""
        self.progress.run(
            "first-run",
            [str(BIN / "python"), str(ROOT / "lab" / "first_run.py"), "--site", str(self.inventory)],
            cwd=ROOT,
            env=self.environment,
            show=True,
        )


def main() -> int:
    """Exit status 0, 1 where a stage failed, 2 for a wrong site, 5 where another one is at work."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--site", default="inventory/lab", help="inventory folder (default: %(default)s)")
    parser.add_argument("--down", action="store_true", help="remove the lab instead")
    parser.add_argument("--no-run", action="store_true", help="stop before the first training run")
    arguments = parser.parse_args()
    if not (ROOT / arguments.site / "hosts.yml").exists():
        print(
            f"up: {arguments.site} has no hosts.yml: name an inventory folder, e.g. inventory/lab",
            file=sys.stderr,
        )
        return 2
    with only_one(arguments.site):
        progress = Progress(ROOT / "build" / "log" / Path(arguments.site).name)
        lab = Lab(arguments.site, progress)
        try:
            if arguments.down:
                lab.playbook("down", "lab_down")
                return 0
            lab.artifacts()
            lab.playbook("hosts", "lab")
            lab.playbook("site", "site")
            if not arguments.no_run:
                lab.first_run()
        except StageError as failure:
            print(failure, file=sys.stderr)
            print("up: it is safe to run make up again: it goes on where this one stopped", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("\nup: interrupted; run make up again to go on", file=sys.stderr)
            return 130
        progress.summary()
    return 0


if __name__ == "__main__":
    sys.exit(main())
