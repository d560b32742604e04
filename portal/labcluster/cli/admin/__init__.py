"""labctl admin: what administrators do to members and projects."""

from __future__ import annotations

import click

from labcluster.cli.lazy import LazyGroup

SECTIONS = {
    "Commands": {
        "member": ("labcluster.cli.admin.member", "Add people, set passwords, shut people out, list them."),
        "project": (
            "labcluster.cli.admin.project",
            "Create, change and remove projects, say who is in them.",
        ),
    }
}


@click.group(cls=LazyGroup, sections=SECTIONS)
def command() -> None:
    """Manage members and projects (administrators only)."""
