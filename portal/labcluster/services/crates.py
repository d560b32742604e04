"""What a bundle of runs says about itself: an RO-Crate 1.1 of the profile Process Run Crate.

https://w3id.org/ro/crate/1.1 and https://w3id.org/ro/wfrun/process/0.5
"""

from __future__ import annotations

import mimetypes
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import quote

from labcluster.models.records import Metric, Record
from labcluster.services.metrics import json_number

METADATA = "ro-crate-metadata.json"
PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
_CONTEXT = ["https://w3id.org/ro/crate/1.1/context", "https://w3id.org/ro/terms/workflow-run/context"]
_COMPLETED, _FAILED = ("http://schema.org/CompletedActionStatus", "http://schema.org/FailedActionStatus")
_KINDS = {
    ".jsonl": "application/x-ndjson",
    ".log": "text/plain",
    ".md": "text/markdown",
    ".py": "text/x-python",
}
_LICENCES = "https://spdx.org/licenses/"

Entity = dict[str, Any]


@dataclass(frozen=True)
class BundledFile:
    """A file of a bundle; `about` is a sentence for its reader."""

    path: str
    size: int
    sha256: str
    about: str = ""


@dataclass
class BundledRun:
    """A run and what of it lies in the bundle."""

    record: Record
    folder: str
    files: list[BundledFile] = field(default_factory=list)
    #: sentences
    left_out: list[str] = field(default_factory=list)
    taken: set[str] = field(default_factory=set)

    def file(self, name: str) -> BundledFile | None:
        """One of its files by the name below its folder."""
        return next((file for file in self.files if file.path == f"{self.folder}/{name}"), None)


def safe_path(path: str, taken: set[str]) -> str:
    """A relative path as any system can unpack it, unlike those that are taken; most stay as they are."""
    parts = [_safe_name(part) for part in path.split("/") if part not in ("", ".", "..")]
    found = "/".join(parts) or "_"
    number = 2
    # Names that differ only in case are the same file for some systems.
    while found.casefold() in taken:
        found, number = f"{'/'.join(parts)}~{number}", number + 1
    taken.add(found.casefold())
    return found


def _safe_name(name: str) -> str:
    kept = (
        "_" if char in '\\:*?"<>|' or unicodedata.category(char)[0] == "C" else char for char in name[:200]
    )
    return "".join(kept).rstrip(". ") or "_"


def metadata(
    runs: Sequence[BundledRun], title: str, licence: str | None, published: str, others: Sequence[BundledFile]
) -> Entity:
    """The whole of ro-crate-metadata.json; `published` is a date in ISO 8601."""
    graph: list[Entity] = []
    for run in runs:
        graph += _run(run)
    files = [*others, *(file for run in runs for file in run.files)]
    folders = [_folder(run) for run in runs]
    root: Entity = {
        "@id": "./",
        "@type": "Dataset",
        "name": title,
        "description": f"{title}: code, environment, parameters, metrics, results, recorded by labcluster. "
        "README.md tells how to read it.",
        "datePublished": published,
        "license": _reference(_licence(licence)["@id"]),
        "conformsTo": _reference(PROFILE),
        "hasPart": [_reference(_id(file.path)) for file in others]
        + [_reference(folder["@id"]) for folder in folders],
        "mentions": [_reference(f"#{run.record.id}") for run in runs],
        "author": _references(f"#user-{user}" for user in _users(runs)),
    }
    descriptor = {
        "@id": METADATA,
        "@type": "CreativeWork",
        "about": _reference("./"),
        "conformsTo": _reference("https://w3id.org/ro/crate/1.1"),
    }
    profile = {"@id": PROFILE, "@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5"}
    people = [{"@id": f"#user-{user}", "@type": "Person", "name": user} for user in _users(runs)]
    graph = [*folders, *(_file(file) for file in files), *graph, *people, profile, _licence(licence)]
    # What runs share, such as an image, is one entity.
    unique = {entity["@id"]: _short(entity) for entity in [descriptor, root, *graph]}
    return {"@context": _CONTEXT, "@graph": list(unique.values())}


def _short(entity: Entity) -> Entity:
    """As RO-Crates are written: one value is no list, and what is not known is not there."""
    return {
        key: value[0] if isinstance(value, list) and len(value) == 1 else value
        for key, value in entity.items()
        if value not in (None, [], "")
    }


def _users(runs: Sequence[BundledRun]) -> list[str]:
    return sorted({str(run.record.run["user"]) for run in runs})


def _licence(given: str | None) -> Entity:
    if given is None:
        name = "No licence was given: ask the authors before you use it"
        return {"@id": "#licence", "@type": "CreativeWork", "name": name, "description": name}
    at = given if given.startswith(("http://", "https://")) else _LICENCES + quote(given)
    return {"@id": at, "@type": "CreativeWork", "name": given, "description": f"The licence {given}"}


def _reference(target: str) -> Entity:
    return {"@id": target}


def _references(targets: Iterable[str]) -> list[Entity]:
    return [_reference(target) for target in targets]


def _id(path: str) -> str:
    return quote(path)


