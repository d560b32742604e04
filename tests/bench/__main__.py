"""Measure labctl on a running lab as its users meet it: on the login node, through ssh.

Prints a table (or --json) and writes nothing, but for --write: the table then replaces its own section of
that Markdown file. Needs an idle lab; anything else that runs is measured too.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.bench.figures import FIGURES, Figure
from tests.bench.report import machine, markdown, plain, replace_section

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


def ssh_command(site: Path, user: str) -> list[str]:
    """The ssh words before a command on the login node of a site."""
    listing = subprocess.run(
        [ROOT / ".venv/bin/ansible-inventory", "-i", site, "--list"],
        cwd=ROOT / "ansible", check=True, capture_output=True, text=True,
    )  # fmt: skip
    inventory = json.loads(listing.stdout)
    login = inventory["_meta"]["hostvars"][inventory["login"]["hosts"][0]]
    secrets = site / "secrets"
    return [
        "ssh", "-F", "none", "-i", str(secrets / f"users/{user}_ed25519"), "-o", "IdentitiesOnly=yes",
        "-o", "BatchMode=yes", "-o", f"UserKnownHostsFile={secrets / 'known_hosts'}",
        f"{user}@{login['ansible_host']}",
    ]  # fmt: skip


def measure(ssh: list[str], figure: Figure, count: int) -> dict[str, Any]:
    """Samples in milliseconds, taken by `on_login.py` on the login node."""
    command = shlex.join(["/usr/bin/python3", "-", figure.measure, str(count)])
    done = subprocess.run(
        [*ssh, command], input=(HERE / "on_login.py").read_text(), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"tests.bench: {figure.measure}: {done.stderr.strip()}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def samples_of(name: str, figure: Figure, options: argparse.Namespace, ssh: list[str]) -> dict[str, Any]:
    """The samples of a figure, with fake nodes where it needs them."""
    count = options.count or figure.repeats
    if name != "bound":
        return measure(ssh, figure, count)
    from tests.bench import binding

    store = ROOT / "build" / "bench"
    words = [sys.executable, ROOT / "images/build.py", "kwok", "kwok-stages", "--store", store]
    subprocess.run(words, check=True, stdout=sys.stderr)
    submit = lambda: {run: began[0] for run, began in measure(ssh, figure, count).items()}  # noqa: E731
    return binding.measure(options.site.resolve(), store, submit)


def main() -> int:
    """Exit status 0; 1 if a figure misses its target."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--site", type=Path, required=True, help="inventory folder of the running lab")
    parser.add_argument("--user", default="ada", help="who submits (default ada)")
    parser.add_argument("--figures", default=",".join(FIGURES), help="which of %(default)s")
    parser.add_argument("--count", type=int, help="samples a figure (default: the figure's own)")
    parser.add_argument("--json", action="store_true", help="print JSON with every sample")
    parser.add_argument(
        "--write", type=Path, metavar="FILE", help="also keep the table in this Markdown file"
    )
    options = parser.parse_args()
    unknown = set(options.figures.split(",")) - set(FIGURES)
    if unknown:
        parser.error(f"unknown figures {', '.join(sorted(unknown))}: choose from {', '.join(FIGURES)}")

    ssh = ssh_command(options.site.resolve(), options.user)
    results = []
    for name in options.figures.split(","):
        figure = FIGURES[name]
        print(f"measuring: {figure.title}", file=sys.stderr, flush=True)
        results.append(figure.judge(samples_of(name, figure, options, ssh)))
    where = machine()
    if options.json:
        print(json.dumps({"machine": where, "figures": results}, indent=2, ensure_ascii=False))
    else:
        print(plain(where, results))
    if options.write:
        replace_section(options.write, "labctl", markdown(where, results))
    return 0 if all(result["met"] for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
