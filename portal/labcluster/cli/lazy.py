# ruff: noqa: ARG002 - the signatures are click's
"""A click group that knows its verbs' names and one-line helps, and imports a verb when it is called."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click

#: Section title -> verb -> (module, one line of help). The line is the first of the verb's own help.
Sections = Mapping[str, Mapping[str, tuple[str, str]]]


class LazyGroup(click.Group):
    """Verbs in titled sections; `labctl --help` imports none of them."""

    def __init__(self, *args: Any, sections: Sections, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sections = sections
        self.verbs = {name: verb for section in sections.values() for name, verb in section.items()}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order in which they are shown."""
        return list(self.verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb itself, which its module calls `command`, or by the verb's name."""
        if cmd_name not in self.verbs:
            return None
        module = import_module(self.verbs[cmd_name][0])
        found: click.Command = getattr(module, "command", None) or getattr(module, cmd_name)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, but an unknown verb is answered with the ones that look like it."""
        if args and args[0] not in self.verbs and not args[0].startswith("-"):
            from difflib import get_close_matches  # only a mistake pays for it

            near = get_close_matches(args[0], self.verbs, n=2)
            hint = f"did you mean {' or '.join(near)}?" if near else f"one of {', '.join(self.verbs)}"
            raise click.UsageError(f"there is no verb {args[0]!r}: {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The sections, from the table alone."""
        for title, verbs in self.sections.items():
            with formatter.section(title):
                formatter.write_dl([(name, line) for name, (_, line) in verbs.items()])
