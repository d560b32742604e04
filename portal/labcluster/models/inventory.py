"""What an inventory folder says, as it was read: values with the files that set them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class Vaulted(str):
    """A value that ansible-vault encrypts: present, and not to be looked into."""


@dataclass(frozen=True)
class Variable:
    """One inventory variable and the file that sets it."""

    value: Any
    file: Path


@dataclass
class Inventory:
    """What the folder says; `vaulted` are files that are encrypted as a whole."""

    folder: Path
    groups: dict[str, list[str]] = field(default_factory=dict)
    hosts: dict[str, dict[str, Variable]] = field(default_factory=dict)
    site: dict[str, Variable] = field(default_factory=dict)
    group_variables: dict[str, dict[str, Variable]] = field(default_factory=dict)
    vaulted: list[Path] = field(default_factory=list)

    def where(self, name: str) -> str:
        """File and name of a site variable; where it is missing, the file it belongs in."""
        variable = self.site.get(name)
        file = variable.file if variable else self.folder / "group_vars" / "all" / "cluster.yml"
        return f"{file}: {name}"

    def host_where(self, host: str, key: str) -> str:
        """File, host and name of a host variable; where it is missing, hosts.yml."""
        variable = self.hosts[host].get(key)
        return f"{variable.file if variable else self.folder / 'hosts.yml'}: {host}: {key}"


@dataclass(frozen=True)
class Problem:
    """One fault of a site: `where` is a file and a key, `what` a sentence with the remedy."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"
