"""Markdown from templates that people write themselves: sandboxed, and every value is escaped."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import (
    ChoiceLoader,
    DictLoader,
    FileSystemLoader,
    StrictUndefined,
    TemplateError,
    TemplateSyntaxError,
)
from jinja2.sandbox import ImmutableSandboxedEnvironment
from markupsafe import Markup

from labcluster.cli import output
from labcluster.errors import UsageError

_TEMPLATES = Path(__file__).parent / "templates"
DEFAULT = "report.md"
_SPECIAL = re.compile(r"[\\`*{}\[\]<>#|~!&$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_BRIEF = 40


def render(data: Mapping[str, Any], template: Path | None) -> str:
    """A report's text; UsageError says where a template is wrong. It may extend `report.md`."""
    own = {}
    if template is not None:
        try:
            own = {"template": template.read_text()}
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--template {template} cannot be read: {error}") from None
    environment = _environment(own)
    try:
        text = environment.get_template("template" if own else DEFAULT).render(data)
    except TemplateSyntaxError as error:
        raise UsageError(f"--template {template}, line {error.lineno}: {error.message}") from None
    except (TemplateError, TypeError, ValueError, KeyError, AttributeError, ArithmeticError) as error:
        raise UsageError(f"--template {template}: {error}") from None
    return _tidy(text)


def render_ours(name: str, data: Mapping[str, Any]) -> str:
    """The text of one of our own templates."""
    return _tidy(_environment({}).get_template(name).render(data))


def _tidy(text: str) -> str:
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _environment(own: Mapping[str, str]) -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        loader=ChoiceLoader([DictLoader(dict(own)), FileSystemLoader(_TEMPLATES)]),
        undefined=StrictUndefined,
        finalize=value_text,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        day=_day,
        hours=_hours,
        words=_words,
        listed=_listed,
        brief=_brief,
        link=_link,
        took=_took,
        verbatim=_verbatim,
    )
    return environment


def value_text(value: Any) -> Any:
    """What stands for a value: numbers shortened, and no text means anything to Markdown."""
    if isinstance(value, Markup):
        return value
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.5g}" if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return escape(value)
    return escape(str(value)) if isinstance(value, Mapping | Sequence) else value


def escape(text: str) -> str:
    """A text as itself in a line of Markdown or in a cell of a table."""
    return _SPECIAL.sub(lambda found: "\\" + found[0], re.sub(r"\s+", " ", text))


def _day(text: Any) -> str:
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d") if text else ""


def _hours(value: float) -> str:
    return f"{value:.1f}"


def _words(state: str) -> str:
    return state.replace("_", " ")


def _listed(names: Sequence[str], most: int) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _brief(value: Any) -> Any:
    return value[: _BRIEF - 1] + "…" if isinstance(value, str) and len(value) > _BRIEF else value


def _link(path: str) -> Markup:
    return Markup(quote(path))  # noqa: S704 - quoted


def _verbatim(text: str) -> Markup:
    """A line of code, indented: nothing in it means anything."""
    return Markup(" ".join(text.split()))  # noqa: S704 - as said


def _took(run: Mapping[str, Any]) -> str:
    return output.took(run)
