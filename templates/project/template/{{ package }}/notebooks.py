"""Run notebooks: python3 -m PACKAGE.notebooks --source notebooks --output artifacts/notebooks."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path


def main(words: list[str] | None = None) -> int:
    """Run every notebook of a folder; 1 if one failed. Its copy shows where, its log what it printed."""
    import papermill  # not in the cluster's smallest images, and only needed here

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--source", type=Path, default=Path("notebooks"))
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args(words)
    given.output.mkdir(parents=True, exist_ok=True)
    failed = []
    for notebook in sorted(given.source.glob("*.ipynb")):
        handler = logging.FileHandler(given.output / f"{notebook.stem}.log", mode="w")
        logging.basicConfig(
            level=logging.INFO, format="%(asctime)s %(message)s", handlers=[handler], force=True
        )
        try:
            papermill.execute_notebook(
                notebook, given.output / notebook.name, cwd=".", log_output=True, progress_bar=False
            )
        except papermill.PapermillExecutionError as error:
            logging.error("%s", error)
            failed.append(notebook.name)
        print(
            f"{notebook.name}: {'failed' if notebook.name in failed else 'done'}, see {handler.baseFilename}"
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
