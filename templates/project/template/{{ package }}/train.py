"""Train a model: python3 -m PACKAGE.train --data data/sample --epochs 20."""

from __future__ import annotations

import sys

from . import arguments, files, model, report


def main(words: list[str] | None = None) -> int:
    """Train, report every epoch, save the model and its final measures."""
    parser = arguments.parser(__doc__)
    parser.add_argument("--epochs", type=int, default=20, help="passes over the data (default 20)")
    parser.add_argument("--rate", type=float, default=0.01, help="learning rate (default 0.01)")
    parser.add_argument("--held-out", type=float, default=0.25, help="share to measure with (default 0.25)")
    arguments.add_seed(parser)
    given = parser.parse_args(words)
    if given.epochs < 1:
        parser.error("--epochs must be at least 1")
    try:
        records = files.read_records(given.data)
        train, test = model.split(records, given.held_out, given.seed)
        steps = model.fit(train, test, epochs=given.epochs, rate=given.rate, seed=given.seed)
        for epoch, step in enumerate(steps, 1):
            report.metrics(epoch, step.measures)
        files.save_model(step.model, given.output)
        files.write_metrics({**step.measures, "epochs": given.epochs, "seed": given.seed}, given.output)
    except (OSError, ValueError) as error:
        print(f"train: {error}", file=sys.stderr)
        return 1
    print(f"{len(train)} records learnt, {len(test)} held out; results in {given.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
