"""Values are closed: a misspelt key is an error, not a setting that quietly does nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chart_files import CHARTS, CHARTS_DIR, render, values_of
from labcluster.errors import LabclusterError, UsageError


def open_objects(schema: dict[str, Any], path: str = "") -> Iterator[str]:
    """Paths of objects whose known keys are listed and that would take others as well."""
    if "properties" in schema and schema.get("additionalProperties") is not False:
        yield path or "(top)"
    for name, inner in schema.get("properties", {}).items():
        yield from open_objects(inner, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from open_objects(schema[key], f"{path}[]")


@pytest.mark.parametrize("chart", CHARTS)
def test_schema_lists_every_key_it_takes(chart: str) -> None:
    schema = json.loads((CHARTS_DIR / chart / "values.schema.json").read_text())
    assert schema["type"] == "object"
    assert "properties" in schema
    assert list(open_objects(schema)) == []


@pytest.mark.parametrize("chart", CHARTS)
def test_unknown_value_is_refused_by_name(chart: str, archives: Path | None) -> None:
    if chart == "kueue" and archives is None:
        pytest.skip("upstream's chart is not here: `make artifacts`")
    with pytest.raises(UsageError, match="misspelt"):
        render(chart, {**values_of(chart), "misspelt": 1}, archives)


@pytest.mark.parametrize("chart", [name for name in CHARTS if "image" in values_of(name)])
def test_image_without_digest_is_refused(chart: str) -> None:
    values = values_of(chart)
    values["image"] = {**values["image"], "digest": ""}
    with pytest.raises(LabclusterError, match="needs a digest"):
        render(chart, values)
