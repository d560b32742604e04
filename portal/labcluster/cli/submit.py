"""labctl submit."""

from __future__ import annotations

import os
from typing import Any

import click

from labcluster.cli import output
from labcluster.cli.parameters import EnvType, MemoryType, ProjectType, TimeType, dry_run_option, json_option
from labcluster.cli.session import build
from labcluster.errors import UsageError


@click.command(
    # Everything after the first word is the command's own, also what looks like an option.
    context_settings={"allow_interspersed_args": False},
    options_metavar="[OPTIONS]",
)
@click.option(
    "-p", "--project", type=ProjectType(), help="Project it belongs to; needed if you have several."
)
@click.option("-n", "--name", help="Name of the run and of its directory.  [default: the script's]")
@click.option("-g", "--gpus", type=click.IntRange(min=0), default=0, metavar="N", help="GPUs.  [default: 0]")
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
@click.option("-i", "--image", help="Image it runs in, see labctl images.  [default: the cluster's]")
@click.option(
    "-e", "--env", "env", type=EnvType(), multiple=True,
    help="Variable for the command; K alone takes this shell's value. Repeatable.",
)  # fmt: skip
@click.option("-w", "--wait", is_flag=True, help="Wait for its end, and end with its exit status.")
@click.option("-f", "--follow", is_flag=True, help="As --wait, and print what it prints.")
@click.option("--idempotency-key", "key", help="The same key never makes a second run: for scripts.")
@dry_run_option
@json_option
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="-- COMMAND [ARGUMENT]...")
def command(
    command: tuple[str, ...],
    env: tuple[tuple[str, str], ...],
    wait: bool,
    follow: bool,
    key: str | None,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> int | None:
    """Run a command on the cluster.

    It starts in this directory, which must be one that runs see: your home or a project's, under /lab.
    The run's own directory (labctl show) keeps what it prints and what it writes to
    $LABCLUSTER_ARTIFACTS_DIR. For shell syntax use: -- bash -c 'A && B'

    \b
      labctl submit --gpus 1 --time 2h --follow -- python3 train.py --epochs 10
    """
    if follow and as_json:
        raise UsageError("--follow prints the run's output, --json the run: take --wait --json")
    request = {
        "command": _checked(command),
        "workdir": _directory(),
        "env": dict(env),
        **{name: value for name, value in options.items() if value is not None},
        "idempotency_key": key or os.urandom(16).hex(),
    }
    portal = build()
    if dry_run:
        # An address of its own: a portal that does not know it refuses, and cannot take it for a submit.
        _show_plan(portal.post("/runs/check", request), as_json)
        return None
    run = portal.post("/runs", request)
    if wait or follow:
        from labcluster.cli.following import wait_for_end

        return wait_for_end(portal, run, logs=follow, as_json=as_json)
    if as_json:
        output.emit_json(run)
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


def _directory() -> str:
    try:
        return os.getcwd()  # noqa: PTH109 - pathlib costs an import
    except OSError:
        raise UsageError("this directory exists no more: cd to another") from None


def _show_plan(run: dict[str, Any], as_json: bool) -> None:
    if as_json:
        output.emit_json(run)
        return
    from labcluster.cli.show import show

    print("This would be accepted:")
    show(run)
