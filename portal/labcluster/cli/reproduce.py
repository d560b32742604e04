"""labctl reproduce."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from labcluster.cli import output
from labcluster.cli.output import Column
from labcluster.cli.parameters import RunType, dry_run_option, json_option
from labcluster.cli.session import build
from labcluster.errors import ConflictError, NotFoundError, UsageError

if TYPE_CHECKING:
    from labcluster.adapters.portal import Portal
    from labcluster.cli.gathering import Loaded
    from labcluster.services.verdicts import Judgement, Tolerances

#: Exit statuses of the verdicts, beside those of failures (labcluster.errors).
STATUS = {"reproduced": 0, "drifted": 7, "impossible": 8}
#: Ended by somebody or something else: what they would have come to is not known.
_CUT_SHORT = ("cancelled", "lost")
# Enough that of a curve nothing is left out.
_ALL_POINTS = 1_000_000
_NAMED_FILES = 3
_MAX_LINE = 1000
_MAX_METRICS = 200


@click.command()
@click.argument("run", type=RunType())
@click.option(
    "-t", "--tolerance", "tolerances", multiple=True, metavar="[METRIC=]AMOUNT",
    help="How far a metric may be off: loss=1%, acc=0.005, 'time_*=any'; 1% alone is for all. Repeatable."
    "  [default: exact]",
)  # fmt: skip
@click.option("--curves", is_flag=True, help="Hold whole curves against one another, not last values only.")
@click.option(
    "--wait/--no-wait", default=True, help="Stay until the verdict, or only submit.  [default: --wait]"
)
@click.option(
    "--verdict", "later", is_flag=True, help="RUN is the repetition, which has ended: judge it, run nothing."
)
@click.option("--idempotency-key", "key", help="The same key never makes a second run: for scripts.")
@dry_run_option
@json_option
def command(
    run: str,
    tolerances: tuple[str, ...],
    curves: bool,
    wait: bool,
    later: bool,
    key: str | None,
    dry_run: bool,
    as_json: bool,
) -> int | None:
    """Run a past run again and say whether it came out the same.

    From what was kept of it: the same code, image to the byte, command, parameters, seed, variables, data
    and resources. The verdict is kept: labctl show, compare, report and export tell it.

    \b
    reproduced  exit status 0: it ended the same way, and every metric is within its tolerance
    drifted     exit status 7: it did not; what else differs is named (packages, node, driver, ...)
    impossible  exit status 8: its data changed or are gone, or its image or code is; known before it runs
                wherever that can be seen before. --dry-run looks for that only, and keeps no verdict

    \b
      labctl reproduce vision-12 --tolerance loss=1% --tolerance 'seconds*=any'
      labctl reproduce vision-12 --no-wait      # and later: labctl reproduce --verdict vision-31
    """
    if later and (dry_run or not wait or key):
        raise UsageError(
            "--verdict judges what has ended: it goes with --tolerance, --curves and --json only"
        )
    from labcluster.services import verdicts

    allowed = verdicts.parse_tolerances(tolerances)
    portal = build()
    found = portal.get(f"/runs/{run}")
    if later:
        return _judge(portal, _parent(portal, found), found, allowed, curves=curves, as_json=as_json)
    _check_original(found)
    from labcluster.cli.rerun import same

    before = _load(found)
    reasons, notes = hindrances(portal, before)
    if reasons:
        judgement = verdicts.impossible(reasons, notes)
        return _tell(portal, found, None, judgement, tolerances, as_json=as_json, keep=not dry_run)
    request = same(found, found) | {"idempotency_key": key or os.urandom(16).hex()}
    if dry_run:
        _tell_plan(portal.post("/runs/check", request), found["id"], notes, as_json)
        return None
    again = portal.post("/runs", request)
    if again.get("array"):  # of this one member
        again = portal.get(f"/runs/{again['id']}/members")["items"][0]
    for note in notes:
        output.say(note)
    how = f"labctl reproduce --verdict {again['id']}"
    if not wait:
        output.say(f"{again['id']} repeats {found['id']}: {how} judges it when it has ended")
        if as_json:
            output.emit_json(again)
        else:
            print(again["id"])
        return None
    output.say(f"{again['id']} repeats {found['id']}; if this ends, {how} goes on")
    from labcluster.cli.following import Follower
    from labcluster.cli.main import INTERRUPTED

    follower = Follower(portal, again, quiet=as_json)
    try:
        follower.until_over()
    except KeyboardInterrupt:
        output.say(
            f"\n{again['id']} goes on without you: {how} judges it, labctl cancel {again['id']} ends it"
        )
        return INTERRUPTED
    return _judge(portal, found, follower.run, allowed, curves=curves, as_json=as_json)


def _check_original(run: dict[str, Any]) -> None:
    if run.get("array"):
        raise UsageError(f"{run['id']} is an array: name a member, such as {run['id']}.0")
    if run["state"] in output.ACTIVE:
        raise ConflictError(f"{run['id']} has not ended ({run['state']}): there is nothing to reproduce yet")
    if run["state"] in _CUT_SHORT or not run.get("started_at"):
        raise ConflictError(
            f"{run['id']} was cut short ({run['state']}, {run['reason'] or 'no reason known'}): it has no"
            " result of its own to reproduce; labctl rerun runs it again"
        )


def _parent(portal: Portal, again: dict[str, Any]) -> dict[str, Any]:
    """What a run repeats, with nothing changed."""
    if again.get("array"):
        raise UsageError(f"{again['id']} is an array: name its member")
    if not again.get("parent"):
        raise UsageError(
            f"{again['id']} repeats no run: name the run that labctl reproduce --no-wait printed"
        )
    from labcluster.cli.rerun import same

    old: dict[str, Any] = portal.get(f"/runs/{again['parent']}")
    _check_original(old)
    # What a rerun changed is no reproduction; who runs it, and when, may differ.
    one, other = same(old, old), same(again, again)
    changed = sorted(
        name
        for name in one.keys() | other.keys()
        if name not in ("parent", "priority", "requeue", "workdir") and one.get(name) != other.get(name)
    )
    if changed:
        raise UsageError(
            f"{again['id']} is a rerun of {old['id']} with another {', '.join(changed)}: labctl compare"
            " tells what that came to"
        )
    return old


def _load(run: dict[str, Any], points: int = 2) -> Loaded:
    """A run's record; without its files there is nothing to judge by."""
    from labcluster.cli import gathering

    loaded = gathering.load(run, points)
    if loaded.folder is None:
        raise NotFoundError(f"{run['id']} cannot be judged: {'; '.join(loaded.record.unknown)}")
    return loaded


