#!/usr/bin/env python3
"""The lab's first training run: an administrator makes people and projects, one of them submits.

Everything goes through ssh on the login node, with the same commands as on a real site; the people
are those of `people.yml` in the inventory folder. Run again it changes nobody and submits once more.

usage: python lab/first_run.py --site inventory/lab
"""

from __future__ import annotations

import argparse
import io
import json
import os
import secrets
import shlex
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "digits"
#: How long a new member may take to be known everywhere: directory, sssd, controller, tree agent.
MEMBER_SECONDS = 120


class FirstRunError(Exception):
    """A step of the first run did not work; the message says which and what it printed."""


class Site:
    """A lab's inventory, as Ansible reads it, and ssh to its login node."""

    def __init__(self, folder: Path) -> None:
        listing = subprocess.run(
            [ROOT / ".venv/bin/ansible-inventory", "-i", folder, "--list"],
            cwd=ROOT / "ansible", check=True, capture_output=True, text=True,
        )  # fmt: skip
        inventory = json.loads(listing.stdout)
        self.secrets = folder / "secrets"
        self.people: dict[str, Any] = yaml.safe_load((folder / "people.yml").read_text())
        self.login_name: str = inventory["login"]["hosts"][0]
        self.login: dict[str, Any] = inventory["_meta"]["hostvars"][self.login_name]
        self.admin: str = self.login["cluster_admins"][0]["name"]
        self.portal = f"https://portal.{self.login['cluster_domain']}/"
        port = self.login.get("lab_hosts_portal_port")
        self.portal_here = f"https://127.0.0.1:{port}/" if port else self.portal

    def ssh(
        self, user: str, command: str, *, stdin: bytes | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a shell command on the login node as one of its users, with that user's own key."""
        return subprocess.run(
            [*self.ssh_command(user), command], input=stdin, capture_output=True, check=False
        )

    def ssh_command(self, user: str) -> list[str]:
        """The ssh words before the remote command."""
        words = [
            "ssh",
            "-F",
            str(self.secrets / "ssh_config"),
            "-o",
            "BatchMode=yes",
            "-o",
            "ConnectTimeout=5",
        ]
        if user != self.admin:
            words += ["-i", str(self.secrets / "users" / f"{user}_ed25519")]
        return [*words, f"{user}@{self.login_name}"]

    def labctl(self, user: str, *words: str, stdin: str = "") -> str:
        """The output of one labctl command; raises FirstRunError with its message."""
        done = self.ssh(user, shlex.join(["labctl", *words]), stdin=stdin.encode())
        if done.returncode:
            raise FirstRunError(f"{user}: labctl {' '.join(words[:4])}: {done.stderr.decode().strip()}")
        return done.stdout.decode()


def key_of(site: Site, user: str) -> str:
    """A lab user's public key; the pair is made where it is missing."""
    private = site.secrets / "users" / f"{user}_ed25519"
    if not private.exists():
        private.parent.mkdir(mode=0o700, exist_ok=True)
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", user, "-f", private],
            check=True,
            capture_output=True,
        )
    return private.with_suffix(".pub").read_text().strip()


def password_of(site: Site, user: str) -> str:
    """A lab user's password, for the portal in a browser; it is made where it is missing."""
    file = site.secrets / "users" / f"{user}_password"
    if not file.exists():
        file.touch(mode=0o600)
        file.write_text(secrets.token_urlsafe(12) + "\n")
    return file.read_text().strip()


def make_people(site: Site) -> None:
    """Projects first, then members, then who is in what."""
    for project in site.people["projects"]:
        words = ["admin", "project", "create", project["name"], "--description", project["description"]]
        words += ["--gpus", str(project["gpus"]), "--max-gpus", str(project["max_gpus"])]
        site.labctl(site.admin, *words)
    for member in site.people["members"]:
        words = ["admin", "member", "add", member["name"], "--full-name", member["full_name"]]
        words += ["--ssh-key", key_of(site, member["name"]), "--password-stdin"]
        site.labctl(site.admin, *words, stdin=f"{password_of(site, member['name'])}\n")
        for project in member["projects"]:
            site.labctl(site.admin, "admin", "project", "add-member", project, member["name"])


