"""labctl rerun."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import click

from labcluster.cli import code, output
from labcluster.cli.parameters import (
    EnvType,
    MemoryType,
    ParameterValueType,
    RunType,
    TimeType,
    dry_run_option,
    json_option,
)
from labcluster.cli.session import build
from labcluster.cli.submit import Way, directory, send
from labcluster.errors import NotFoundError, UsageError

# What a run is made of, under the same names in the answer and in a request.
_SAME = (
    *("command", "workdir", "project", "name", "gpus", "cpus", "memory", "time_seconds", "nodes"),
    *("priority", "requeue", "env", "code", "params", "seed", "data"),
)


@click.command()
@click.argument("run", type=RunType())
@click.option(
    "-s", "--set", "params", type=ParameterValueType(), multiple=True,
    help="Another value of a parameter: of {K} or --K in the command, or one more. Repeatable.",
)  # fmt: skip
@click.option(
    "--seed", type=click.IntRange(0, 2**31 - 1), metavar="N", help="Another seed.  [default: the run's]"
)
@click.option("-g", "--gpus", type=click.IntRange(min=0), metavar="N", help="GPUs on each of its nodes.")
@click.option("-c", "--cpus", type=click.FloatRange(min=0.1), metavar="N", help="CPU cores.")
@click.option("-m", "--memory", type=MemoryType(), help="Main memory: 512M, 8G.")
@click.option("-t", "--time", "time_seconds", type=TimeType(), help="It is ended after this time.")
@click.option("-N", "--nodes", type=click.IntRange(1, 1024), metavar="N", help="Pods that start together.")
@click.option("-n", "--name", help="Another name of the run.")
@click.option("-i", "--image", help="Another image.  [default: the very one that the run had]")
@click.option(
    "-e", "--env", "env", type=EnvType(), multiple=True, help="Another variable, or one more. Repeatable."
)
@click.option("--priority", type=click.Choice(["interactive", "normal", "low"]), help="Place in the queue.")
@click.option(
    "--code", "which", type=click.Choice(["kept", "current"]), default="kept",
    help="Code as the run had it, or that of this directory as it is now.  [default: kept]",
)  # fmt: skip
@click.option("-w", "--wait", is_flag=True, help="Wait for its end, and end with its exit status.")
@click.option("-f", "--follow", is_flag=True, help="As --wait, and print what it prints.")
@click.option("--idempotency-key", "key", help="The same key never makes a second run: for scripts.")
@dry_run_option
@json_option
def command(
    run: str,
    params: tuple[tuple[str, str], ...],
    env: tuple[tuple[str, str], ...],
    which: str,
    wait: bool,
    follow: bool,
    key: str | None,
    dry_run: bool,
    as_json: bool,
    **changes: Any,
) -> int | None:
    """Run a past run again, with changes.

    The new run has the code that the old one was submitted with, its image to the byte, its variables,
    parameters, seed, data and resources, but for what is changed here; it knows which run it repeats. A
    member of an array is repeated as an array of this one member, with its index and its seed; a sweep as a
    whole searches anew.

    \b
      labctl rerun vision-12 --set lr=0.01 --follow
      labctl rerun vision-12.3 --code current --time 4h
    """
    if follow and as_json:
        raise UsageError("--follow prints the run's output, --json the run: take --wait --json")
    portal = build()
    old = portal.get(f"/runs/{run}")
    member = portal.get(f"/runs/{run}/members")["items"][0] if old.get("array") else old
    request = same(old, member)
    seed = changes.pop("seed")
    if seed is not None:
        alone = "array" in request and not old.get("array")
        request["seed"] = (seed - member["array_index"]) % 2**31 if alone else seed
    request |= {name: value for name, value in changes.items() if value is not None}
    _set(request, old, dict(params))
    request["env"] = old["env"] | dict(env)
    request["idempotency_key"] = key or os.urandom(16).hex()
    here, why = None, None
    if which == "current":
        request["workdir"] = directory()
        request.pop("code", None)
        here, why = code.look(request["workdir"])
    elif old.get("code") and (gone := code.missing(old["code"], old["project"])):
        raise NotFoundError(
            f"the code of {run} is gone: {gone}; --code current takes that of this directory instead"
        )
    if follow and old.get("array"):
        raise UsageError(f"--follow: {run} is an array; take --wait, or name a member as in {run}.0")
    return send(portal, request, here, Way(wait, follow, dry_run, as_json), why)


def _set(request: dict[str, Any], old: Mapping[str, Any], params: Mapping[str, str]) -> None:
    """Give parameters other values: where the command has the value itself, there."""
    from labcluster.services.parameters import in_place, with_option

    kept: dict[str, str] = dict(old.get("params") or {})
    for name, value in params.items():
        changed = (
            None
            if name in kept or in_place(old["command"], name)
            else with_option(request["command"], name, value)
        )
        if changed is not None:
            request["command"] = changed
            continue
        if name not in kept and not in_place(old["command"], name):
            output.say(f"{name} is not in the command of {old['id']}: it is in $LABCLUSTER_PARAMS only")
        kept[name] = value
    request["params"] = kept


def same(old: Mapping[str, Any], member: Mapping[str, Any]) -> dict[str, Any]:
    """The request that makes a run once more; `member` is the run itself, or of an array any member."""
    request: dict[str, Any] = {name: old[name] for name in _SAME if old.get(name) is not None}
    request |= {"image": f"{old['image']}@{old['image_digest']}", "parent": old["id"]}
    if member.get("array_index") is not None:
        whole = old.get("array") or {}
        request |= _of_array(member, whole.get("indices"))
        if whole.get("sweep"):
            del request["array"]
            request["sweep"] = whole["sweep"]
    return request


def _of_array(member: Mapping[str, Any], indices: str | None) -> dict[str, Any]:
    """What makes it an array again, of one member if only that is repeated: its command knows its index.

    Members have the array's seed plus their index.
    """
    index = member["array_index"]
    request: dict[str, Any] = {"array": indices or str(index)}
    if member.get("seed") is not None:
        request["seed"] = (member["seed"] - index) % 2**31
    return request
