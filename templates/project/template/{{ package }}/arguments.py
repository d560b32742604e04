"""Command layer: the arguments that all commands share."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from .files import artifacts


def parser(description: str | None) -> argparse.ArgumentParser:
    """--data and --output; both are folders."""
    made = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    made.add_argument("--data", type=Path, required=True, help="folder of .jsonl files")
    add_output(made)
    return made


def add_output(made: argparse.ArgumentParser) -> None:
    """--output, the one folder of results."""
    made.add_argument(
        "--output",
        type=Path,
        default=artifacts(),
        help="folder of model and results (default: $LABCLUSTER_ARTIFACTS_DIR, else artifacts)",
    )


def add_seed(made: argparse.ArgumentParser) -> None:
    """--seed; the cluster gives every run one and keeps it."""
    seed = int(os.environ.get("LABCLUSTER_SEED", "0"))
    made.add_argument("--seed", type=int, default=seed, help=f"default: $LABCLUSTER_SEED, else 0; now {seed}")
