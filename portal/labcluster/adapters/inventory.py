"""Reads a site's inventory folder: hosts.yml and the variable files beside it, without Ansible."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from labcluster.errors import NotFoundError, UsageError
from labcluster.models.inventory import Inventory, Variable, Vaulted


class _Loader(yaml.SafeLoader):
    """Safe YAML that knows vault values and refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key!r} is given twice: keep one", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_constructor("!vault", lambda _loader, _node: Vaulted("vaulted"))


def read_inventory(folder: Path) -> Inventory:
    """The inventory in a folder.

    Raises NotFoundError where the folder or its hosts.yml is missing and UsageError where a file is
    no YAML mapping, each naming the file and, where there is one, the line.
    """
    hosts_file = folder / "hosts.yml"
    if not hosts_file.is_file():
        raise NotFoundError(f"{hosts_file}: no such file: copy inventory/example and fill it in")
    inventory = Inventory(folder)
    _read_groups(inventory, _load(hosts_file), hosts_file)
    for path, content in _variable_files(inventory, "group_vars"):
        group = path.relative_to(folder / "group_vars").parts[0].removesuffix(".yml")
        target = inventory.site if group == "all" else inventory.group_variables.setdefault(group, {})
        target.update({name: Variable(value, path) for name, value in content.items()})
    for path, content in _variable_files(inventory, "host_vars"):
        host = path.relative_to(folder / "host_vars").parts[0].removesuffix(".yml")
        inventory.hosts.setdefault(host, {}).update({n: Variable(v, path) for n, v in content.items()})
    return inventory


def _variable_files(inventory: Inventory, kind: str) -> list[tuple[Path, dict[str, Any]]]:
    found = []
    for path in sorted((inventory.folder / kind).rglob("*.yml")):
        if path.read_text(errors="replace").startswith("$ANSIBLE_VAULT"):
            inventory.vaulted.append(path)
        else:
            found.append((path, _load(path)))
    return found


def _load(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(), _Loader)  # noqa: S506 (a SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UsageError(f"{path}{line}: {error.problem}") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: is not YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UsageError(f"{path}: must be a mapping of names to values, not a {type(content).__name__}")
    return content


def _read_groups(inventory: Inventory, groups: dict[str, Any], file: Path) -> None:
    for group, content in groups.items():
        content = content or {}
        if not isinstance(content, dict) or set(content) - {"hosts", "children", "vars"}:
            raise UsageError(f"{file}: group {group}: may only have hosts, children and vars")
        members = inventory.groups.setdefault(group, [])
        for host, values in (content.get("hosts") or {}).items():
            members.append(host)
            variables = {name: Variable(value, file) for name, value in (values or {}).items()}
            inventory.hosts.setdefault(host, {}).update(variables)
        target = inventory.site if group == "all" else inventory.group_variables.setdefault(group, {})
        target.update({name: Variable(value, file) for name, value in (content.get("vars") or {}).items()})
        children = content.get("children") or {}
        _read_groups(inventory, children, file)
        if group != "all":
            for child in children:
                members.extend(inventory.groups[child])
