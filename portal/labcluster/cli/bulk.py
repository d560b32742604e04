"""`labctl submit --file`: one request a line, with labctl's own option names."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

from labcluster.cli import code, output, quantities
from labcluster.cli.parameters import data_path
from labcluster.cli.session import build
from labcluster.errors import LabclusterError, UsageError

_KINDS: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "project": (str,),
    "image": (str,),
    "gpus": (int,),
    "cpus": (int, float),
    "memory": (str,),
    "time": (str, int),
    "nodes": (int,),
    "priority": (str,),
    "requeue": (bool,),
    "array": (str,),
    "after": (str, list),
    "env": (dict,),
    "set": (dict,),
    "seed": (int,),
    "data": (str, list),
    "workdir": (str,),
    "command": (str, list),
}


def read_file(name: str, common: dict[str, Any]) -> list[dict[str, Any]]:
    """The requests of a file, `-` for standard input; what a line does not say is taken from `common`."""
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--file {name}: {getattr(error, 'strerror', None) or 'it is not UTF-8'}") from None
    lines = text.splitlines()
    if not lines:
        raise UsageError(f"--file {name}: it is empty; write one request a line, as in {_EXAMPLE}")
    requests = []
    for number, line in enumerate(lines, 1):
        try:
            requests.append(common | _request(line, common))
        except LabclusterError as error:
            raise UsageError(f"{name} line {number}: {error.detail}") from None
    return requests


def submit_file(
    file: str, common: dict[str, Any], here: code.Here | None, *, dry_run: bool, as_json: bool
) -> None:
    """Submit every line of a file, with the code of each line's directory kept once."""
    items = read_file(file, common)
    body = {"items": items, "idempotency_key": common["idempotency_key"]}
    places = {common["workdir"]: here}
    for item in items:
        if here and item["workdir"] not in places:
            places[item["workdir"]], _ = code.look(item["workdir"])
        if place := places.get(item["workdir"]):
            item["code"] = place.placeholder()
    portal = build()
    try:
        answer = None
        if dry_run or any(places.values()):
            answer = portal.post("/runs/bulk/check", body)
            taken: dict[tuple[str, str], Any] = {}
            for item, plan in zip(items, answer["items"], strict=True):
                if place := places.get(item["workdir"]):
                    key = (plan["project"], item["workdir"])
                    if key not in taken:
                        taken[key] = code.capture(place, plan["project"], dry_run=dry_run).reference()
                    item["code"] = plan["code"] = taken[key]
        if not dry_run:
            answer = portal.post("/runs/bulk", body)
    except LabclusterError as error:
        if error.detail.startswith("line "):
            error.detail = f"{file} {error.detail}"
        raise
    assert answer is not None
    if as_json:
        output.emit_json(answer)
    elif dry_run:
        print(f"All {len(answer['items'])} would be accepted.")
    else:
        print("\n".join(answer["ids"]))


_EXAMPLE = '{"command": ["python3", "train.py"], "gpus": 1, "time": "2h"}'


def _request(line: str, common: dict[str, Any]) -> dict[str, Any]:
    try:
        given = json.loads(line)
    except ValueError:
        raise UsageError(f"it is not JSON; write it as in {_EXAMPLE}") from None
    if not isinstance(given, dict):
        raise UsageError(f"it is no JSON object; write it as in {_EXAMPLE}")
    for key, value in given.items():
        kinds = _KINDS.get(key)
        if kinds is None:
            raise UsageError(f"{key!r} is no option; there are {', '.join(_KINDS)}")
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise UsageError(f"{key!r} must be {' or '.join(_WORDS[kind] for kind in kinds)}")
    request = dict(given)
    if isinstance(given.get("command"), str):
        try:
            request["command"] = shlex.split(given["command"])
        except ValueError:
            raise UsageError("'command' has a quote that is not closed") from None
    if not (request.get("command") or common.get("command")):
        raise UsageError("it has no 'command', and none stands after --")
    if "memory" in given:
        request["memory"] = quantities.parse_memory(given["memory"])
    if "time" in given:
        request["time_seconds"] = quantities.parse_time(str(request.pop("time")))
    if isinstance(given.get("after"), str):
        request["after"] = given["after"].split(",")
    if "data" in given:
        named = [given["data"]] if isinstance(given["data"], str) else given["data"]
        request["data"] = [data_path(str(name)) for name in named]
    if "env" in given:
        request["env"] = common.get("env", {}) | _texts("env", given["env"])
    if "set" in given:
        request["params"] = common.get("params", {}) | _texts("set", request.pop("set"))
    return request


_WORDS: dict[type, str] = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}


def _texts(option: str, values: dict[str, Any]) -> dict[str, str]:
    for key, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise UsageError(f"{option!r} {key}: its value must be a string or a number")
    return {key: str(value) for key, value in values.items()}