def hindrances(portal: Portal, before: Loaded) -> tuple[list[str], list[str]]:
    """Why a run cannot be reproduced, and what could not be looked at: sentences."""
    from labcluster.cli import code

    run = before.record.run
    reasons, notes = [], []
    if not portal.get(f"/runs/{run['id']}/reproductions")["image_there"]:
        reasons.append(f"the image is gone from the registry: {run['image']}@{run['image_digest']}")
    if not run.get("code"):
        reasons.append(
            f"no code was kept of it: it worked in {run['workdir']} itself, which may have changed since"
        )
    elif gone := code.missing(dict(run["code"]), str(run["project"])):
        reasons.append(f"the code is gone: {gone}")
    seen = {entry.path for entry in before.record.data}
    notes += [f"{path}: which data it saw is not known" for path in run.get("data") or [] if path not in seen]
    for entry in before.record.data:
        _look_at(before, entry, reasons, notes)
    return reasons, notes


def _look_at(before: Loaded, entry: Any, reasons: list[str], notes: list[str]) -> None:
    from labcluster.adapters import datasets

    if entry.manifest is None:
        notes.append(f"{entry.path}: which data it saw is not known")
        return
    if not os.path.isdir(entry.path):  # noqa: PTH112
        if os.path.isdir(os.path.dirname(entry.path)):  # noqa: PTH112, PTH120
            reasons.append(f"the data are gone: {entry.path}")
        else:
            notes.append(f"{entry.path} cannot be seen from here: its data are looked at when it runs")
        return
    if (entry.bytes or 0) > datasets.MAX_READ_BYTES or (entry.files or 0) > 10_000:
        output.say(f"looking whether {entry.path} is as it was")
    try:
        with before.objects.open(entry.manifest) as manifest:
            found = datasets.look(entry.path, manifest)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        notes.append(f"{entry.path} could not be looked at ({why}): its data are looked at when it runs")
        return
    if found.changes:
        from labcluster.services.texts import plain

        names = ", ".join(f"{plain(path, 200)} {how}" for path, how in found.changes[:_NAMED_FILES])
        more = f", and {len(found.changes) - _NAMED_FILES} more" if len(found.changes) > _NAMED_FILES else ""
        reasons.append(f"data changed: {entry.path}: {names}{more}")
    elif found.unread:
        notes.append(
            f"{entry.path}: {found.unread} files have another time and were too large to read here: they are"
            " when it runs"
        )


