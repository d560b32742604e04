"""Make the small data set: python3 -m PACKAGE.sample --output data/sample."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import files, records


def main(words: list[str] | None = None) -> int:
    """Write records.jsonl: the same bytes for the same count and seed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder for records.jsonl")
    parser.add_argument("--count", type=int, default=120, help="records (default 120)")
    parser.add_argument("--seed", type=int, default=0, help="default 0")
    given = parser.parse_args(words)
    files.write_lines(given.output / "records.jsonl", records.sample(given.count, given.seed))
    return 0


if __name__ == "__main__":
    sys.exit(main())
