"""Writes docs/reference from what the code itself says; `--check` fails where a page is out of date.

usage: python docs/generate.py [--check]
"""

from __future__ import annotations

import difflib
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast, get_args

import click
import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "docs" / "reference"
#: A longer default would make a table's column unreadable.
DEFAULT_CHARACTERS = 60
HEADER = "<!-- Written by `make generate` from {source}; do not edit. -->\n"


def table(columns: list[str], rows: list[list[str]]) -> Iterator[str]:
    """Lines of a Markdown table."""
    yield "| " + " | ".join(columns) + " |"
    yield "|" + " --- |" * len(columns)
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |"


# --- the site file --------------------------------------------------------------------------------


def type_name(annotation: Any) -> str:
    """A type as an administrator reads it."""
    names = {
        "IPv4Network": "network",
        "IPv4Address": "address",
        "SecretStr": "secret",
        "str": "text",
        "int": "number",
    }
    if annotation is type(None):
        return "nothing"
    if getattr(annotation, "__origin__", None) is list:
        return f"list of {type_name(get_args(annotation)[0])}"
    if arguments := get_args(annotation):
        if all(isinstance(argument, str) for argument in arguments):
            return " or ".join(f"`{argument}`" for argument in arguments)
        return " or ".join(type_name(a) for a in arguments if a is not type(None) and isinstance(a, type))
    name = getattr(annotation, "__name__", str(annotation))
    return names.get(name, "yes or no" if name == "bool" else name)


