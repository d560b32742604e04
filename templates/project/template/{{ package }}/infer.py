"""Predict the labels of new data: python3 -m PACKAGE.infer --data data/new."""

from __future__ import annotations

import sys

from . import arguments, files


def main(words: list[str] | None = None) -> int:
    """Write predictions.jsonl."""
    given = arguments.parser(__doc__).parse_args(words)
    try:
        predictions = files.predict(given.data, given.output)
        files.write_lines(given.output / files.PREDICTIONS, predictions)
    except (OSError, ValueError) as error:
        print(f"infer: {error}", file=sys.stderr)
        return 1
    print(f"{len(predictions)} predictions in {given.output / files.PREDICTIONS}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
