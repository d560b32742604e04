# ruff: noqa: ARG002 - the signatures are click's
"""labctl sweep."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import click
from click.core import ParameterSource

from labcluster.cli import defaults, output, submitting
from labcluster.errors import NotFoundError, UsageError

_RANGE = re.compile(r"(?P<low>[^,:]+?)\.\.(?P<high>[^,:]+)(?::(?P<more>[^,:]+))?")
_INTEGER = re.compile(r"[+-]?\d+")
# What a file may give beside [params], under the names of the options.
_OWN = ("sampler", "arms", "max-parallel", "metric", "goal", "stop-early", "grace")


class SpaceType(click.ParamType[tuple[str, Any]]):
    """NAME=SPACE."""

    name = "NAME=SPACE"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Any]:
        """Name, and values or a range."""
        if isinstance(value, tuple):
            return value
        name, equals, text = value.partition("=")
        if not name.strip() or not equals or not text:
            raise UsageError(f"--param {value!r}: write it as lr=1e-4..1e-1:log, n=2..8:2 or opt=sgd,adam")
        return name.strip(), parse_space(f"--param {value}", text)


def parse_space(where: str, text: str) -> list[str] | dict[str, Any]:
    """`2..8`, `1e-4..0.1:log`, `0..1:0.25` or `sgd,adam`, as REST has it."""
    match = _RANGE.fullmatch(text)
    if match is None:
        return [word.strip() for word in text.split(",")]
    low, high, more = (match[name] for name in ("low", "high", "more"))
    step = None if more in (None, "log") else more
    try:
        found: dict[str, Any] = {"low": float(low), "high": float(high)}
        if step is not None:
            found["step"] = float(step)
    except ValueError:
        raise UsageError(f"{where}: a range is LOW..HIGH, with :log or :STEP, as 1e-4..0.1:log") from None
    found["integer"] = all(_INTEGER.fullmatch(word.strip()) for word in (low, high, step or "1"))
    return found | ({"log": True} if more == "log" else {})


@click.pass_context
def sweep(context: click.Context, /, words: tuple[str, ...], as_json: bool, dry_run: bool, **_: Any) -> Any:
    """Search the best parameters of a command with many runs of it.

    Each arm is a run with parameters of its own, which replace {NAME} in the command or the value of its
    option --NAME, and are in $LABCLUSTER_PARAMS. It is judged by the last value of a metric that it records
    (docs/how-to/metrics.md). labctl show SWEEP has the table and the best arm, labctl cancel SWEEP ends all.
    The sweep goes on without this terminal, and after any restart of the cluster.

    A FILE in TOML has the same by name: command, sampler, arms, max-parallel, metric, goal, stop-early, the
    spaces under [params] and options of labctl submit under [submit]. Options given here come first.

    \b
      labctl sweep --param lr=1e-4..1e-1:log --param opt=sgd,adam --arms 12 --metric accuracy \\
        -- python3 train.py --lr {lr} --optimizer {opt}
      labctl sweep --grid --param depth=2..6 --param lr=0.1,0.01 --max-parallel 8 -- python3 train.py ...
      labctl sweep sweep.toml --gpus 1 --stop-early
    """
    given = context.params
    file: dict[str, Any] = {}
    name = words[0] if words and words[0].endswith(".toml") else None
    decided: dict[str, Any] = {}
    if name:
        file, words = _read(name), words[1:]
        own = {key: value for key, value in given.items() if key not in _NOT_SUBMITS}
        asked = defaults.apply(context, own, file, name)
        if strange := sorted(asked.keys() - own.keys()):
            raise UsageError(
                f"{name}: {strange[0].replace('_', '-')} is the sweep's own: put it above [submit]"
            )
        decided = {key: value for key, value in asked.items() if value is not own[key]}
    from labcluster.services.parameters import in_place, with_option

    command = list(words) or _command(name, file)
    spec = _spec(context, file, name)
    for param in spec["params"]:
        if in_place(command, param):
            continue
        placed = with_option(command, param, f"{{{param}}}")
        if placed is None:
            output.say(f"{param} is not in the command as {{{param}}}: it is in $LABCLUSTER_PARAMS only")
        command = placed or command
    done = submitting.hand_on(context, command, **decided, sweep=spec)
    if dry_run and not as_json:
        from labcluster.cli.show import spaces

        output.fields([("sweep", spaces(spec))])
    return done


def _spec(context: click.Context, file: Mapping[str, Any], name: str | None) -> dict[str, Any]:
    """What to search and how: the options of this call, then the file's."""
    params = {
        key: _space(f"{name}: {key} under [params]", value) for key, value in file.get("params", {}).items()
    }
    params |= dict(context.params["param"])
    if not params:
        raise UsageError("no parameter to search: name one, as in --param lr=1e-4..1e-1:log")
    found: dict[str, Any] = {"params": params}
    for option in _OWN:
        key = option.replace("-", "_")
        if context.get_parameter_source(key) is not ParameterSource.DEFAULT:
            value = context.params[key]
        else:
            value = file.get(option)
        if value is not None:
            found["parallel" if key == "max_parallel" else key] = value
    return {"sampler": "tpe" if "metric" in found else "random", "goal": "max", **found}


