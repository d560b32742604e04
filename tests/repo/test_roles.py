"""Rules of ansible/roles: specs match defaults, and a role reads nobody else's variables."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
ANSIBLE = ROOT / "ansible"
ROLES = sorted(path for path in (ANSIBLE / "roles").iterdir() if (path / "tasks").is_dir())
#: The cross-role bridge and the roles that are called with parameters only.
TASK_LINES = 100


def specs_of(role: Path) -> dict[str, dict[str, object]]:
    """The options of a role, of all its entry points."""
    content = yaml.safe_load((role / "meta" / "argument_specs.yml").read_text())
    options: dict[str, dict[str, object]] = {}
    for entry in content["argument_specs"].values():
        options |= entry.get("options") or {}
    return options


def defaults_of(role: Path) -> dict[str, object]:
    """The defaults of a role, from all of its defaults files."""
    values: dict[str, object] = {}
    for file in sorted((role / "defaults").rglob("*.yml")):
        values |= yaml.safe_load(file.read_text()) or {}
    return values


def texts_of(role: Path, *folders: str) -> list[tuple[Path, str]]:
    """Text of the files in some folders of a role."""
    files = [file for folder in folders for file in sorted((role / folder).rglob("*")) if file.is_file()]
    return [(file, file.read_text(errors="replace")) for file in files]


by_role = pytest.mark.parametrize("role", ROLES, ids=[role.name for role in ROLES])


@by_role
def test_a_role_declares_its_options(role: Path) -> None:
    assert (role / "meta" / "argument_specs.yml").is_file()
    for name in specs_of(role):
        assert name.startswith(f"{role.name}_"), f"{name} is not named after its role"


@by_role
def test_specs_are_the_defaults_and_the_required_ones(role: Path) -> None:
    specs, defaults = specs_of(role), defaults_of(role)
    required = {name for name, spec in specs.items() if spec.get("required")}
    assert set(defaults) <= set(specs), "defaults without a spec"
    assert set(specs) - set(defaults) - required == set(), "optional options without a default"


@by_role
def test_a_role_reads_site_facts_only_in_its_defaults(role: Path) -> None:
    for file, text in texts_of(role, "tasks", "templates", "handlers", "vars"):
        if "templates" in file.parts:
            # A template may write a site fact down; reading one is what stands in Jinja.
            text = " ".join(re.findall(r"\{[{%].*?[%}]\}", text, re.DOTALL))
        found = re.findall(r"(?<![\w./-])cluster_[a-z]\w*", re.sub(r"#.*", "", text))
        assert not found, f"{file.relative_to(ROOT)} reads {found[0]}: take it through defaults/main.yml"


@by_role
def test_a_role_does_not_look_at_groups(role: Path) -> None:
    for file, text in texts_of(role, "tasks", "templates", "handlers", "vars", "defaults"):
        assert "groups[" not in text and "groups." not in text, (
            f"{file.relative_to(ROOT)}: derive it in playbooks/group_vars"
        )


@by_role
def test_task_files_stay_small(role: Path) -> None:
    for file, text in texts_of(role, "tasks"):
        assert text.count("\n") <= TASK_LINES, f"{file.relative_to(ROOT)}: split it by topic"


def test_every_role_is_used_and_every_used_role_exists() -> None:
    used = set()
    for playbook in (ANSIBLE / "playbooks").glob("*.yml"):
        for play in yaml.safe_load(playbook.read_text()) or []:
            for entry in play.get("roles") or []:
                used.add(entry["role"] if isinstance(entry, dict) else entry)
    for role in ROLES:
        for _, text in texts_of(role, "tasks", "meta"):
            used |= set(re.findall(r"name: (\w+)\n\s+tasks_from", text))
            used |= set(re.findall(r"(?:import|include)_role:\n\s+name: (\w+)", text))
            used |= set(re.findall(r"^  - role: (\w+)", text, re.MULTILINE))
    assert used <= {role.name for role in ROLES}
    assert {role.name for role in ROLES} <= used