def _judge(
    portal: Portal,
    old: dict[str, Any],
    new: dict[str, Any],
    allowed: Tolerances,
    *,
    curves: bool,
    as_json: bool,
) -> int:
    from labcluster.services import verdicts

    if new["state"] in output.ACTIVE:
        raise ConflictError(
            f"{new['id']} has not ended ({new['state']}): labctl attach {new['id']} waits for it"
        )
    if new["state"] in _CUT_SHORT:
        why = new["reason"] or "no reason known"
        raise ConflictError(
            f"{new['id']} was cut short ({new['state']}, {why}): that is no verdict; labctl reproduce"
            f" {old['id']} tries again"
        )
    points = _ALL_POINTS if curves else 2
    judgement = verdicts.judge(_load(old, points).record, _load(new, points).record, allowed, curves=curves)
    given = [f"{name}={tolerance.text}" for name, tolerance in allowed.given]
    return _tell(portal, old, new["id"], judgement, given, as_json=as_json)


def _tell(
    portal: Portal,
    old: dict[str, Any],
    again: str | None,
    judgement: Judgement,
    tolerances: Sequence[str],
    *,
    as_json: bool,
    keep: bool = True,
) -> int:
    """Keep a verdict and print it; its exit status."""
    report = judgement.as_json() | {"tolerances": list(tolerances)}
    kept = report | {"metrics": report["metrics"][:_MAX_METRICS]}
    line = judgement.line[:_MAX_LINE]
    body = {"again": again, "verdict": judgement.verdict, "line": line, "report": kept}
    told: dict[str, Any] = {"of": old["id"], "again": again, "verdict": judgement.verdict, "line": line}
    if keep:
        told |= portal.put(f"/runs/{old['id']}/reproductions", body)
    if as_json:
        output.emit_json(told | {"report": report})
    else:
        _print(old["id"], again, judgement)
    return STATUS[judgement.verdict]


def _print(old: str, again: str | None, judgement: Judgement) -> None:
    from labcluster.cli.compare import show
    from labcluster.services.verdicts import needed

    print(f"{old}{f' → {again}' if again else ''}: {judgement.verdict}")
    print(f"  {judgement.line}")
    if judgement.metrics:
        print()
        columns = [Column("METRIC", wrap=True), Column(old, right=True), Column(again or "", right=True)]
        columns += [Column("DIFFERENCE", right=True), Column("TOLERANCE", right=True), Column("SAME")]
        rows = [
            [
                one.metric + (f" @ {one.step:g}" if one.step is not None and not one.same else ""),
                *(None if value is None else f"{value:.8g}" for value in (one.before, one.after)),
                one.reason or (None if one.difference is None else f"{one.difference:+.3g}"),
                one.tolerance,
                "yes" if one.same else "no",
            ]
            for one in sorted(judgement.metrics, key=lambda one: one.same)[:_MAX_METRICS]
        ]
        output.table(columns, rows)
    for kind, rows_of in judgement.differences.items():
        print(f"\n{kind}")
        lines = [[name, *map(show, values)] for name, values in rows_of.items()]
        output.table([Column("", wrap=True), Column(old, wrap=True), Column(again or "", wrap=True)], lines)
    for note in judgement.notes:
        output.say(note)
    hint = needed(judgement.metrics) if judgement.verdict == "drifted" else None
    if hint and again:
        output.say(f"the metrics are the same with: labctl reproduce --verdict {again} --tolerance {hint}")


def _tell_plan(plan: dict[str, Any], run: str, notes: Sequence[str], as_json: bool) -> None:
    if as_json:
        output.emit_json({"run": run, "possible": True, "notes": list(notes), "plan": plan})
        return
    print(f"{run} can be reproduced, as far as is known before it runs")
    for note in notes:
        output.say(note)