def _space(where: str, value: Any) -> list[str] | dict[str, Any]:
    """A space as TOML has it: a text as on the command line, a list, or a table."""
    if isinstance(value, str):
        return parse_space(where, value)
    if isinstance(value, list):
        return [str(item).lower() if isinstance(item, bool) else str(item) for item in value]
    if not isinstance(value, dict) or not {"low", "high"} <= value.keys():
        raise UsageError(f'{where}: write ["sgd", "adam"], "1e-4..1e-1:log" or {{low = 2, high = 8}}')
    ends = (value["low"], value["high"], value.get("step", 1))
    return {"integer": all(isinstance(end, int) for end in ends), **value}


def _read(name: str) -> dict[str, Any]:
    import tomllib

    try:
        with open(name, "rb") as stream:  # noqa: PTH123 - pathlib costs an import
            found = tomllib.load(stream)
    except FileNotFoundError:
        raise NotFoundError(f"there is no file {name} here") from None
    except OSError as error:
        raise UsageError(f"{name} cannot be read: {(error.strerror or 'input error').lower()}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{name} is not TOML: {error}") from None
    known = {*_OWN, "command", "params", "submit"}
    strange = sorted(found.keys() - known)
    if strange:
        raise UsageError(
            f"{name} has {strange[0]!r}, but a sweep has {', '.join(sorted(known))};"
            " options of labctl submit stand under [submit]"
        )
    if not isinstance(found.get("params", {}), dict):
        raise UsageError(f"{name}: params must be a table, [params]")
    return found


def _command(name: str | None, file: Mapping[str, Any]) -> list[str]:
    command = file.get("command")
    if command is None:
        where = f"put it after --, or into {name} as command = [...]" if name else "put it after --"
        raise UsageError(f"no command given: {where}, as in labctl sweep ... -- python3 train.py --lr {{lr}}")
    if not isinstance(command, list) or not all(isinstance(word, str) for word in command):
        raise UsageError(f'{name}: command is a list of words, as ["python3", "train.py", "--lr", "{{lr}}"]')
    return command


_OWN_OPTIONS = [
    click.Option(
        ["-P", "--param"], type=SpaceType(), multiple=True,
        help="What to search: lr=1e-4..1e-1:log, depth=2..8, share=0..1:0.25 or opt=sgd,adam. Repeatable.",
    ),
    click.Option(["--tpe", "sampler"], flag_value="tpe", help="Learn from the arms that ended (Optuna's TPE)."
                 "  [default with --metric]"),
    click.Option(["--random", "sampler"], flag_value="random", help="Draw each arm by itself."
                 "  [default without --metric]"),
    click.Option(["--grid", "sampler"], flag_value="grid", help="Every combination once."),
    click.Option(
        ["--arms"], type=click.IntRange(min=1), metavar="N",
        help="So many arms.  [default: the whole grid, else 20]",
    ),
    click.Option(
        ["--max-parallel"], type=click.IntRange(min=1), metavar="N", help="So many at once.  [default: 4]"
    ),
    click.Option(["--metric"], help="What arms are judged by."),
    click.Option(["--goal"], type=click.Choice(["max", "min"]), help="What is better.  [default: max]"),
    click.Option(
        ["--stop-early/--no-stop-early"], default=None,
        help="End arms whose metric falls behind the others' at the same step (Optuna's ASHA).",
    ),
    click.Option(
        ["--grace"], type=click.IntRange(min=1), metavar="STEP",
        help="End no arm before this step.  [default: found from the first arm that ends]",
    ),
]  # fmt: skip
_NOT_SUBMITS = frozenset({"words", *(option.name or "" for option in _OWN_OPTIONS)})
command = click.Command(
    "sweep",
    callback=sweep,
    help=sweep.__doc__,
    context_settings={"allow_interspersed_args": True},
    options_metavar="[OPTIONS]",
    params=[
        *_OWN_OPTIONS,
        *submitting.options("--array", "--nodes", "--follow"),
        click.Argument(
            ["words"], nargs=-1, type=click.UNPROCESSED, metavar="[FILE.toml] [-- COMMAND [ARGUMENT]...]"
        ),
    ],
)
