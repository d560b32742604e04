"""labctl submit."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from labcluster.cli import code, defaults, output
from labcluster.cli.parameters import (
    DataType,
    EnvType,
    MemoryType,
    ParameterValueType,
    ProjectType,
    TimeType,
    dry_run_option,
    json_option,
)
from labcluster.cli.session import build
from labcluster.errors import UsageError

if TYPE_CHECKING:
    from labcluster.adapters.portal import Portal


@click.command(
    # Everything after the first word is the command's own, also what looks like an option.
    context_settings={"allow_interspersed_args": False},
    options_metavar="[OPTIONS]",
)
@click.option(
    "-p", "--project", type=ProjectType(), help="Project it belongs to; needed if you have several."
)
@click.option("-n", "--name", help="Name of the run and of its directory.  [default: the script's]")
@click.option(
    "-g", "--gpus", type=click.IntRange(min=0), default=0, metavar="N",
    help="GPUs, on each of its nodes.  [default: 0]",
)  # fmt: skip
@click.option(
    "-c", "--cpus", type=click.FloatRange(min=0.1), default=1, metavar="N", help="CPU cores.  [default: 1]"
)
@click.option(
    "-m", "--memory", type=MemoryType(), default="4G", show_default=True,
    help="Main memory, /dev/shm included: 512M, 8G; G and Gi both count in 1024s.",
)  # fmt: skip
@click.option(
    "-t", "--time", "time_seconds", type=TimeType(),
    help="It is ended after this time: 30m, 2h, 1-00:00:00, minutes.",
)  # fmt: skip
@click.option("-i", "--image", help="Image it runs in, see labctl image ls.  [default: the cluster's]")
@click.option(
    "-e", "--env", "env", type=EnvType(), multiple=True,
    help="Variable for the command; K alone takes this shell's value. Repeatable.",
)  # fmt: skip
@click.option(
    "-N", "--nodes", type=click.IntRange(1, 1024), metavar="N",
    help="So many pods that start together or not at all, each with these GPUs, CPUs and memory."
    "  [default: 1]",
)  # fmt: skip
@click.option(
    "--priority", type=click.Choice(["interactive", "normal", "low"]),
    help="Place in the queue beside your project's other runs.  [default: normal]",
)  # fmt: skip
@click.option(
    "--requeue", is_flag=True, default=None,
    help="Start it anew when a lost node or preemption ended it, not its own failure.",
)  # fmt: skip
@click.option(
    "-a", "--array", metavar="INDEXES",
    help="One run for each index, as 0-499, 1,3,5 or 0-20:5; 0-499%20 runs 20 at once."
    " The command finds its own in $LABCLUSTER_ARRAY_INDEX.",
)  # fmt: skip
@click.option(
    "--after", multiple=True, metavar="RUN[:ok]",
    help="Start when this run or array has ended, with :ok only if it succeeded. Repeatable.",
)  # fmt: skip
@click.option(
    "-s", "--set", "params", type=ParameterValueType(), multiple=True,
    help="Parameter of the run: replaces {K} in the command, and is in $LABCLUSTER_PARAMS. Repeatable.",
)  # fmt: skip
@click.option(
    "--seed", type=click.IntRange(0, 2**31 - 1), metavar="N",
    help="Seed, as $LABCLUSTER_SEED; members of an array have this plus their index.  [default: drawn]",
)  # fmt: skip
@click.option(
    "-d", "--data", type=DataType(), multiple=True,
    help="Directory whose files are hashed before the run starts, so that runs on other bytes can be told"
    " apart; also a name under /lab/datasets. Repeatable.",
)  # fmt: skip
@click.option(
    "--no-code", is_flag=True, default=None,
    help="Keep no copy of the code: the run works in this directory itself, as it is then.",
)  # fmt: skip
@click.option(
    "--file", "file", metavar="FILE",
    help="Submit every line, a JSON object with these options by name, all or none; - reads standard input.",
)  # fmt: skip
@click.option("-w", "--wait", is_flag=True, help="Wait for its end, and end with its exit status.")
@click.option("-f", "--follow", is_flag=True, help="As --wait, and print what it prints.")
@click.option("--idempotency-key", "key", help="The same key never makes a second run: for scripts.")
@dry_run_option
@json_option
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="-- COMMAND [ARGUMENT]...")
@click.pass_context
def command(
    context: click.Context,
    /,
    command: tuple[str, ...],
    key: str | None,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> int | None:
    """Run a command on the cluster.

    The code of this directory (its git repository with all changes, or the directory itself) is kept as it
    is now, and the run works in a copy of it. The run's own directory (labctl show) keeps that copy, what
    the run prints and what it writes to $LABCLUSTER_ARTIFACTS. For shell syntax use: -- bash -c 'A && B'
    labcluster.toml beside the code may give these options under [submit].

    \b
      labctl submit --gpus 1 --time 2h --follow -- python3 train.py --epochs 10
      labctl submit --array 0-99%8 -- bash -c 'python3 train.py --seed $LABCLUSTER_ARRAY_INDEX'
      labctl submit --after vision-12:ok -- python3 evaluate.py
      labctl submit --set lr=0.1 --data mnist -- python3 train.py --lr {lr} --data /lab/datasets/mnist
      labctl submit --file runs.jsonl     # {"command": ["python3", "train.py"], "gpus": 1, "time": "2h"}
    """
    words = _checked(command) if command or not options["file"] else []
    folder = directory()
    here, why = code.look(folder) if not options["no_code"] else (None, None)
    options = defaults.apply(context, options, here.toml if here else code.read_toml(folder))
    if options.pop("no_code"):
        here, why = None, None
    wait, follow, file = options.pop("wait"), options.pop("follow"), options.pop("file")
    if follow and as_json:
        raise UsageError("--follow prints the run's output, --json the run: take --wait --json")
    env, params = dict(options.pop("env")), dict(options.pop("params"))
    lists = {name: list(options.pop(name)) for name in ("after", "data")}
    request = {
        **({"command": words} if words else {}),
        "workdir": folder,
        "env": env,
        **({"params": params} if params else {}),
        **{name: values for name, values in lists.items() if values},
        **{name: value for name, value in options.items() if value is not None},
        "idempotency_key": key or os.urandom(16).hex(),
    }
    if file:
        if wait or follow:
            raise UsageError("--file with --wait or --follow: labctl show tells how each of them stands")
        from labcluster.cli.bulk import submit_file

        submit_file(file, request, here, dry_run=dry_run, as_json=as_json)
        if why:
            output.say(why)
        return None
    if follow and "array" in request:
        raise UsageError(
            "--follow with --array: take --wait; labctl logs -f RUN.INDEX shows one member's output"
        )
    return send(build(), request, here, Way(wait, follow, dry_run, as_json), why)


class Way(NamedTuple):
    """What to do with a run that is accepted."""

    wait: bool
    follow: bool
    dry_run: bool
    as_json: bool


def send(
    portal: Portal, request: dict[str, Any], here: code.Here | None, way: Way, why: str | None = None
) -> int | None:
    """Submit one request, with the code of a folder if one is given; `why` says why there is none."""
    if here:
        # Asked first: nothing is kept of what would be refused, and the portal knows which project it is.
        plan = portal.post("/runs/check", request | {"code": here.placeholder()})
        taken = code.capture(here, plan["project"], dry_run=way.dry_run)
        request["code"] = taken.reference()
        code.warn_of_unseen(taken, here, request["command"])
        if way.dry_run:
            show_plan(plan | {"code": request["code"]}, way.as_json, f"would be kept: {code.describe(taken)}")
            return None
    elif way.dry_run:
        # An address of its own: a portal that does not know it refuses, and cannot take it for a submit.
        show_plan(portal.post("/runs/check", request), way.as_json, why)
        return None
    run = portal.post("/runs", request)
    if why:
        output.say(why)
    if way.wait or way.follow:
        from labcluster.cli.following import wait_for_end

        if way.follow and run.get("array"):
            # Of one member, or it would have been refused.
            run = portal.get(f"/runs/{run['id']}/members")["items"][0]
        return wait_for_end(portal, run, logs=way.follow, as_json=way.as_json)
    if way.as_json:
        output.emit_json(run)
    elif output.fancy() and run.get("array"):
        print(f"{run['id']} with {run['array']['total']} members: labctl show {run['id']} shows them")
    elif output.fancy():
        state = output.coloured(run["state"], run["state"])
        print(f"{run['id']} {state} with {output.devices(run['gpus'])}: labctl logs -f {run['id']} shows it")
    else:
        print(run["id"])
    return None


def _checked(command: tuple[str, ...]) -> list[str]:
    if not command:
        raise UsageError("no command given: put it after --, as in labctl submit -- python3 train.py")
    first = command[0]
    if len(command) == 1 and any(sign in first for sign in " \t\n;|&<>") and not os.path.exists(first):  # noqa: PTH110
        raise UsageError(
            f"the command is one word, {first!r}: leave the quotes out, or use -- bash -c '…' for a shell's"
        )
    return list(command)


def directory() -> str:
    """Where labctl was called."""
    try:
        return os.getcwd()  # noqa: PTH109 - pathlib costs an import
    except OSError:
        raise UsageError("this directory exists no more: cd to another") from None


def show_plan(run: dict[str, Any], as_json: bool, kept: str | None) -> None:
    """What would be accepted, and in words what code would be kept."""
    if as_json:
        output.emit_json(run)
        return
    from labcluster.cli.show import show

    print("This would be accepted:")
    show(run)
    if kept:
        print(f"  {kept}")
