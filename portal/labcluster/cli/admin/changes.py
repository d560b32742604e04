"""How an administrator's change is told."""

from __future__ import annotations

from typing import Any

from labcluster.cli import output


def tell(answer: dict[str, Any], what: str, *, dry_run: bool, as_json: bool) -> None:
    """What the portal did, or would do: one line an action."""
    if as_json:
        output.emit_json(answer)
    elif not answer["actions"]:
        print(f"{what}: nothing to do")
    else:
        for action in answer["actions"]:
            print(f"would {action}" if dry_run else f"done: {action}")
