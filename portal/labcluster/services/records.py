"""Makes a run's record of what the portal says and what lies in the run's directory.

The files are written by members: any of them may be missing, of another shape, or made to do harm. What
cannot be understood is left out and said; every text is made fit for a terminal here, once. Values that look
like passwords by their names are not shown: what is made of a record is passed around.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from labcluster.models.records import CodeVersion, DataVersion, Record, RunFiles
from labcluster.services.metrics import MAX_POINTS, metric_json, read_metrics
from labcluster.services.parameters import fill
from labcluster.services.texts import MAX_NAME, MAX_TEXT, hide, plain

MAX_ENTRIES = 10_000


def read_record(run: Mapping[str, Any], files: RunFiles | None, points: int = MAX_POINTS) -> Record:
    """The record of one run, with curves of at most so many points; `files` if they are on this machine."""
    unknown: list[str] = []
    if files is None:
        return _of_portal(run, ("its files are not on this machine",))
    known = files.json("run.json")
    if isinstance(known, dict) and known.get("id") not in (None, run["id"]):
        return _of_portal(run, (f"its directory belongs to {plain(known['id'], MAX_NAME)}",))
    base = _of_portal(run, ())
    arguments = files.json("args.json")
    arguments = arguments if isinstance(arguments, dict) else {}
    given = {**texts(run.get("params")), **texts(arguments.get("params"))}
    command = tuple(fill(_words(arguments.get("command")) or base.command, given))
    packages = files.json("packages.json")
    packages = packages if isinstance(packages, dict) else {}
    metrics = read_metrics(files, unknown, points)
    result = texts(files.json("result.json"))
    parameters = {**argument_values(command), **given, **_seed({**run, **arguments})}
    return Record(
        id=base.id,
        run=base.run,
        command=command,
        parameters=hide(parameters),
        environment=hide(texts(files.json("env.json"))) or base.environment,
        python=_python(packages),
        packages=texts(packages.get("packages")),
        node=flat(files.json("node.json")),
        data=_data(files.json("data.json")),
        metrics=metrics,
        result=result,
        code=_code(run.get("code"), files.json("code.json")),
        unknown=(*unknown, *(plain(line) for line in files.complaints())),
    )


def _of_portal(run: Mapping[str, Any], unknown: tuple[str, ...]) -> Record:
    given = texts(run.get("params"))
    command = tuple(fill(_words(run.get("command")), given))
    return Record(
        id=str(run["id"]),
        run=_fit({**run, "env": hide(texts(run.get("env")))}),
        command=command,
        parameters=hide({**argument_values(command), **given, **_seed(run)}),
        environment=hide(texts(run.get("env"))),
        code=_code(run.get("code"), None),
        unknown=unknown,
    )


def _fit(value: Any) -> Any:
    """A JSON value of the portal's with every text fit to be printed."""
    if isinstance(value, Mapping):
        return {plain(key, MAX_NAME): _fit(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_fit(item) for item in value]
    return plain(value) if isinstance(value, str) else value


def _seed(run: Mapping[str, Any]) -> dict[str, str]:
    return {} if run.get("seed") is None else {"seed": plain(run["seed"], MAX_NAME)}


def _python(packages: Mapping[str, Any]) -> str | None:
    found = [packages[key] for key in ("version", "python") if isinstance(packages.get(key), str)]
    return plain(" ".join(word for word in found if word), MAX_NAME) or None


def _words(value: Any) -> tuple[str, ...]:
    return tuple(plain(word) for word in value[:MAX_ENTRIES]) if isinstance(value, list | tuple) else ()


def texts(value: Any) -> dict[str, str]:
    """An object's entries as texts; nothing of what is no object."""
    if not isinstance(value, Mapping):
        return {}
    entries = sorted((plain(key, MAX_NAME), plain(item)) for key, item in list(value.items())[:MAX_ENTRIES])
    return dict(entries)


def flat(value: Any, prefix: str = "", depth: int = 0) -> dict[str, str]:
    """A nested object as one level, `gpus.0.model`; a list of plain values is one text."""
    if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        value = {str(number): item for number, item in enumerate(value)}
    if isinstance(value, Mapping) and depth < 5:
        found: dict[str, str] = {}
        for key, item in list(value.items())[:MAX_ENTRIES]:
            found |= flat(item, f"{prefix}.{key}" if prefix else str(key), depth + 1)
        return dict(sorted(found.items())[:MAX_ENTRIES])
    if not prefix or value is None:
        return {}
    if isinstance(value, list):
        return {plain(prefix, MAX_NAME): plain(", ".join(str(item) for item in value))}
    return {plain(prefix, MAX_NAME): plain(value)}


def argument_values(command: Sequence[str]) -> dict[str, str]:
    """What a command says with `--key value`, `--key=value` and `--flag`; the last one wins."""
    found: dict[str, str] = {}
    key = None
    for word in command:
        if word == "--":
            break
        if word.startswith("--") and len(word) > 2 and not word[2:].startswith("-"):
            name, equals, value = word[2:].partition("=")
            # As argparse calls it.
            name = name[:MAX_NAME].replace("-", "_")
            found[name] = value if equals else "true"
            key = None if equals else name
        elif key is not None and not _is_short_option(word):
            found[key] = word
            key = None
        else:
            key = None
    return found


def _is_short_option(word: str) -> bool:
    return len(word) > 1 and word[0] == "-" and not (word[1].isdigit() or word[1] == ".")


def _data(value: Any) -> tuple[DataVersion, ...]:
    if not isinstance(value, list):
        return ()
    return tuple(
        DataVersion(
            path=plain(entry.get("path", ""), MAX_TEXT),
            digest=_digest(entry.get("digest")),
            manifest=_digest(entry.get("manifest")),
            files=_count(entry.get("files")),
            bytes=_count(entry.get("bytes")),
        )
        for entry in value[:MAX_ENTRIES]
        if isinstance(entry, dict)
    )


def _digest(value: Any) -> str | None:
    """A SHA-256 in hexadecimal, of which a path may be made."""
    text = value.removeprefix("sha256:") if isinstance(value, str) else ""
    return text if len(text) == 64 and set(text) <= set("0123456789abcdef") else None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _code(reference: Any, capsule: Any) -> CodeVersion | None:
    """What the portal wrote down at submit; the capsule's own words where that is missing."""
    reference = reference if isinstance(reference, Mapping) else {}
    capsule = capsule if isinstance(capsule, Mapping) else None
    if not reference and not capsule:
        return None
    git = (capsule or {}).get("git")
    told = {
        **(git if isinstance(git, Mapping) else {}),
        **{k: v for k, v in reference.items() if v is not None},
    }

    def text(key: str) -> str | None:
        return plain(told[key], MAX_NAME) if isinstance(told.get(key), str) else None

    digest = _digest(reference.get("digest"))
    return CodeVersion(
        digest, text("commit"), text("branch"), text("remote"), told.get("dirty") is True, capsule
    )


def as_json(record: Record) -> dict[str, Any]:
    """A record as a program reads it; its curves are left out."""
    return {
        "id": record.id,
        "run": dict(record.run),
        "command": list(record.command),
        "parameters": dict(record.parameters),
        "environment": dict(record.environment),
        "python": record.python,
        "packages": dict(record.packages),
        "node": dict(record.node),
        "data": [vars(entry) for entry in record.data],
        "metrics": {key: metric_json(metric) for key, metric in record.metrics.items()},
        "result": dict(record.result),
        "code": None
        if record.code is None
        else {key: item for key, item in vars(record.code).items() if key != "capsule"},
        "unknown": list(record.unknown),
    }