def wait_for_member(site: Site, member: dict[str, Any]) -> None:
    """Until the member can log in, has a home, and the cluster knows his projects."""
    deadline = time.monotonic() + MEMBER_SECONDS
    last = "nothing was tried"
    while time.monotonic() < deadline:
        done = site.ssh(member["name"], 'test -O "$HOME" && labctl whoami --json')
        if done.returncode == 0:
            known = {project["name"] for project in json.loads(done.stdout)["projects"]}
            if known >= set(member["projects"]):
                return
            last = f"is in {sorted(known)} so far"
        else:
            last = done.stderr.decode().strip() or f"exit status {done.returncode}"
        time.sleep(1)
    raise FirstRunError(f"{member['name']} cannot work after {MEMBER_SECONDS} s: {last}")


def copy_example(site: Site, user: str) -> str:
    """Put examples/digits into the user's home through ssh; the folder on the login node."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.add(EXAMPLE, arcname="digits")
    done = site.ssh(user, "tar -xzf - --no-same-owner -C ~", stdin=packed.getvalue())
    if done.returncode:
        raise FirstRunError(f"copying examples/digits for {user}: {done.stderr.decode().strip()}")
    return f"{site.login.get('login_home_dir', '/lab/home')}/{user}/digits"


def train(site: Site, user: str, project: str, folder: str) -> dict[str, Any]:
    """Submit the example on one GPU, show its log while it runs, and answer the finished run."""
    submit = (
        f"cd {folder} && labctl submit --project {project} --gpus 1 --name digits --json -- python3 train.py"
    )
    done = site.ssh(user, submit)
    if done.returncode:
        raise FirstRunError(f"{user}: labctl submit: {done.stderr.decode().strip()}")
    run = json.loads(done.stdout)
    print(f"submitted {run['id']}; its log:", flush=True)
    subprocess.run([*site.ssh_command(user), f"labctl logs --follow {run['id']}"], check=False)
    deadline = time.monotonic() + 60
    while True:
        run = json.loads(site.labctl(user, "show", run["id"], "--json"))
        if run["finished_at"] or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    if run["state"] != "succeeded":
        raise FirstRunError(f"{run['id']} {run['state']}: {run['reason']}")
    return run


def report(site: Site, user: str, run: dict[str, Any]) -> None:
    """What happened, where the files are, and what to type next."""
    files = site.ssh(user, f"cd {run['directory']} && find . -type f | sort").stdout.decode().split()
    metrics = site.ssh(user, f"cat {run['directory']}/artifacts/metrics.json").stdout
    shown = "  ".join(f"{name} {value}" for name, value in json.loads(metrics).items())
    folder = os.path.relpath(site.secrets)
    ssh = f"ssh -F {folder}/ssh_config -i {folder}/users/{user}_ed25519 {user}@{site.login_name}"
    print(f"""
{run["id"]} ({run["name"]}) of {user} {run["state"]} on {run["node"]} with {run["gpus"]} GPU
  metrics    {shown}
  files      {run["directory"]}
             {"  ".join(name.removeprefix("./") for name in files)}
  portal     {site.portal} (on this machine: {site.portal_here})
             {user}'s password for it: {folder}/users/{user}_password

Next:
  {ssh}
  labctl ls                      your runs
  labctl show {run["id"]:<19}one of them
  labctl submit --gpus 1 -- …    another, from any folder on /lab
  labctl --help
""")


def main() -> int:
    """Exit status 0, or 1 with one line on what did not work."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--site", type=Path, required=True, help="inventory folder of the lab")
    site = Site(parser.parse_args().site.resolve())
    first = site.people["first_run"]
    try:
        print("making projects and members", flush=True)
        make_people(site)
        for member in site.people["members"]:
            wait_for_member(site, member)
        folder = copy_example(site, first["user"])
        report(site, first["user"], train(site, first["user"], first["project"], folder))
    except FirstRunError as error:
        print(f"first run: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
