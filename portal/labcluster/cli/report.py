# ruff: noqa: ARG002 - the signature of convert is click's
"""labctl report."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from labcluster.cli import code, output
from labcluster.cli.parameters import ProjectType, json_option
from labcluster.cli.session import build
from labcluster.cli.usage import MomentType
from labcluster.errors import ConflictError, UsageError

if TYPE_CHECKING:
    from labcluster.adapters.portal import Portal
    from labcluster.cli.gathering import Loaded

#: What the portal lists at once; a project with more in one report's time leaves out the oldest.
_LISTED = 1000
_MAX_MEMBERS = 200
_DEFAULT_DAYS = 7
_FEW_POINTS = 4
_NOTE = re.compile(r"^<!-- labctl report (\{.*\}) -->$", re.MULTILINE)


class MetricType(click.ParamType[tuple[str, str]]):
    """A metric and which way it is better."""

    name = "NAME[:min|max]"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Name and goal; by the name where it is not said."""
        if isinstance(value, tuple):
            return value
        name, colon, goal = value.rpartition(":")
        if colon and goal in ("min", "max") and name:
            return name, goal
        from labcluster.services.reporting import goal_of

        return value, goal_of(value)


@click.command()
@click.option("-p", "--project", type=ProjectType(), help="Which project.  [default: your only one]")
@click.option(
    "--since", type=MomentType(), help="From then on: 7d, 2026-11-01.  [default: the last report, else 7d]"
)
@click.option("--until", type=MomentType(), help="Up to then, likewise.  [default: now]")
@click.option(
    "-m", "--metric", "metrics", type=MetricType(), multiple=True, metavar="NAME[:min|max]",
    help="A metric that counts; several times.  [default: by name, held out data first]",
)  # fmt: skip
@click.option(
    "-t", "--template", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE",
    help='A Jinja template of your own; {% extends "report.md" %} changes parts of ours.',
)  # fmt: skip
@click.option(
    "-o", "--output", "target", metavar="FILE",
    help="Write it there; - prints it.  [default: reports/PROJECT/DATE.md in the git repository here]",
)  # fmt: skip
@click.option("--commit", is_flag=True, help="Commit it, and nothing else, in the git repository here.")
@json_option
def command(
    project: str | None,
    since: datetime | None,
    until: datetime | None,
    metrics: tuple[tuple[str, str], ...],
    template: Path | None,
    target: str | None,
    commit: bool,
    as_json: bool,
) -> None:
    """Write a summary of a project's runs in Markdown, with tables and pictures.

    Who ran what, the best runs of every experiment (runs of one name) with their curves, what failed and why,
    what still runs, and what is new since the last report that lies beside it. Pictures lie in
    a folder beside the report.

    \b
      labctl report                            # in the project's git repository, once a week
      labctl report --commit --metric val_acc:max
    """
    if commit and target == "-":
        raise UsageError("--commit: --output - writes no file that could be committed")
    portal = build()
    from labcluster.adapters.repositories import root_of
    from labcluster.services.reporting import Window

    project = project or _own_project(portal)
    root = root_of(Path.cwd())
    end = until or datetime.now(UTC)
    path = (
        None
        if target == "-" or (as_json and target is None and not commit)
        else _target(target, root, project, end)
    )
    if commit and (root is None or path is None or root.resolve() not in path.resolve().parents):
        raise UsageError(
            f"--commit: {path or target} is in no git repository here: go into the project's own"
        )
    before = _last_report(path.parent if path else root and root / "reports" / project, path, project)
    begin = since or _until_of(before) or end - timedelta(days=_DEFAULT_DAYS)
    if begin >= end:
        raise UsageError("--since is later than the end of the report")
    data = _gather(portal, project, Window(begin, end), dict(metrics), before, path)
    _deliver(data, before, template, path, as_json)
    if commit and root is not None and path is not None:
        _commit(root, path, project, data)


def _own_project(portal: Portal) -> str:
    names = [entry["name"] for entry in portal.get("/whoami")["projects"]]
    here = [name for name in names if Path.cwd().is_relative_to(Path(code.PROJECTS) / name)]
    names = here or names
    if len(names) != 1:
        raise UsageError(
            f"say which project: --project {' or '.join(names)}" if names else "you have no project"
        )
    return str(names[0])


