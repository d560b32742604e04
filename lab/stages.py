"""Runs the named stages of checking and testing one after another and prints how long each took.

usage: python lab/stages.py STAGE…    (the stages are the keys of STAGES, below)
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from progress import Progress, StageError

ROOT = Path(__file__).resolve().parent.parent
BIN = ROOT / ".venv" / "bin"
SITE = os.environ.get("SITE", "inventory/lab")

#: stage -> (command, folder), in the order in which `make test` runs them.
STAGES: dict[str, list[tuple[list[str], str]]] = {
    "lint": [
        (["ruff", "check", "."], "."),
        (["ruff", "format", "--check", "."], "."),
        (["mypy"], "."),
        (["lint-imports"], "."),
        (["yamllint", "--strict", "."], "."),
        (["ansible-lint", "--offline"], "ansible"),
    ],
    "unit": [(["pytest", "-q"], ".")],
    "verify": [(["python", "docs/generate.py", "--check"], ".")],
    "artifacts": [(["python", "images/build.py"], ".")],
    "integration": [(["pytest", "-q", "tests/integration"], ".")],
    "molecule": [(["molecule", "-c", ".config/molecule/config.yml", "test", "--all"], "ansible")],
    "up": [(["python", "lab/up.py", "--site", SITE], ".")],
    # Not part of `make test`: emulated machines take their time.
    "e2e-nfs": [(["pytest", "-v", "tests/vms"], ".")],
    # All but the long ones, so that a cold machine is done within the hour; `make e2e` has them too.
    "e2e": [(["pytest", "-q", "tests/e2e", "-m", "not long", "--site", SITE], ".")],
}


def main(names: list[str]) -> int:
    """Run the stages named; 0, or 1 after the first that fails, or 2 for an unknown name."""
    unknown = [name for name in names if name not in STAGES]
    if unknown or not names:
        print(
            f"stages: unknown stage {', '.join(unknown) or '(none)'}: choose from {' '.join(STAGES)}",
            file=sys.stderr,
        )
        return 2
    environment = os.environ | {
        "PATH": f"{BIN}:{ROOT}/build/go/bin:{os.environ['PATH']}",
        "PYTHONUNBUFFERED": "1",
        "MOLECULE_COMMAND_BORDERS": "0",
    }
    progress = Progress(ROOT / "build" / "log")
    try:
        for name in names:
            for command, folder in STAGES[name]:
                progress.say(name, " ".join(command))
                progress.run(
                    name, [str(BIN / command[0]), *command[1:]], cwd=ROOT / folder, env=environment, show=True
                )
    except StageError as failure:
        print(failure, file=sys.stderr)
        return 1
    finally:
        progress.summary()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
