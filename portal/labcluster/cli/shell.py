"""labctl shell."""

from __future__ import annotations

import os

import click

from labcluster.cli.entering import address, choose, ssh
from labcluster.cli.parameters import RunType
from labcluster.cli.session import build


class _ShellCommand(click.Command):
    """Takes what follows `--` as it is, so that RUN may be left out before it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Options and RUN before the dashes, the command behind them."""
        if "--" in args:
            dashes = args.index("--")
            args, ctx.obj = args[:dashes], args[dashes + 1 :]
            if not ctx.obj:
                raise click.UsageError("no command after --", ctx)
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """The command's words beside click's own."""
        return [*super().collect_usage_pieces(ctx), "[-- COMMAND...]"]


@click.command(cls=_ShellCommand)
@click.argument("run", type=RunType(), required=False)
@click.option("--wait", is_flag=True, help="Wait until the run has started.")
@click.option("--rank", type=click.IntRange(min=0), default=0, help="Which pod of a run with several nodes.")
@click.pass_obj
def command(command_line: list[str] | None, run: str | None, wait: bool, rank: int) -> None:
    """Open a shell inside your running run, or run a command there.

    \b
      labctl shell vision-12
      labctl shell vision-12 -- nvidia-smi

    Without RUN it is the only one of yours that runs. The shell has the run's files, environment and GPUs,
    and what it uses counts against the run. It ends with the run, and everything started in it ends with
    it. The exit status is that of COMMAND. `ssh RUN.labcluster`, scp, rsync and editors work as well.
    """
    found = choose(build(), run, wait=wait)
    options = []
    if command_line and os.isatty(0) and os.isatty(1):
        options = ["-t"]  # programs that ask or draw; between pipes the bytes stay as they are
    ssh(found["id"], rank or (address(run)[1] if run else 0), options, command_line or ())
