"""Every wrong site of tests/fixtures/sites/invalid is told what is wrong and where; the good one is not."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from labcluster.adapters.inventory import read_inventory
from labcluster.errors import LabclusterError
from labcluster.services.site import check_site

SITES = Path(__file__).parents[2] / "fixtures" / "sites"
DECLARED = frozenset({"file_server_exports"})
INVALID = sorted((SITES / "invalid").glob("*.yml"))


def problems_of(folder: Path) -> list[str]:
    """What `labctl validate` would say of a folder."""
    try:
        return [str(problem) for problem in check_site(read_inventory(folder), DECLARED)]
    except LabclusterError as error:
        return [error.detail]


def merged(base: Any, change: Any) -> Any:
    """A value with a fixture's change laid over it; null takes a key away."""
    if not isinstance(base, dict) or not isinstance(change, dict):
        return change
    result = dict(base)
    for key, value in change.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


@pytest.fixture
def wrong_site(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Path, list[str]]:
    """A copy of the good site with one fixture's fault, and what must be said of it."""
    site = tmp_path / "site"
    shutil.copytree(SITES / "valid", site)
    fault = yaml.safe_load(request.param.read_text())
    variables = site / "group_vars" / "all" / "cluster.yml"
    secrets = site / "group_vars" / "all" / "secrets.yml"
    good = yaml.safe_load(variables.read_text())
    change = fault.get("site", {})
    for admin in change.get("cluster_admins") or []:
        admin["ssh_keys"] = [
            good["cluster_admins"][0]["ssh_keys"][0] if k == "KEY" else k for k in admin["ssh_keys"]
        ]
    if change:
        variables.write_text(yaml.safe_dump(good | merged(good, change), sort_keys=False))
        for key in (key for key, value in change.items() if value is None):
            without = yaml.safe_load(variables.read_text())
            without.pop(key, None)
            variables.write_text(yaml.safe_dump(without))
    variables.write_text(variables.read_text() + fault.get("append", ""))
    if "secrets" in fault:
        secrets.write_text(
            yaml.safe_dump(merged(yaml.safe_load(secrets.read_text()), {"cluster_secrets": fault["secrets"]}))
        )
    if fault.get("without_secrets"):
        secrets.unlink()
    hosts = yaml.safe_load((site / "hosts.yml").read_text())
    hosts["all"]["hosts"] = merged(hosts["all"]["hosts"], fault.get("hosts", {}))
    for group, members in fault.get("groups", {}).items():
        hosts["all"]["children"][group] = {"hosts": dict.fromkeys(members)}
    (site / "hosts.yml").write_text(yaml.safe_dump(hosts, sort_keys=False))
    return site, fault["expect"]


def test_the_good_site_has_no_problems() -> None:
    assert problems_of(SITES / "valid") == []


@pytest.mark.parametrize("wrong_site", INVALID, indirect=True, ids=[path.stem for path in INVALID])
def test_a_wrong_site_is_told_where_and_what(wrong_site: tuple[Path, list[str]]) -> None:
    folder, expected = wrong_site
    told = problems_of(folder)
    for sentence in expected:
        assert any(sentence in problem for problem in told), "\n".join(told)


@pytest.mark.parametrize("wrong_site", INVALID, indirect=True, ids=[path.stem for path in INVALID])
def test_a_problem_is_one_line_and_shows_no_secret(wrong_site: tuple[Path, list[str]]) -> None:
    folder, _ = wrong_site
    secrets = folder / "group_vars" / "all" / "secrets.yml"
    values = yaml.safe_load(secrets.read_text())["cluster_secrets"].values() if secrets.exists() else []
    for problem in problems_of(folder):
        assert "\n" not in problem
        assert not any(value in problem for value in values)


def test_a_mail_servers_password_may_be_given(tmp_path: Path) -> None:
    shutil.copytree(SITES / "valid", tmp_path / "site")
    folder = tmp_path / "site/group_vars/all"
    mail = {"host": "mail.lab.internal", "sender": "a@lab.internal", "domains": ["lab.internal"], "user": "a"}
    hooks = ["hooks.slack.com", "*.chat.lab.internal:8443"]
    notices = {"cluster_notices": {"webhook_hosts": hooks, "mail": mail}}
    with (folder / "cluster.yml").open("a") as file:
        yaml.safe_dump(notices, file)
    with (folder / "secrets.yml").open("a") as file:
        file.write("  mail_password: short\n")
    assert problems_of(tmp_path / "site") == []


def test_a_folder_without_hosts_is_told_to_copy_the_example(tmp_path: Path) -> None:
    assert "copy inventory/example" in problems_of(tmp_path)[0]


def test_a_vaulted_secrets_file_is_taken_as_present(tmp_path: Path) -> None:
    shutil.copytree(SITES / "valid", tmp_path / "site")
    (tmp_path / "site/group_vars/all/secrets.yml").write_text("$ANSIBLE_VAULT;1.1;AES256\n6131\n")
    assert problems_of(tmp_path / "site") == []


def test_the_example_lacks_nothing_but_what_only_its_owner_knows(tmp_path: Path) -> None:
    shutil.copytree(SITES.parents[2] / "inventory" / "example", tmp_path / "site")
    good = yaml.safe_load((SITES / "valid/group_vars/all/cluster.yml").read_text())
    key = good["cluster_admins"][0]["ssh_keys"][0]
    shutil.copy(SITES / "valid/group_vars/all/secrets.yml", tmp_path / "site/group_vars/all/secrets.yml")
    variables = tmp_path / "site/group_vars/all/cluster.yml"
    variables.write_text(variables.read_text().replace("CHANGE-ME", key))
    assert problems_of(tmp_path / "site") == []
