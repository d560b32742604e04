"""Writing what is known of runs into a bundle."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from tarfile import TarError
from typing import Any

from labcluster.adapters.bundles import Bundle
from labcluster.adapters.code_trees import LINK
from labcluster.cli import output
from labcluster.cli.gathering import Loaded
from labcluster.cli.quantities import show_bytes
from labcluster.models.records import RunFiles
from labcluster.services import crates
from labcluster.services.crates import BundledFile, BundledRun, safe_path
from labcluster.services.metrics import metric_json
from labcluster.services.records import as_json
from labcluster.services.texts import plain

#: As they lie in a run's directory; those with secrets are written anew instead.
_COPIED = {
    "packages.json": "Python packages that the command saw",
    "node.json": "the machine that it ran on",
    "data.json": "versions of its data",
    "result.json": "how it ended",
    "code.json": "where its code came from",
    "code.patch": "what differed from the commit",
}


def write_bundle(
    bundle: Bundle, runs: Sequence[Loaded], *, title: str | None, licence: str | None, max_size: int
) -> list[BundledRun]:
    """Everything of the runs, then the README and the metadata that describe it."""
    written = [_write_run(bundle, run, max_size) for run in runs]
    names = sorted({str(run.record.run["name"]) for run in written})
    title = title or f"{', '.join(names[:3])}{' and more' if len(names) > 3 else ''}: {_ids(written)}"
    readme = _add(bundle, "README.md", _readme(written, plain(title)).encode(), "what lies here")
    ends = [run.record.run.get("finished_at") or run.record.run["submitted_at"] for run in written]
    crate = crates.metadata(written, plain(title), licence, max(ends), [readme])
    text = json.dumps(crate, indent=1, ensure_ascii=False, sort_keys=False) + "\n"
    bundle.add(crates.METADATA, text.encode())
    return written


def _ids(runs: Sequence[BundledRun]) -> str:
    ids = [run.record.id for run in runs]
    return ", ".join(ids) if len(ids) <= 4 else f"{ids[0]} to {ids[-1]}, {len(ids)} runs"


def _write_run(bundle: Bundle, run: Loaded, max_size: int) -> BundledRun:
    record = run.record
    made = BundledRun(record, f"runs/{record.id}")
    output.say(f"writing {record.id}")

    def add(name: str, content: Any, about: str) -> None:
        data = (
            content
            if isinstance(content, bytes)
            else (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
        )
        made.files.append(_add(bundle, f"{made.folder}/{name}", data, about))

    add("run.json", as_json(record), "the run as the cluster knew it, and what was found of it")
    add("parameters.json", dict(record.parameters), "its parameters")
    add("environment.json", dict(record.environment), "variables that it was given")
    if record.packages:
        lines = "".join(f"{name}=={version}\n" for name, version in record.packages.items() if version)
        add("requirements.txt", lines.encode(), "Python packages that it saw, for pip")
    if record.metrics:
        add("metrics.csv", crates.metrics_csv(record.metrics).encode(), "its metrics in short")
    if run.folder is None:
        return made
    for name, about in _COPIED.items():
        _copy(bundle, made, run.folder, name, name, about, max_size)
    source = "recorded.jsonl" if _has(run.folder, "recorded.jsonl") else "metrics.jsonl"
    _copy(bundle, made, run.folder, source, "metrics.jsonl", "every value of every metric", max_size)
    _copy(bundle, made, run.folder, "stdout.log", "stdout.log", "what it printed", max_size)
    for name in _further(run):
        _copy(bundle, made, run.folder, name, name, "of another of its pods, or an earlier attempt", max_size)
    _manifests(bundle, made, run)
    _code(bundle, made, run)
    _artifacts(bundle, made, run.folder, max_size)
    known = set(record.unknown)
    made.left_out += [line for line in map(plain, run.folder.complaints()) if line not in known]
    return made


def _further(run: Loaded) -> list[str]:
    told = run.record.run
    ranks = range(1, int(told.get("nodes") or 1))
    names = [f"rank-{rank}.{ending}" for rank in ranks for ending in ("log", "json", "node.json")]
    return names + [f"result.attempt-{attempt}.json" for attempt in range(1, int(told.get("attempt") or 1))]


def _add(bundle: Bundle, path: str, content: bytes, about: str) -> BundledFile:
    size, sha = bundle.add(path, content)
    return BundledFile(path, size, sha, about)


def _has(files: RunFiles, name: str) -> bool:
    file = files.open(name)
    if file is not None:
        file.close()
    return file is not None


def _copy(
    bundle: Bundle, made: BundledRun, files: RunFiles, source: str, name: str, about: str, max_size: int
) -> None:
    file = files.open(source)
    if file is None:
        return
    with file:
        size = file.seek(0, 2)
        file.seek(0)
        if size > max_size:
            made.left_out.append(
                f"{plain(source)} ({show_bytes(size)}) is larger than --max-size: it was left out"
            )
            return
        path = f"{made.folder}/{safe_path(name, made.taken)}"
        made.files.append(BundledFile(path, *bundle.add(path, file), about))


def _manifests(bundle: Bundle, made: BundledRun, run: Loaded) -> None:
    for number, entry in enumerate(run.record.data, start=1):
        if entry.manifest is None:
            continue
        try:
            with run.objects.open(entry.manifest) as file:
                path = f"{made.folder}/data/{number}.jsonl"
                made.files.append(BundledFile(path, *bundle.add(path, file), f"the files of {entry.path}"))
        except (OSError, ValueError) as error:
            made.left_out.append(f"the list of files of {entry.path} cannot be read: {plain(str(error))}")


def _code(bundle: Bundle, made: BundledRun, run: Loaded) -> None:
    try:
        tree = run.code()
        links = sorted(path for path, digest in tree.digests.items() if digest.startswith(LINK))
        made.left_out += [f"code/{plain(path)} is a link: it was left out" for path in links]
        for path, _, file in tree.contents(sorted(set(tree.digests) - set(links))):
            at = f"{made.folder}/{safe_path(f'code/{path}', made.taken)}"
            made.files.append(BundledFile(at, *bundle.add(at, file)))
    except (OSError, ValueError, TarError, EOFError) as error:
        made.left_out.append(f"its code is not here: {plain(str(error))}")


def _artifacts(bundle: Bundle, made: BundledRun, files: RunFiles, max_size: int) -> None:
    entries, left = files.walk("artifacts")
    made.left_out += [plain(line) for line in left]
    for entry in entries:
        path = f"artifacts/{entry.path}"
        _copy(bundle, made, files, path, path, "made by the run", max_size)


def _readme(runs: Sequence[BundledRun], title: str) -> str:
    from labcluster.cli.markdown import render_ours

    projects = sorted({run.record.project for run in runs})
    return render_ours(
        "README.md", {"title": title, "projects": projects, "runs": [_told(run) for run in runs]}
    )


def _told(run: BundledRun) -> dict[str, Any]:
    record, code = run.record, run.record.code
    reference = record.run.get("code") or {}
    return {
        "id": record.id,
        "folder": run.folder,
        "told": dict(record.run),
        "command": shlex.join(record.command),
        "subdir": reference.get("subdir") if isinstance(reference, dict) else None,
        "commit": code.commit if code else None,
        "remote": code.remote if code else None,
        "dirty": bool(code and code.dirty),
        "version": (code.commit or code.digest or "")[:10] + ("+" if code.dirty else "") if code else None,
        "python": record.python if record.packages else None,
        "data": [vars(entry) for entry in record.data],
        "parameters": dict(record.parameters),
        "metrics": [
            {"key": metric.key, **metric_json(metric)}
            for metric in record.metrics.values()
            if not metric.system
        ],
        "left_out": [*record.unknown, *run.left_out],
    }
