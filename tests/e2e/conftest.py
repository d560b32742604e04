"""A running site as its people meet it: ssh with their own keys, and testinfra on every host."""

from __future__ import annotations

import functools
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import testinfra
import yaml
from playwright.sync_api import Browser, Page, sync_playwright
from testinfra.host import Host

ROOT = Path(__file__).resolve().parents[2]


def pytest_addoption(parser: pytest.Parser) -> None:
    """--site names the inventory folder of the site under test."""
    parser.addoption("--site", default="inventory/lab", help="inventory folder of the running site")


@dataclass(frozen=True)
class SiteFiles:
    """What the inventory folder of the site says."""

    folder: Path
    #: Variables of group_vars/all, `cluster_*` among them.
    variables: dict[str, Any]
    #: Host variables by host name.
    hosts: dict[str, dict[str, Any]]
    #: Host names by group.
    groups: dict[str, list[str]]

    @property
    def secrets(self) -> Path:
        """Keys of the administrator and of the members."""
        return self.folder / "secrets"

    def first(self, group: str) -> str:
        """The first host of a group."""
        return self.groups[group][0]


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def site(request: pytest.FixtureRequest) -> SiteFiles:
    """The site under test; without its keys every test is skipped with the reason."""
    folder = (ROOT / request.config.getoption("--site")).resolve()
    if not (folder / "secrets" / "known_hosts").is_file():
        pytest.skip(f"{folder} has no running site: make up")
    inventory = yaml.safe_load((folder / "hosts.yml").read_text())["all"]
    variables: dict[str, Any] = dict(inventory.get("vars") or {})
    for file in sorted((folder / "group_vars" / "all").glob("*.yml")):
        variables |= yaml.safe_load(file.read_text()) or {}
    groups = {name: list(group["hosts"]) for name, group in inventory["children"].items()}
    return SiteFiles(folder, variables, inventory["hosts"], groups)


@pytest.fixture(scope="session")
def ssh_config(site: SiteFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ssh settings that know every host by its name and share one connection a person and host."""
    file = tmp_path_factory.mktemp("ssh") / "config"
    lines = []
    for name, variables in site.hosts.items():
        lines += [f"Host {name}", f"  HostName {variables['ansible_host']}", f"  HostKeyAlias {name}"]
    lines += [
        "Host *",
        "  BatchMode yes",
        "  ConnectTimeout 10",
        "  IdentitiesOnly yes",
        f"  UserKnownHostsFile {site.secrets / 'known_hosts'}",
        "  GlobalKnownHostsFile /dev/null",
        "  StrictHostKeyChecking yes",
        "  LogLevel ERROR",
        "  ControlMaster auto",
        f"  ControlPath {file.parent}/%C",
        "  ControlPersist 30s",
    ]
    file.write_text("\n".join(lines) + "\n")
    return file


def key_of(site: SiteFiles, user: str) -> Path:
    """The private key of a person: administrators share the site's own."""
    if user == site.variables["ansible_user"]:
        return site.secrets / "admin_ed25519"
    return site.secrets / "users" / f"{user}_ed25519"


@pytest.fixture(scope="session")
def run_on(site: SiteFiles, ssh_config: Path) -> Callable[..., Done]:
    """Run a command on a host as a person."""

    def run(
        host: str,
        user: str,
        command: str,
        *,
        timeout: float = 60,
        stdin: bytes | None = None,
        tty: bool = False,
    ) -> Done:
        arguments = ["ssh", "-F", str(ssh_config), "-i", str(key_of(site, user)), "-l", user]
        if stdin is None:
            arguments.append("-n")
        if tty:
            arguments.append("-tt")
        done = subprocess.run(
            [*arguments, host, "--", command], input=stdin, capture_output=True, timeout=timeout, check=False
        )
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode())

    return run


@pytest.fixture(scope="session")
def ssh_as(site: SiteFiles, run_on: Callable[..., Done]) -> Callable[[str], Callable[..., Done]]:
    """ssh_as("ada")("labctl ls"): a command on the login node as a person."""

    def person(user: str) -> Callable[..., Done]:
        return functools.partial(run_on, site.first("login"), user)

    return person


@pytest.fixture(scope="session")
def on_host(site: SiteFiles, run_on: Callable[..., Done]) -> Callable[..., Done]:
    """on_host("gpu1", "ip route"): a shell command on a host as root."""

    def run(host: str, command: str, **options: Any) -> Done:
        script = f"sudo sh -c {shlex.quote(command)}" if "stdin" in options else "sudo sh -s"
        options.setdefault("stdin", command.encode())
        return run_on(host, site.variables["ansible_user"], script, **options)

    return run


@pytest.fixture(scope="session")
def infra(site: SiteFiles, ssh_config: Path) -> Callable[[str], Host]:
    """infra("gpu1"): testinfra's view of a host, as root."""

    @functools.cache
    def connect(name: str) -> Host:
        user = site.variables["ansible_user"]
        return testinfra.get_host(
            f"ssh://{user}@{name}",
            ssh_config=str(ssh_config),
            ssh_identity_file=str(key_of(site, user)),
            sudo=True,
        )

    return connect


@pytest.fixture(scope="session")
def every_host(site: SiteFiles, infra: Callable[[str], Host]) -> dict[str, Host]:
    """All hosts by name."""
    return {name: infra(name) for name in site.hosts}


@pytest.fixture(scope="session")
def address(site: SiteFiles) -> str:
    """Where portal, Dex and API are."""
    return str(site.hosts[site.first("management")]["ansible_host"])


@pytest.fixture(scope="session")
def browser(site: SiteFiles, address: str) -> Iterator[Browser]:
    """A real browser that knows the site's names."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if not program:
        pytest.skip("there is no browser on this machine")
    rule = f"--host-resolver-rules=MAP *.{site.variables['cluster_domain']} {address}"
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=program, args=["--no-sandbox", rule])


@pytest.fixture(scope="session")
def password_of(site: SiteFiles) -> Callable[[str], str]:
    """The password of one of the lab's people."""

    def read(user: str) -> str:
        return (site.secrets / "users" / f"{user}_password").read_text().strip()

    return read


@pytest.fixture(scope="session")
def fill_login(password_of: Callable[[str], str]) -> Callable[[Page, str], None]:
    """fill_login(page, "ada"): what somebody types into Dex's form."""

    def fill(page: Page, user: str) -> None:
        page.fill("#login", user)
        page.fill("#password", password_of(user))
        page.click("#submit-login")

    return fill
