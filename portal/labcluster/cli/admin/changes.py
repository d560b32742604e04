"""How an administrator's change is told."""

from __future__ import annotations

from typing import Any

from labcluster.cli import output


def tell(answer: dict[str, Any], *, done: str, already: str, dry_run: bool, as_json: bool) -> None:
    """What the portal did, or would do."""
    if as_json:
        output.emit_json(answer)
    elif not answer["changed"]:
        print(f"unchanged: {already}")
    else:
        print(f"would change: {done}" if dry_run else done)
