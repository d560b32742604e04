"""labctl show."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

import click

from labcluster.cli import output
from labcluster.cli.output import Column
from labcluster.cli.parameters import STATES, RunType, json_option
from labcluster.cli.quantities import show_seconds
from labcluster.cli.session import build
from labcluster.errors import UsageError


@click.command()
@click.argument("run", type=RunType())
@click.option(
    "-s", "--state", type=click.Choice(STATES), metavar="STATE", help="Of an array: only members in it."
)
@json_option
def command(run: str, state: str | None, as_json: bool) -> None:
    """Show all that is known about a run.

    Of an array also how each of its members stands; of a sweep also what each arm was drawn and reached,
    and which is best.
    """
    portal = build()
    found = portal.get(f"/runs/{run}")
    array = found.get("array")
    if state and not array:
        raise UsageError(f"--state {state}: {run} is no array")
    if array and array.get("sweep"):
        from labcluster.cli import arms

        arms.show(portal, run, state, as_json)
        return
    members = portal.get(f"/runs/{run}/members", {"state": state})["items"] if array else []
    if as_json:
        output.emit_json(found | {"members": members} if array else found)
        return
    show(found)
    if array:
        _show_members(members)


def _show_members(members: list[dict[str, Any]]) -> None:
    columns = [Column("RUN"), Column("STATE"), Column("ATTEMPT", right=True), Column("TOOK", right=True)]
    columns += [Column("EXIT", right=True), Column("NODE"), Column("REASON", wrap=True)]
    rows = [
        [
            member["id"],
            member["state"],
            member["attempt"],
            output.took(member),
            member["exit_code"],
            member["node"],
            member["reason"],
        ]
        for member in members
    ]
    print()
    output.table(columns, rows)


def show(run: Mapping[str, Any]) -> None:
    """A run, or what would become one (then it has no id and no state)."""
    if run.get("id"):
        state = output.coloured(run["state"].replace("_", " "), run["state"])
        because = output.members(run, words=True) or run["reason"]
        print(f"{run['id']} {run['name']}: {state}" + (f", {because}" if because else ""))
    resources = [output.devices(run["gpus"]), f"{run['cpus']:g} CPU" + "s" * (run["cpus"] != 1)]
    resources += [f"{run['memory']} memory"]
    if run.get("nodes", 1) > 1:
        resources = [f"{run['nodes']} nodes with {resources[0]}", *resources[1:]]
    if run["time_seconds"]:
        resources.append(f"at most {show_seconds(run['time_seconds'])}")
    array = run.get("array")
    finished = output.when(run.get("finished_at"))
    if finished and run.get("started_at"):
        finished += f"  ({output.took(run)})"
    output.fields(
        [
            ("name", None if run.get("id") else run["name"]),
            ("command", shlex.join(run["command"])),
            ("directory", run["workdir"]),
            ("code", _code(run.get("code"))),
            ("parameters", " ".join(f"{k}={shlex.quote(v)}" for k, v in (run.get("params") or {}).items())),
            ("seed", run.get("seed")),
            ("data", ", ".join(run.get("data") or [])),
            ("repeats", run.get("parent")),
            *(("verdict", output.verdict(one, run["id"])) for one in run.get("reproductions") or []),
            ("environment", " ".join(f"{key}={shlex.quote(text)}" for key, text in run["env"].items())),
            ("project", run["project"]),
            ("user", f"{run['user']} (uid {run['uid']}, gid {run['gid']})"),
            ("resources", ", ".join(resources)),
            ("priority", run.get("priority") if run.get("priority") != "normal" else None),
            ("requeue", "when the cluster ends it" if run.get("requeue") else None),
            ("after", ", ".join(run.get("after") or [])),
            ("array", array["indices"] if array and not array.get("sweep") else None),
            ("sweep", spaces(array["sweep"]) if array and array.get("sweep") else None),
            ("metric", run.get("value")),
            ("attempt", run["attempt"] if run.get("attempt", 1) > 1 else None),
            ("image", run["image"]),
            ("digest", run["image_digest"]),
            ("submitted", output.when(run.get("submitted_at"))),
            ("started", output.when(run.get("started_at"))),
            ("finished", finished),
            ("exit status", run.get("exit_code")),
            ("node", run.get("node")),
            ("files", run.get("directory")),
        ]
    )


def spaces(sweep: Mapping[str, Any]) -> str:
    """What a sweep searches, in words."""
    words = []
    for name, space in sweep["params"].items():
        if isinstance(space, list):
            words.append(f"{name}={','.join(space)}")
            continue
        more = ":log" if space.get("log") else f":{space['step']:g}" if space.get("step") else ""
        words.append(f"{name}={space['low']:g}..{space['high']:g}{more}")
    by = f", {sweep['goal']} {sweep['metric']}" if sweep.get("metric") else ""
    return f"{sweep['sampler']}{by}: {' '.join(words)}"


def _code(code: Mapping[str, Any] | None) -> str | None:
    """Which code a run works from, in words."""
    if not code:
        return None
    if not code["commit"]:
        return f"{code['root']}, without a commit"
    words = f"{code['commit'][:10]} of {code['branch'] or 'no branch'}"
    if code["remote"]:
        words += f", {code['remote']}"
    return words + (", with changes" if code["dirty"] else "")