def _target(target: str | None, root: Path | None, project: str, end: datetime) -> Path:
    if target:
        return Path(target)
    if root is None:
        raise UsageError("there is no git repository here: go into the project's own, or say --output FILE")
    folder = root / "reports" / project
    if root.resolve() not in (folder.resolve(), *folder.resolve().parents):
        raise ConflictError(f"{folder} is a link that leads out of the repository: remove it")
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{end.astimezone():%Y-%m-%d}.md"


def _last_report(folder: Path | None, own: Path | None, project: str) -> dict[str, Any] | None:
    """What the newest other report beside this one left for the next."""
    found = []
    for path in sorted(folder.glob("*.md"))[-500:] if folder and folder.is_dir() else []:
        if own is None or path.name != own.name:
            try:
                note = _NOTE.search(path.read_text(errors="replace"))
                value = json.loads(note[1]) if note else None
            except (OSError, ValueError, RecursionError):
                continue
            if isinstance(value, dict) and value.get("project") == project and _until_of(value):
                found.append(value)
    return max(found, key=lambda value: str(value["until"]), default=None)


def _until_of(note: Mapping[str, Any] | None) -> datetime | None:
    try:
        return datetime.fromisoformat(str((note or {}).get("until"))).astimezone()
    except ValueError:
        return None


def _gather(
    portal: Portal, project: str, window: Any, goals: dict[str, str], before: Any, path: Path | None
) -> dict[str, Any]:
    from labcluster.cli import gathering
    from labcluster.services.reporting import report

    listed = portal.get("/runs", {"project": project, "limit": _LISTED})["items"]
    left_out = 0
    runs: list[dict[str, Any]] = []
    for run in listed:
        if not window.overlaps(run):
            continue
        members = portal.get(f"/runs/{run['id']}/members")["items"] if run.get("array") else [run]
        runs += members[:_MAX_MEMBERS]
        left_out += len(members) - len(members[:_MAX_MEMBERS])
    if len(listed) == _LISTED and window.overlaps(listed[-1]):
        output.say(f"project {project} has more than {_LISTED} runs since then: the oldest are left out")
    output.say(f"reading {len(runs)} runs")
    # A thousand curves would not fit into memory: those that are drawn are read again.
    loaded = [gathering.load(run, points=_FEW_POINTS) for run in runs]
    records = [one.record for one in loaded]
    data = report(project, window, records, goals=goals, before=before, left_out=left_out)
    if path is not None:
        _pictures(data, loaded, path)
    return data


def _pictures(data: dict[str, Any], loaded: list[Loaded], path: Path) -> None:
    """Curves of the best runs, and what the best run of an experiment has drawn itself."""
    from labcluster.cli.pictures import Album

    album = Album(_pictures_of(path))
    for experiment in data["experiments"]:
        album.add(experiment, [one for one in loaded if one.record.run["name"] == experiment["name"]])
    album.finish()


def _pictures_of(path: Path) -> Path:
    return path.with_name(f"{path.stem}-pictures")


def _deliver(
    data: dict[str, Any], before: Any, template: Path | None, path: Path | None, as_json: bool
) -> None:
    from labcluster.cli.markdown import render
    from labcluster.cli.pages import write
    from labcluster.services.reporting import carried

    if path is not None or not as_json:
        note = json.dumps(carried(data, before), sort_keys=True).replace(">", "\\u003e")
        text = render(data, template) + f"\n<!-- labctl report {note} -->\n"
        if path is None:
            print(text, end="")
        else:
            write(path, text)
            output.say(f"wrote {path}")
    if as_json:
        output.emit_json(data)


def _commit(root: Path, path: Path, project: str, data: Mapping[str, Any]) -> None:
    from labcluster.adapters import repositories

    paths = [found.resolve() for found in (path, _pictures_of(path)) if found.exists()]
    days = [str(data[key])[:10] for key in ("since", "until")]
    made = repositories.commit(root, paths, f"reports: {project}, {days[0]} to {days[1]}")
    output.say(f"committed {made}" if made else "nothing has changed since it was committed")
