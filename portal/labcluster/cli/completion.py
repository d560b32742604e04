"""labctl completion."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the completion script of a shell.

    \b
      source <(labctl completion bash)
    """
    from labcluster.cli.main import labctl

    maker = get_completion_class(shell)
    if maker is None:  # pragma: no cover - click knows the three
        raise click.UsageError(f"click has no completion for {shell}")
    completion = maker(labctl, {}, "labctl", "_LABCTL_COMPLETE")
    # Not .source(): it starts the shell to ask for its version, and warns about old ones.
    print(completion.source_template % completion.source_vars())
