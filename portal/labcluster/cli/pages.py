"""Pages that stand alone in one file: no network, no script but ours, whatever the runs have written."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from labcluster.cli import output
from labcluster.errors import UsageError
from labcluster.models.records import Metric, Record
from labcluster.services.comparison import Comparison
from labcluster.services.metrics import curve_points

_HERE = Path(__file__).parent
_CHARTS = _HERE / "vendor" / "uplot"
_TEMPLATES = _HERE / "templates"
_MAX_CHARTS = 60
_HEADS = ("diff ", "index ", "--- ", "+++ ", "new file", "deleted file", "old mode", "new mode", "Binary ")


def comparison_page(comparison: Comparison) -> str:
    """The page of `labctl compare --html`."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        took=output.took,
        version=code_version,
        diff_lines=_diff_lines,
        css=lambda state: str(state).split()[0],
    )
    environment.tests["numbers"] = lambda row: all(
        isinstance(value, float) or value is None for value in row.values
    )
    scripts = {
        "chart_js": (_CHARTS / "uPlot.iife.min.js").read_text(),
        "page_js": (_TEMPLATES / "compare.js").read_text(),
    }
    styles = {
        "chart_css": (_CHARTS / "uPlot.min.css").read_text(),
        "page_css": (_TEMPLATES / "page.css").read_text(),
    }
    return environment.get_template("compare.html").render(
        c=comparison,
        charts=_charts(comparison),
        hashes=Markup(" ").join(_hash(script) for script in scripts.values()),
        **{name: Markup(text) for name, text in {**scripts, **styles}.items()},  # noqa: S704 - our own files
    )


def _hash(script: str) -> Markup:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return Markup(f"'sha256-{digest}'")  # noqa: S704 - made of base64 only


def _charts(comparison: Comparison) -> dict[str, Any] | None:
    metrics = [
        {"name": name, "curves": [_curve(number, record.metrics[name]) for number, record in of]}
        for name in comparison.metrics[:_MAX_CHARTS]
        if (of := [(n, record) for n, record in enumerate(comparison.records) if name in record.metrics])
    ]
    return {"runs": [record.id for record in comparison.records], "metrics": metrics} if metrics else None


def _curve(number: int, metric: Metric) -> dict[str, Any]:
    """A chart's library wants ascending steps, each once: the last value of a step counts."""
    points = {step: (value, time) for step, value, time in curve_points(metric)}
    times = [time for _, time in points.values()]
    begin = min((time for time in times if time is not None), default=0.0)
    return {
        "run": number,
        "steps": list(points),
        "values": [value for value, _ in points.values()],
        "times": [] if None in times else [time - begin for time in times if time is not None],
    }


def code_version(record: Record) -> str:
    """The commit that a run ran, with a + where more was changed."""
    code = record.code
    return (code.commit or code.digest or "")[:10] + ("+" if code.dirty else "") if code else ""


def _diff_lines(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        if line.startswith(_HEADS):
            yield "head", line
        else:
            yield {"+": "add", "-": "del", "@": "hunk"}.get(line[:1], "same"), line


def write(path: Path, text: str) -> None:
    """Replace a file as a whole; UsageError where that cannot be."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("x", encoding="utf-8") as file:
            file.write(text)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UsageError(f"{path} cannot be written: {(error.strerror or str(error)).lower()}") from None
