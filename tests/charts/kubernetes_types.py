"""Strict checks of objects against Kubernetes' own types, with no network and no cluster.

The official client is generated from the OpenAPI description of the version that its number names (36 is
1.36), so its models know every field, its type and whether it is required. The API server drops an unknown
field with a warning that nobody reads; here it is a fault.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from kubernetes.client import models

# Where a number may stand for a quantity's text.
_QUANTITIES = {"limits", "requests", "capacity", "hard"}
_TEXT = (str, datetime)
_PLAIN = {"str": str, "int": int, "float": (int, float), "bool": bool, "datetime": _TEXT, "bytes": str}


def model_of(item: dict[str, Any]) -> type | None:
    """The client's model of an object; None for a custom resource."""
    group, _, version = item["apiVersion"].rpartition("/")
    if group and "." in group and not group.endswith(".k8s.io"):
        return None
    version = version[0].upper() + version[1:]
    names = (f"{version}{item['kind']}", f"{group.partition('.')[0].capitalize()}{version}{item['kind']}")
    return next((getattr(models, name) for name in names if hasattr(models, name)), None)


def faults(item: dict[str, Any]) -> list[str]:
    """What is wrong with an object, by path; empty when Kubernetes would take it as it is written."""
    model = model_of(item)
    if model is None:
        return [f"{item['apiVersion']} {item['kind']} is no kind of Kubernetes"]
    return list(_object_faults(item, model, item["kind"]))


def _object_faults(value: Any, model: Any, path: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{path} must be an object"
        return
    attributes = {name: attribute for attribute, name in model.attribute_map.items()}
    given = {}
    for name, content in value.items():
        if name not in attributes:
            yield f"{path}.{name} is not a field of {model.__name__}"
            continue
        given[attributes[name]] = content
        yield from _faults(content, model.openapi_types[attributes[name]], f"{path}.{name}", name)
    try:
        model(**given)  # refuses what lacks a required field
    except ValueError as error:
        yield f"{path}: {error}"


def _faults(value: Any, kind: str, path: str, name: str) -> Iterator[str]:
    if value is None or kind == "object":
        return
    if listed := re.fullmatch(r"list\[(.*)\]", kind):
        if not isinstance(value, list):
            yield f"{path} must be a list"
            return
        for index, content in enumerate(value):
            yield from _faults(content, listed[1], f"{path}[{index}]", name)
    elif mapped := re.fullmatch(r"dict[(\[]str, (.*)[)\]]", kind):
        if not isinstance(value, dict):
            yield f"{path} must be a map"
            return
        for key, content in value.items():
            if not (name in _QUANTITIES and isinstance(content, int)):
                yield from _faults(content, mapped[1], f"{path}.{key}", name)
    elif kind in _PLAIN:
        if not isinstance(value, _PLAIN[kind]) or (isinstance(value, bool) and kind != "bool"):
            yield f"{path} must be {kind}, not {value!r}"
    else:
        yield from _object_faults(value, getattr(models, kind), path)
