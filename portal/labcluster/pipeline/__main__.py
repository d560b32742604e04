"""python3 -m labcluster.pipeline: a pipeline, or one task of it, in this process; or the plan of its runs.

    run  MODULE:TASK [-p K=V]… [--workspace DIR] [--only ID]   do what is not there yet
    plan MODULE:TASK [-p K=V]… [--workspace DIR]               print as JSON what is left, and do nothing

Exit status: 0, 1 a task failed, 2 wrong arguments, 4 no such module or task, 5 changed since it was planned.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import gokart
import luigi
from gokart.build import GokartBuildError

from labcluster.errors import LabclusterError
from labcluster.pipeline import planning
from labcluster.pipeline.record import record
from labcluster.pipeline.tasks import Task, name_of


def main(words: list[str] | None = None) -> int:
    """Do what the command line says; answers the exit status."""
    given = _arguments(words)
    workspace = Path(given.workspace).absolute()
    config = luigi.configuration.get_config()
    config.set("core", "no_configure_logging", "true")
    config.set("TaskOnKart", "workspace_directory", str(workspace))
    config.set("TaskOnKart", "local_temporary_directory", str(workspace / "tmp"))
    sys.path.insert(0, os.getcwd())  # noqa: PTH109
    try:
        root = planning.load(given.task, dict(given.params))
        if given.verb == "plan":
            return _plan(root)
        wanted = planning.find(root, given.only) if given.only else root
        return _run(wanted, final=wanted.make_unique_id() == root.make_unique_id(), workspace=workspace)
    except LabclusterError as error:
        print(f"labcluster.pipeline: {error.detail}", file=sys.stderr)
        return error.exit_code


def _arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python3 -m labcluster.pipeline", description=(__doc__ or ""))
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb in ("run", "plan"):
        made = verbs.add_parser(verb)
        made.add_argument("task", metavar="MODULE:TASK")
        made.add_argument("-p", dest="params", action="append", type=_pair, default=[], metavar="K=V")
        made.add_argument("--workspace", default="resources", help="folder of the cached outputs")
        made.add_argument("--only", metavar="ID", help=argparse.SUPPRESS)
    return parser.parse_args(words)


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise argparse.ArgumentTypeError(f"{text!r}: write it as KEY=VALUE")
    return key, value


def _plan(root: Task) -> int:
    text = json.dumps(planning.plan(root), indent=1) + "\n"
    if folder := os.environ.get("LABCLUSTER_ARTIFACTS_DIR"):
        Path(folder, "plan.json").write_text(text)
    print(text, end="")
    return 0


def _run(task: gokart.TaskOnKart[Any], *, final: bool, workspace: Path) -> int:
    ignore_in_git(workspace)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    # Both tell every step and every failure once more; the record tells what matters.
    for name in ("gokart", "luigi", "luigi-interface"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    record().begin(task.make_unique_id() if final else "", name_of(task), workspace)
    try:
        gokart.build(task, return_value=False, log_level=logging.INFO)
    except GokartBuildError as failure:
        for errors in failure.raised_exceptions.values():
            for error in errors:
                traceback.print_exception(error)
        print("what is done stays: the same command goes on from there", file=sys.stderr)
        record().finish(False)
        return 1
    if final:
        _conclude(task)
    record().finish(True)
    return 0


def _conclude(task: gokart.TaskOnKart[Any]) -> None:
    """A final output that is a table of numbers is the result of the whole pipeline."""
    output = task.output()
    value = output.load() if isinstance(output, gokart.target.TargetOnKart) else None
    numbers = {
        str(key): float(number)
        for key, number in (value.items() if isinstance(value, dict) else ())
        if isinstance(number, int | float)
    }
    if numbers and isinstance(value, dict) and len(numbers) == len(value):
        record().result(numbers)


def ignore_in_git(workspace: Path) -> None:
    """Outputs belong neither into git nor into the code that a run captures."""
    workspace.mkdir(parents=True, exist_ok=True)
    marker = workspace / ".gitignore"
    if not marker.exists():
        marker.write_text("# Outputs of labcluster.pipeline\n*\n")


if __name__ == "__main__":
    sys.exit(main())
