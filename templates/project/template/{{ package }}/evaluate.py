"""Measure a trained model on labelled data: python3 -m PACKAGE.evaluate --data data/sample."""

from __future__ import annotations

import sys

from . import arguments, files, model, report


def main(words: list[str] | None = None) -> int:
    """Measure, report, and write evaluation.json."""
    given = arguments.parser(__doc__).parse_args(words)
    try:
        records = files.read_records(given.data)
        measures = model.measure(files.load_model(given.output), records)
        files.write_metrics(measures, given.output, "evaluation.json")
    except (OSError, ValueError) as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 1
    report.metrics(0, {f"evaluation_{key}": value for key, value in measures.items()})
    print(f"{len(records)} records: accuracy {measures['accuracy']:.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
