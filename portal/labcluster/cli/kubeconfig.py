"""labctl kubeconfig."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from labcluster.adapters.dex_client import write_private
from labcluster.cli import output
from labcluster.cli.session import client, token_file
from labcluster.cli.settings import Settings, load
from labcluster.errors import LabclusterError, UsageError

_EXEC_API = "client.authentication.k8s.io/v1"


@click.command()
@click.option("--project", help="The project whose namespace kubectl uses where none is named.")
@click.option("--merge", is_flag=True, help="Put it into ~/.kube/config (or the file of $KUBECONFIG).")
@click.option(
    "--credential", is_flag=True, hidden=True, help="What the kubeconfig calls: a token for kubectl."
)
def command(project: str | None, merge: bool, credential: bool) -> None:
    """Print a kubeconfig with which kubectl works under your own name.

    \b
      labctl login && labctl kubeconfig --merge && kubectl -n project-vision get jobs

    It holds no secret: kubectl asks labctl for a token each time.
    """
    settings = load()
    if credential:
        tokens = token_file(settings).current()
        until = datetime.fromtimestamp(tokens.expires_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        status = {"token": tokens.id_token, "expirationTimestamp": until}
        print(json.dumps({"apiVersion": _EXEC_API, "kind": "ExecCredential", "status": status}))
        return
    place = client(settings, lambda: "none").get("/site")["kubernetes"]
    if not merge:
        print(_kubeconfig(settings, place, project, current=True), end="")
        return
    target = Path((os.environ.get("KUBECONFIG") or "~/.kube/config").split(os.pathsep)[0]).expanduser()
    _merge(target, settings, place, project)
    output.say(f"{target} has the context {settings.cluster}")
    if token_file(settings).load() is None:
        output.say("log in before you use it: labctl login")


def _kubeconfig(settings: Settings, place: dict[str, Any], project: str | None, *, current: bool) -> str:
    """As YAML, whose flow values are JSON."""
    name = json.dumps(settings.cluster)
    context = {"cluster": settings.cluster, "user": settings.cluster}
    if project:
        context["namespace"] = f"project-{project}"
    own = "labctl" if shutil.which("labctl") else str(Path(sys.argv[0]).absolute())
    config = os.environ.get("LABCTL_CONFIG")
    environment = [{"name": "LABCTL_CONFIG", "value": str(Path(config).absolute())}] if config else None
    lines = [
        "apiVersion: v1",
        "kind: Config",
        "clusters:",
        f"  - name: {name}",
        "    cluster:",
        f"      server: {json.dumps(place['server'])}",
        f"      certificate-authority-data: {base64.b64encode(place['ca'].encode()).decode()}",
        "users:",
        f"  - name: {name}",
        "    user:",
        "      exec:",
        f"        apiVersion: {_EXEC_API}",
        f"        command: {json.dumps(own)}",
        "        args: [kubeconfig, --credential]",
        f"        env: {json.dumps(environment)}",
        "        interactiveMode: Never",
        "contexts:",
        f"  - name: {name}",
        f"    context: {json.dumps(context)}",
    ]
    if current:
        lines.append(f"current-context: {name}")
    return "\n".join(lines) + "\n"


def _merge(target: Path, settings: Settings, place: dict[str, Any], project: str | None) -> None:
    """By kubectl's own rules, ours first: what is there under our names is replaced, the rest stays."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        raise UsageError("--merge needs kubectl on this machine: labctl kubeconfig > FILE without it")
    chosen = _kubectl([kubectl, "config", "current-context"], str(target)) if target.exists() else None
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory() as folder:
        ours = Path(folder) / "config"
        write_private(ours, _kubeconfig(settings, place, project, current=not chosen))
        merged = _kubectl([kubectl, "config", "view", "--raw", "--flatten"], f"{ours}{os.pathsep}{target}")
    if merged is None:
        raise LabclusterError(f"kubectl cannot read {target}: kubectl config view --kubeconfig {target}")
    write_private(target, merged)


def _kubectl(words: list[str], files: str) -> str | None:
    done = subprocess.run(
        words,
        env={**os.environ, "KUBECONFIG": files},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.stdout if done.returncode == 0 and done.stdout.strip() else None