def _file(file: BundledFile) -> Entity:
    ending = "." + file.path.rpartition(".")[2]
    kind = _KINDS.get(ending) or mimetypes.guess_type(file.path)[0] or "application/octet-stream"
    found = {
        "@id": _id(file.path),
        "@type": "File",
        "name": file.path,
        "contentSize": str(file.size),
        "encodingFormat": kind,
        "sha256": file.sha256,
    }
    return found | ({"description": file.about} if file.about else {})


def _folder(run: BundledRun) -> Entity:
    return {
        "@id": _id(run.folder) + "/",
        "@type": "Dataset",
        "name": f"Run {run.record.id}",
        "description": f"All that was recorded of run {run.record.id}.",
        "hasPart": _references(_id(file.path) for file in run.files),
    }


def _run(run: BundledRun) -> list[Entity]:
    record, about = run.record, f"#{run.record.id}"
    told = record.run
    parameters = [
        _value(f"{about}-parameter-{name}", name, value) for name, value in record.parameters.items()
    ]
    environment = [
        _value(f"{about}-environment-{name}", name, value) for name, value in record.environment.items()
    ]
    metrics = [
        _value(f"{about}-metric-{metric.key}", metric.key, json_number(metric.last.value))
        for metric in record.metrics.values()
        if not metric.system
    ]
    program = _program(run)
    inputs = [file for file in run.files if file.path.startswith(f"{run.folder}/data/")]
    results = [file for file in run.files if _is_result(run, file)]
    state = str(told["state"])
    action: Entity = {
        "@id": about,
        "@type": "CreateAction",
        "name": f"Run {record.id}: {told['name']}",
        "description": " ".join(record.command)[:1000] or "its command is not known",
        "instrument": _reference(program[0]["@id"]),
        "agent": _reference(f"#user-{told['user']}"),
        "object": _references([entity["@id"] for entity in parameters] + [_id(file.path) for file in inputs]),
        "result": _references([_id(file.path) for file in results] + [entity["@id"] for entity in metrics]),
        "actionStatus": _status(state),
        "startTime": _time(told.get("started_at")),
        "endTime": _time(told.get("finished_at")),
        "error": told.get("reason") if state not in ("succeeded", "running", "queued", "starting") else None,
        "environment": _references(entity["@id"] for entity in environment),
    }
    image = _image(record)
    if image is not None:
        action["containerImage"] = _reference(image["@id"])
    return [action, *program, *parameters, *environment, *metrics, *([image] if image else [])]


def _is_result(run: BundledRun, file: BundledFile) -> bool:
    name = file.path.removeprefix(f"{run.folder}/")
    return name.startswith("artifacts/") or name in ("metrics.csv", "stdout.log", "result.json")


def _status(state: str) -> str | None:
    if state in ("queued", "starting", "running"):
        return None
    return _COMPLETED if state == "succeeded" else _FAILED


def _time(text: str | None) -> str | None:
    return datetime.fromisoformat(text).isoformat(timespec="seconds") if text else None


def _value(identity: str, name: str, value: str | float) -> Entity:
    return {"@id": quote(identity, safe="#-._~"), "@type": "PropertyValue", "name": name, "value": value}


def _program(run: BundledRun) -> list[Entity]:
    """What ran: the captured code, else only the command's first words."""
    record, code = run.record, run.record.code
    name = next(iter(record.command), None) or str(record.run["name"])
    files = [file for file in run.files if file.path.startswith(f"{run.folder}/code/")]
    found: Entity = {
        "@id": f"#program-{record.id}",
        "@type": "SoftwareApplication",
        "name": f"{record.run['name']}: {name}",
        "hasPart": _references(_id(file.path) for file in files),
        "softwareRequirements": _references(
            _id(file.path) for file in [run.file("requirements.txt")] if file is not None
        ),
    }
    if code is not None:
        found["version"] = (code.commit or code.digest or "unknown") + ("+changes" if code.dirty else "")
        if code.remote and code.remote.startswith("https://"):
            found["url"] = code.remote
    return [found]


def _image(record: Record) -> Entity | None:
    name, digest = record.run.get("image"), record.run.get("image_digest")
    if not name:
        return None
    host, _, rest = str(name).partition("/")
    repository, _, tag = rest.rpartition(":")
    return {
        "@id": f"#image-{quote(str(digest or name), safe='')}",
        "@type": "ContainerImage",
        "additionalType": _reference("https://w3id.org/ro/terms/workflow-run#DockerImage"),
        "registry": host,
        "name": repository or rest,
        "tag": tag if repository else None,
        "sha256": str(digest).removeprefix("sha256:") if digest else None,
    }


def metrics_csv(metrics: Mapping[str, Metric]) -> str:
    """Last, least, greatest and mean value of every metric."""
    import csv
    import io

    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["metric", "last", "last_step", "min", "min_step", "max", "max_step", "mean", "count"])
    for metric in metrics.values():
        least, most = metric.min, metric.max
        rows.writerow(
            [
                # A spreadsheet takes a cell that begins so for a formula.
                f"'{metric.key}" if metric.key[:1] in "=+-@" else metric.key,
                metric.last.value,
                metric.last.step,
                *([least.value, least.step] if least else ["", ""]),
                *([most.value, most.step] if most else ["", ""]),
                "" if metric.mean is None else metric.mean,
                metric.count,
            ]
        )
    return text.getvalue()
