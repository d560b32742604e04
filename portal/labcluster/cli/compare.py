"""labctl compare."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from labcluster.cli import output
from labcluster.cli.output import Column
from labcluster.cli.parameters import RunType, json_option
from labcluster.cli.session import build
from labcluster.errors import UsageError

if TYPE_CHECKING:
    from labcluster.services.comparison import Comparison, Row, Section, TreeChange, Value

MAX_RUNS = 50
#: With more runs than these a run is a row, so that lines stay readable.
_MOST_COLUMNS = 5
_CELL = 40
_NAMED = 10


@click.command()
@click.argument("runs", nargs=-1, required=True, type=RunType(), metavar="RUN...")
@click.option("-a", "--all", "everything", is_flag=True, help="Also what is the same.")
@click.option("--code", is_flag=True, help="Print the whole difference of the code, as git diff does.")
@click.option(
    "--html", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help="Write a page with the metrics' curves, to be opened in any browser; it needs nothing else.",
)  # fmt: skip
@json_option
def command(runs: tuple[str, ...], everything: bool, code: bool, html: Path | None, as_json: bool) -> None:
    """Show what differs between runs, and what does not.

    Parameters, metrics, code, data, image, packages, node and end; code and data against the first run.
    One run alone is compared with its parent (labctl rerun), an array is all of its members.

    \b
      labctl compare vision-7 vision-8
      labctl compare vision-12 --html sweep.html
    """
    portal = build()
    from labcluster.cli import gathering
    from labcluster.services.comparison import compare

    found = gathering.runs_of(portal, runs, MAX_RUNS)
    if len(found) == 1:
        parent = found[0].get("parent")
        if not parent:
            raise UsageError(f"{found[0]['id']} has no parent to compare it with: name a second run")
        found = [*gathering.runs_of(portal, [parent], MAX_RUNS), *found]
        if len(found) == 1:
            raise UsageError(f"{found[0]['id']} is its own parent: name a second run")
    loaded = [gathering.load(run) for run in found]
    changes = gathering.code_changes(loaded), gathering.data_changes(loaded)
    comparison = compare([one.record for one in loaded], *changes)
    if html is not None:
        from labcluster.cli.pages import comparison_page, write

        write(html, comparison_page(comparison))
        output.say(f"wrote {html}")
    if as_json:
        output.emit_json(comparison.as_json())
    elif code:
        _print_code(comparison)
    elif html is None or everything:
        _print(comparison, everything)
    gathering.say_unknown(comparison.records)


def _print_code(comparison: Comparison) -> None:
    for change in comparison.code:
        if len(comparison.code) > 1 or change.reason:
            output.say(
                f"{comparison.records[0].id} → {change.run}" + (f": {change.reason}" if change.reason else "")
            )
        if change.same:
            output.say(f"{change.run}: the code is the same")
        print(change.diff, end="")


def _print(comparison: Comparison, everything: bool) -> None:
    _overview(comparison)
    same = []
    for section in comparison.sections:
        # No two runs use a machine in the same way: that is no difference worth a line.
        if section.title == "machine use" and not everything:
            continue
        rows = section.rows if everything else section.different
        if rows:
            print(f"\n{section.title}")
            _matrix(comparison, section, everything)
        rest = len(section.rows) - len(section.different)
        if rest and not everything:
            same.append(f"{rest} of {section.title}")
        changes = {"code": comparison.code, "data": comparison.data}.get(section.title, ())
        _changes(comparison, changes)
    if same:
        output.say(f"the same: {', '.join(same)}; --all shows them")


def _overview(comparison: Comparison) -> None:
    columns = [Column("RUN"), Column("NAME"), Column("USER"), Column("STATE"), Column("TOOK", right=True)]
    columns += [Column("GPUS", right=True), Column("NODE"), Column("CODE"), Column("PARENT")]
    rows = []
    for record in comparison.records:
        run, code = record.run, record.code
        version = (code.commit or code.digest or "")[:10] + ("+" if code.dirty else "") if code else None
        gpus = run.get("gpus", 0) * run.get("nodes", 1)
        node, parent = run.get("node"), run.get("parent")
        rows.append(
            [run["id"], run["name"], run["user"], run["state"], output.took(run), gpus, node, version, parent]
        )
    output.table(columns, rows)
    ids = {record.id for record in comparison.records}
    told = [found for record in comparison.records for found in record.run.get("reproductions") or []]
    for line in dict.fromkeys(
        output.verdict(found) for found in told if {found["of"], found["again"]} <= ids
    ):
        print(line)


def _matrix(comparison: Comparison, section: Section, everything: bool) -> None:
    """A row for each thing and a column for each run, or the other way round when there are many runs."""
    rows = section.rows if everything else section.different
    ids = [record.id for record in comparison.records]
    values = [[_cell(row, at) if known else "?" for at, known in enumerate(section.known)] for row in rows]
    names = [row.name for row in rows]
    if len(ids) <= _MOST_COLUMNS:
        columns = [Column("", wrap=True), *(Column(name, wrap=True) for name in ids)]
        output.table(columns, [[name, *line] for name, line in zip(names, values, strict=True)])
        return
    columns = [Column("RUN"), *(Column(name, wrap=True) for name in names)]
    output.table(columns, [[name, *line] for name, line in zip(ids, zip(*values, strict=True), strict=True)])


def _cell(row: Row, at: int) -> str | None:
    text, step = show(row.values[at]), row.steps[at] if row.steps else None
    return text if step is None else f"{text} @ {step:g}"


def show(value: Value) -> str | None:
    """A value in a cell."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if value is None:
        return None
    return value if len(value) <= _CELL or output.fancy() else value[: _CELL - 1] + "…"


def _changes(comparison: Comparison, changes: tuple[TreeChange, ...]) -> None:
    for change in changes:
        where = f" {change.path}" if change.path else ""
        title = f"  {comparison.records[0].id} → {change.run}{where}: "
        if change.reason and not change.files:
            print(title + change.reason)
        elif not change.same:
            print(
                title + f"{change.total} file{'s' * (change.total != 1)} differ" + "s" * (change.total == 1)
            )
            for file in change.files[:_NAMED]:
                lines = f"  +{file.added} -{file.removed}" if file.added is not None else ""
                print(f"    {file.change:8} {file.path}{lines}")
            if change.total > _NAMED:
                print(
                    f"    … and {change.total - _NAMED} more" + ("" if change.path else "; --code shows all")
                )
