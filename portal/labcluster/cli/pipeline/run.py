"""labctl pipeline run."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from labcluster.cli import output, quantities, submitting
from labcluster.cli.session import build
from labcluster.errors import LabclusterError, NotFoundError, UsageError

_MODULE = "labcluster.pipeline"
# Finding out what is left imports the user's modules and looks at files.
_PLAN_NEEDS = {"gpus": 0, "cpus": 0.5, "memory": "2Gi", "time_seconds": 1800}


@click.pass_context
def run(context: click.Context, /, task: str, mode: str, workspace: str, python: str, **_: Any) -> int | None:
    """Run a pipeline: here, in one run, or each heavy task as its own.

    MODULE:TASK is a class of labcluster.pipeline in this directory. What was done before for the same
    parameters and code is not done again, so that the same command goes on where a pipeline failed. With
    --each first a small run finds out what is left (with --dry-run that is all); then every task that has
    `needs` is a run of its own, queued after those that it requires. Outputs are kept in --workspace, which
    must be where runs see it.

    \b
      labctl pipeline run flow:Evaluate -p rate=0.1 --local
      labctl pipeline run flow:Evaluate -p rate=0.1 --one-pod --gpus 1 --follow
      labctl pipeline run flow:Evaluate -p rate=0.1 --each --wait
    """
    pairs: tuple[tuple[str, str], ...] = context.params["params"]
    folder = str(Path(workspace).absolute())
    if mode == "local":
        return _local([python, "-m", _MODULE, "run", task, *_typed(pairs), "--workspace", folder])
    placed = [word for name, _value in pairs for word in ("-p", f"{name}={{{name}}}")]
    words = [python, "-m", _MODULE, "run", task, *placed, "--workspace", folder]
    if mode == "one-pod":
        name = context.params["name"] or _run_name(task.rpartition(":")[2])
        answer: int | None = submitting.hand_on(context, words, name=name)
        return answer
    return _each(context, task, words)


def _local(words: list[str]) -> int:
    try:
        done = subprocess.run(words, check=False)
    except FileNotFoundError:
        raise NotFoundError(f"there is no {words[0]} here: --python names the interpreter to use") from None
    return done.returncode if done.returncode >= 0 else 128 - done.returncode


def _each(context: click.Context, task: str, words: list[str]) -> int | None:
    given = context.params
    if given["follow"]:
        raise UsageError("--follow with --each: take --wait; labctl logs -f RUN shows one run's output")
    for name in ("array", "nodes", "after"):
        if given[name]:
            raise UsageError(f"--{name} with --each: the runs of a pipeline have their own order")
    plan = _plan(context, task, words)
    as_json = bool(given["as_json"])
    if given["dry_run"] or not plan["runs"]:
        _show(plan, as_json)
        return None
    made: dict[str, dict[str, Any]] = {}
    for number, part in enumerate(plan["runs"]):
        asked = {**_needs(part["needs"]), "name": _run_name(part["task"])}
        asked["key"] = given["key"] and f"{given['key']}.{number}"
        asked["after"] = tuple(f"{made[before]['id']}:ok" for before in part["after"])
        made[part["id"]] = submitting.submitted(context, [*words, "--only", part["id"]], **asked)
    last = made[plan["root"]]
    if given["wait"]:
        from labcluster.cli.following import wait_for_end

        return wait_for_end(build(), last, logs=False, as_json=as_json)
    if as_json:
        output.emit_json({"runs": list(made.values()), "cached": plan["cached"]})
    else:
        for part in plan["runs"]:
            print(f"{made[part['id']]['id']} {part['name']}")
    return None


def _plan(context: click.Context, task: str, words: list[str]) -> dict[str, Any]:
    """What is left to do, by a small run: only there are the packages that the pipeline imports."""
    from labcluster.cli.following import exit_status, print_file, wait_for_end

    # `run` becomes `plan`; everything else is the same.
    command = [*words[:3], "plan", *words[4:]]
    name = _run_name(f"plan-{task.rpartition(':')[2]}")
    planning = submitting.submitted(context, command, **_PLAN_NEEDS, name=name, key=None)
    output.say(f"{planning['id']} finds out what is left to do")
    portal = build()
    if wait_for_end(portal, planning, logs=False):
        planning = portal.get(f"/runs/{planning['id']}")
        print_file(planning)
        raise LabclusterError(
            f"{planning['id']} could not plan {task} (exit status {exit_status(planning)}):"
            f" labctl logs {planning['id']} tells why"
        )
    file = Path(planning["directory"]) / "artifacts" / "plan.json"
    try:
        plan: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not JSON"
        raise UsageError(f"{file} cannot be read here ({reason}): use --each where /lab is mounted") from None
    return plan


def _needs(needs: dict[str, Any] | None) -> dict[str, Any]:
    """Submit's values for what a task declares; one that declares nothing gets what the command line says."""
    if needs is None:
        return {}
    asked = {
        "gpus": int(needs["gpus"]),
        "cpus": float(needs["cpus"]),
        "memory": quantities.parse_memory(str(needs["memory"])),
    }
    if needs.get("time"):
        asked["time_seconds"] = quantities.parse_time(str(needs["time"]))
    if needs.get("image"):
        asked["image"] = str(needs["image"])
    return asked


def _show(plan: dict[str, Any], as_json: bool) -> None:
    if as_json:
        output.emit_json(plan)
        return
    for part in plan["cached"]:
        print(f"{part['name']} is there")
    for part in plan["runs"]:
        print(f"{part['name']} would be a run" + (f" with {_words(part['needs'])}" if part["needs"] else ""))


def _words(needs: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in needs.items() if value not in (None, 0))


def _typed(pairs: Iterable[tuple[str, str]]) -> list[str]:
    return [word for name, value in pairs for word in ("-p", f"{name}={value}")]


def _run_name(name: str) -> str:
    return name[:63]


command = click.Command(
    "run",
    callback=run,
    help=run.__doc__,
    params=[
        click.Argument(["task"], metavar="MODULE:TASK"),
        click.Option(
            ["--local", "mode"], flag_value="local", help="In this shell's Python, on this machine."
        ),
        click.Option(
            ["--one-pod", "mode"], flag_value="one-pod", default=True, help="As one run.  [the default]"
        ),
        click.Option(["--each", "mode"], flag_value="each", help="Each task with needs as a run of its own."),
        click.Option(
            ["--workspace"], default="resources", show_default=True, help="Folder of the cached outputs."
        ),
        click.Option(["--python"], default="python3", show_default=True, help="The Python of the pipeline."),
        *submitting.options(),
    ],
)
