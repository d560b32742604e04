# ruff: noqa: ARG002 - the signature of convert is click's
"""labctl export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from labcluster.cli import output
from labcluster.cli.parameters import RunType
from labcluster.cli.session import build
from labcluster.errors import UsageError

MAX_RUNS = 500


class SizeType(click.ParamType[int]):
    """A size of files, as bytes."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Bytes of `500M` or `1G`."""
        if isinstance(value, int):
            return value
        from labcluster.cli.quantities import parse_memory
        from labcluster.models.quantities import parse

        try:
            return int(parse(parse_memory(value)))
        except UsageError:
            raise UsageError(f"--max-size {value!r} is not a size: write 500M or 1G") from None


@click.command()
@click.argument("runs", nargs=-1, required=True, type=RunType(), metavar="RUN...")
@click.option(
    "-b", "--bundle", required=True, type=click.Path(path_type=Path), metavar="FILE",
    help="Where to write it: an archive if it ends with .zip, else a folder.",
)  # fmt: skip
@click.option("--title", metavar="TEXT", help="What to call it.  [default: made of the runs' names]")
@click.option("--license", "licence", metavar="SPDX", help="Its licence, such as CC-BY-4.0, or an address.")
@click.option(
    "--max-size", type=SizeType(), default="1G", metavar="SIZE",
    help="Leave out artifacts and output larger than this; they are named.  [default: 1G]",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Replace an archive that is there.")
@click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON.")
def command(
    runs: tuple[str, ...],
    bundle: Path,
    title: str | None,
    licence: str | None,
    max_size: int,
    force: bool,
    as_json: bool,
) -> None:
    """Write runs into a bundle that can be read without the cluster.

    Code, environment, versions of the data, parameters, metrics, results and output of each run, with a
    README for people and an RO-Crate for programs: for a paper, an archive, or whoever comes after you. The
    same runs give the same bytes. An array is all of its members.

    \b
      labctl export vision-12 vision-31 --bundle paper.zip --license CC-BY-4.0
    """
    portal = build()
    from labcluster.adapters.bundles import new_bundle
    from labcluster.cli import gathering
    from labcluster.cli.bundling import write_bundle

    loaded = [gathering.load(run) for run in gathering.runs_of(portal, runs, MAX_RUNS)]
    with new_bundle(bundle, force=force) as target:
        written = write_bundle(target, loaded, title=title, licence=licence, max_size=max_size)
    for run in written:
        for sentence in (*run.record.unknown, *run.left_out):
            output.say(f"{run.record.id}: {sentence}")
    files = sum(len(run.files) for run in written)
    if as_json:
        output.emit_json(
            {
                "bundle": str(bundle),
                "runs": [
                    {
                        "id": run.record.id,
                        "files": [
                            {"path": file.path, "size": file.size, "sha256": file.sha256}
                            for file in run.files
                        ],
                        "left_out": [*run.record.unknown, *run.left_out],
                    }
                    for run in written
                ],
            }
        )
    else:
        output.say(f"wrote {bundle}: {len(written)} run{'s' * (len(written) != 1)}, {files} files")