def model_table(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """A model's fields as a table."""
    rows = []
    for name, field in model.model_fields.items():
        if field.is_required():
            default = "required"
        elif field.default is PydanticUndefined or isinstance(field.default, BaseModel):
            default = "empty"
        else:
            default = f"`{json.dumps(field.default)}`"
        rows.append([f"`{prefix}{name}`", type_name(field.annotation), default, field.description or ""])
    yield from table(["key", "type", "default", "meaning"], rows)


def site_page() -> Iterator[str]:
    """The keys of a site's variables."""
    from labcluster.models import site

    yield "# The site file\n"
    yield "`inventory/<site>/group_vars/all/cluster.yml`; `labctl validate inventory/<site>` checks it.\n"
    yield from model_table(site.Site, "cluster_")
    for model, title in (
        (site.Admin, "An entry of `cluster_admins`"),
        (site.PackageMirror, "`cluster_package_mirror`"),
        (site.Proxy, "`cluster_proxy`"),
        (site.Secrets, "`cluster_secrets` (ansible-vault)"),
        (site.Host, "Variables of a host in `hosts.yml`"),
    ):
        yield f"\n## {title}\n\n{' '.join((model.__doc__ or '').split())}\n"
        yield from model_table(model)
    yield "\n## Groups\n"
    yield from table(["group", "what its machines do"], [[f"`{g}`", what] for g, what in site.GROUPS.items()])


# --- roles, charts, images ------------------------------------------------------------------------


def roles_page() -> Iterator[str]:
    """Every role's options from its argument specs."""
    yield "# Roles\n"
    for specs in sorted((ROOT / "ansible" / "roles").glob("*/meta/argument_specs.yml")):
        role = specs.parents[1].name
        defaults: dict[str, Any] = {}
        for file in sorted((specs.parents[1] / "defaults").rglob("*.yml")):
            defaults |= yaml.safe_load(file.read_text()) or {}
        for entry, spec in yaml.safe_load(specs.read_text())["argument_specs"].items():
            yield f"## {role}" + ("" if entry == "main" else f" ({entry})") + "\n"
            yield f"{spec.get('short_description', '')}\n"
            rows = [
                [
                    f"`{name}`",
                    option.get("type", "str"),
                    default_of(name, option, defaults),
                    text_of(option.get("description", "")),
                ]
                for name, option in sorted((spec.get("options") or {}).items())
            ]
            if rows:
                yield from table(["option", "type", "default", "meaning"], rows)
                yield ""


def default_of(name: str, option: dict[str, Any], defaults: dict[str, Any]) -> str:
    """An option's default as a cell; a long one stays in the role's defaults."""
    if option.get("required") or name not in defaults:
        return "required"
    shown = json.dumps(defaults[name], ensure_ascii=False)
    return f"`{shown}`" if len(shown) <= DEFAULT_CHARACTERS else "see defaults/main.yml"


def text_of(description: str | list[str]) -> str:
    """A description, given as text or as a list of sentences."""
    return description if isinstance(description, str) else " ".join(description)


def charts_page() -> Iterator[str]:
    """Every chart's values from its schema."""
    yield "# Charts\n"
    for schema in sorted((ROOT / "charts").glob("*/values.schema.json")):
        chart = schema.parent
        yield f"## {chart.name}\n"
        yield f"{yaml.safe_load((chart / 'Chart.yaml').read_text()).get('description', '')}\n"
        yield from table(["value", "type", "meaning"], list(schema_rows(json.loads(schema.read_text()), "")))
        yield ""


def schema_rows(schema: dict[str, Any], path: str) -> Iterator[list[str]]:
    """A row for each leaf of a JSON schema."""
    for name, part in sorted((schema.get("properties") or {}).items()):
        here = f"{path}.{name}" if path else name
        if name in ("global", "labcluster-lib"):
            continue
        if part.get("properties"):
            yield from schema_rows(part, here)
        else:
            kind = part.get("type", "object" if "$ref" in part else "any")
            yield [
                f"`{here}`",
                kind if isinstance(kind, str) else " or ".join(kind),
                part.get("description", ""),
            ]


def images_page() -> Iterator[str]:
    """What `make artifacts` builds."""
    catalog = yaml.safe_load((ROOT / "images" / "catalog.yml").read_text())
    yield "# Artifacts\n\nWhat `make artifacts` builds into `build/store`, from `images/catalog.yml`.\n"
    kinds = {"programs": "Programs", "image": "Images", "archive": "Archives"}
    for kind, title in kinds.items():
        entries = [entry for entry in catalog["recipes"] if entry["kind"] == kind]
        rows = [[f"`{e['name']}`", str(e["version"]), e["licence"], e["source"]] for e in entries]
        yield f"## {title}\n"
        yield from table(["name", "version", "licence", "source"], rows)
        yield ""


# --- labctl and the API ---------------------------------------------------------------------------


def labctl_page() -> Iterator[str]:
    """The help of every command."""
    from labcluster.cli.main import labctl

    yield "# labctl\n"
    yield from help_of(
        labctl, click.Context(labctl, info_name="labctl", terminal_width=100, max_content_width=100)
    )


def help_of(command: click.Command, context: click.Context) -> Iterator[str]:
    """A command's help and that of the commands below it."""
    yield f"## {context.command_path}\n\n```\n{command.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is not None and not below.hidden:
                yield from help_of(below, click.Context(below, info_name=name, parent=context))


def api_page() -> Iterator[str]:
    """The REST routes from the OpenAPI document."""
    from labcluster.web.app import create_app
    from labcluster.web.wiring import Portal

    # Describing its routes needs no database or cluster behind them.
    document = create_app(cast(Portal, SimpleNamespace(login=None))).openapi()
    yield "# REST API\n\nThe whole document is served at `/api/v1/openapi.json`.\n"
    rows = [
        [
            f"`{method.upper()} {path}`",
            operation.get("description", operation.get("summary", "")).split("\n")[0],
        ]
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    ]
    yield from table(["request", "what it does"], rows)


# --- admission ------------------------------------------------------------------------------------


def admission_page() -> Iterator[str]:
    """Every rule of the admission policies, by name."""
    from labcluster.adapters.helm import Chart

    folder = ROOT / "charts" / "identity"
    values = yaml.safe_load((folder / "ci" / "values.yaml").read_text())
    rules: dict[str, dict[str, list[str]]] = {}
    for item in Chart.read(folder).render(values, name="identity", namespace="labcluster"):
        if item["kind"] == "ValidatingAdmissionPolicy":
            kind = item["metadata"]["name"].removeprefix("labcluster-")
            for rule in item["spec"]["validations"]:
                text = rule.get("message") or sentence_of(rule["messageExpression"])
                name, _, said = text.removeprefix("[").partition("] ")
                rules.setdefault(name, {}).setdefault(said, []).append(kind)
    yield "# What the admission policies refuse\n"
    yield "In the namespaces of projects, whoever asks. A refusal begins with the rule's name in brackets;"
    yield "what the policies set by themselves is in `charts/identity/templates/_changes.tpl`.\n"
    rows = [
        [f"`{name}`", said, " and ".join(kinds) if len(kinds) < 3 else "every kind with a pod template"]
        for name, texts in sorted(rules.items())
        for said, kinds in texts.items()
    ]
    yield from table(["rule", "sentence", "where"], rows)


def sentence_of(expression: str) -> str:
    """A CEL sum of texts as one text, with … for what depends on the request."""
    expression = re.sub(r'\[\?"[^"]*"\]', "", expression)
    while (shorter := re.sub(r'\((?:[^()"]|"[^"]*")*\)', "_", expression)) != expression:
        expression = shorter
    parts = re.findall(r'"([^"]*)"|([^"+\s][^"+]*)', expression)
    return re.sub(r"…+", "…", "".join(text if not value else "…" for text, value in parts)).strip()


PAGES: dict[str, tuple[str, Callable[[], Iterator[str]]]] = {
    "site.md": ("portal/labcluster/models/site.py", site_page),
    "roles.md": ("ansible/roles/*/meta/argument_specs.yml", roles_page),
    "charts.md": ("charts/*/values.schema.json", charts_page),
    "artifacts.md": ("images/catalog.yml", images_page),
    "labctl.md": ("labctl --help", labctl_page),
    "admission.md": ("charts/identity", admission_page),
    "api.md": ("the portal's OpenAPI document", api_page),
}


def main(arguments: list[str]) -> int:
    """Write the pages, or with --check compare them; 1 where one differs."""
    stale = 0
    for name, (source, page) in PAGES.items():
        path = REFERENCE / name
        wanted = HEADER.format(source=source) + "\n" + "\n".join(page()).rstrip() + "\n"
        present = path.read_text() if path.exists() else ""
        if "--check" not in arguments:
            REFERENCE.mkdir(parents=True, exist_ok=True)
            path.write_text(wanted)
        elif wanted != present:
            stale = 1
            difference = difflib.unified_diff(
                present.splitlines(), wanted.splitlines(), str(path), "generated", lineterm=""
            )
            print("\n".join(list(difference)[:30]))
            print(f"verify: {path.relative_to(ROOT)} is out of date: run make generate")
    return stale


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
