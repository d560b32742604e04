"""Checks a whole site before anything touches a node: every value, and every value against the others.

A problem says where (file and key), what is wrong and what to do. All problems are found in one go.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from labcluster.models.inventory import Inventory, Problem, Variable, Vaulted
from labcluster.models.site import GROUPS, Host, Secrets, Site
from labcluster.services.site_checks import SiteChecks

_PREFIX = "cluster_"
_ModelT = TypeVar("_ModelT", bound=BaseModel)


def check_site(inventory: Inventory, declared: frozenset[str] | None = None) -> list[Problem]:
    """Every fault of a site, in the order of its files; empty for a good one.

    declared: names of the variables that roles declare; None skips the check of other variables' names.
    """
    problems: list[Problem] = []
    site = _check_values(inventory, problems)
    hosts = _check_hosts(inventory, problems)
    problems += _groups(inventory)
    problems += _foreign_variables(inventory, declared)
    problems += _missing_secrets(inventory)
    if site is not None:
        problems += SiteChecks(inventory, site, hosts).problems()
    return problems


# --- values by themselves -------------------------------------------------------------------------


def _check_values(inventory: Inventory, problems: list[Problem]) -> Site | None:
    given = {n.removeprefix(_PREFIX): v for n, v in inventory.site.items() if n.startswith(_PREFIX)}
    values = {name: _without_vaulted(variable.value) for name, variable in given.items()}
    if isinstance(values.get("secrets"), dict):
        # Missing secrets are reported by name, apart: a vault may hold them.
        values["secrets"] = None
    return _validated(Site, values, problems, lambda key: inventory.where(_PREFIX + key), _PREFIX)


def _check_hosts(inventory: Inventory, problems: list[Problem]) -> dict[str, Host]:
    hosts = {}
    for name, variables in inventory.hosts.items():
        values = {key: v.value for key, v in variables.items() if key in Host.model_fields}
        host = _validated(Host, values, problems, functools.partial(inventory.host_where, name))
        if host is not None:
            hosts[name] = host
    return hosts


def _validated(
    model: type[_ModelT],
    values: dict[str, Any],
    problems: list[Problem],
    where: Callable[[str], str],
    prefix: str = "",
) -> _ModelT | None:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        for fault in error.errors():
            path = [str(part) for part in fault["loc"]]
            key = ".".join(path)
            problems.append(Problem(where(path[0]) + key[len(path[0]) :], _sentence(fault, model, prefix)))
        return None


def _sentence(fault: Any, model: type[BaseModel], prefix: str) -> str:
    kind, given = fault["type"], fault["input"]
    if kind == "extra_forbidden":
        return "is not a known key" + _did_you_mean(
            str(fault["loc"][-1]), _fields_at(model, fault["loc"]), prefix
        )
    if kind == "missing":
        return "is missing: " + (_description(model, fault["loc"]) or "give it a value")
    message = str(fault["msg"]).removeprefix("Value error, ")
    # A secret is never shown, nor what is too long for a line.
    shown = "" if model is Secrets or isinstance(given, dict | list) else f"{given!r} "
    return f"{shown}{message[0].lower()}{message[1:]}"


def _fields_at(model: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    """The names allowed where the last part of a path stands."""
    current = model
    for part in path[:-1]:
        if isinstance(part, str):
            annotation = current.model_fields[part].annotation
            candidates = [annotation, *getattr(annotation, "__args__", ())]
            current = next(
                (c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), current
            )
    return list(current.model_fields)


def _description(model: type[BaseModel], path: tuple[Any, ...]) -> str | None:
    if len(path) == 1 and path[0] in model.model_fields:
        return model.model_fields[str(path[0])].description
    return None


def _did_you_mean(name: str, known: list[str], prefix: str = "") -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return (
        f": did you mean {prefix}{near[0]}?" if near else f": remove it (known: {', '.join(sorted(known))})"
    )


def _without_vaulted(value: Any) -> Any:
    return None if isinstance(value, Vaulted) else value


# --- groups, names, secrets -----------------------------------------------------------------------


def _groups(inventory: Inventory) -> Iterator[Problem]:
    file = inventory.folder / "hosts.yml"
    for group in inventory.groups:
        if group not in GROUPS and group != "all":
            yield Problem(f"{file}: {group}", f"is not a known group{_did_you_mean(group, list(GROUPS))}")
    for group, function in GROUPS.items():
        if not inventory.groups.get(group):
            yield Problem(f"{file}: {group}", f"has no hosts: name at least one machine ({function})")
    planes = inventory.groups.get("kube_control_plane", [])
    if planes and len(planes) % 2 == 0:
        yield Problem(
            f"{file}: kube_control_plane",
            f"has {len(planes)} hosts: an even number tolerates no more failures than one less; "
            "use one or three",
        )
    for host in planes:
        if host not in inventory.groups.get("management", []):
            yield Problem(
                f"{file}: kube_control_plane", f"{host} is not in the group management: add it there too"
            )
    for host in set(inventory.groups.get("gpu_node", [])) & set(planes):
        yield Problem(f"{file}: gpu_node", f"{host} is also a control plane: jobs must not run beside etcd")


def _foreign_variables(inventory: Inventory, declared: frozenset[str] | None) -> Iterator[Problem]:
    if declared is None:
        return
    known = declared | set(Host.model_fields)
    scopes: list[tuple[str, dict[str, Variable]]] = [("", inventory.site)]
    scopes += [(f"{group}: ", variables) for group, variables in inventory.group_variables.items()]
    scopes += [(f"{host}: ", variables) for host, variables in inventory.hosts.items()]
    for scope, variables in scopes:
        for name, variable in variables.items():
            if name.startswith("ansible_") or name in known or (name.startswith(_PREFIX) and not scope):
                continue
            near = difflib.get_close_matches(name, known, n=1)
            remedy = f"did you mean {near[0]}?" if near else "remove it, or declare it in a role"
            yield Problem(f"{variable.file}: {scope}{name}", f"no role knows this variable: {remedy}")


def _mail_user(inventory: Inventory) -> object:
    variable = inventory.site.get("cluster_notices")
    mail = variable.value.get("mail") if variable and isinstance(variable.value, dict) else None
    return mail.get("user") if isinstance(mail, dict) else None


def _missing_secrets(inventory: Inventory) -> Iterator[Problem]:
    variable = inventory.site.get("cluster_secrets")
    if variable is None:
        if not inventory.vaulted:
            yield Problem(
                f"{inventory.folder / 'group_vars' / 'all' / 'secrets.yml'}: cluster_secrets",
                "is missing: copy secrets.yml from inventory/example and encrypt it with ansible-vault",
            )
        return
    if not isinstance(variable.value, dict):
        yield Problem(f"{variable.file}: cluster_secrets", "must be a mapping of names to secrets")
        return
    for name in variable.value:
        if name not in Secrets.model_fields:
            yield Problem(
                f"{variable.file}: cluster_secrets.{name}",
                f"is not a known key{_did_you_mean(str(name), list(Secrets.model_fields))}",
            )
    for name, info in Secrets.model_fields.items():
        value = variable.value.get(name)
        where = f"{variable.file}: cluster_secrets.{name}"
        if value is None:
            if info.is_required() or (name == "mail_password" and _mail_user(inventory)):
                yield Problem(where, f"is missing: {info.description}")
        elif not isinstance(value, Vaulted):
            faults: list[Problem] = []
            _validated(Secrets, {name: value}, faults, lambda key: key)
            yield from (Problem(where, f.what) for f in faults if f.where == name)
