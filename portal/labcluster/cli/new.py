"""labctl new."""

from __future__ import annotations

from pathlib import Path

import click

from labcluster.cli import output
from labcluster.cli.parameters import dry_run_option
from labcluster.errors import ConflictError, UsageError


@click.command()
@click.option("--update", is_flag=True, help="Bring a project that labctl made up to date with its template.")
@click.option(
    "--answers", "answers", multiple=True, metavar="K=V",
    help="Answer of a question of the template: package, description, cluster_project, image. Repeatable.",
)  # fmt: skip
@dry_run_option
@click.argument("name", required=False)
def command(name: str | None, update: bool, answers: tuple[str, ...], dry_run: bool) -> None:
    """Make a project of training code from the template.

    NAME is its folder. It has a package with separate train, evaluate and infer, a small data set, tests of
    seconds, pinned packages, a Makefile, notebooks and .gitlab-ci.yml. With --update NAME is a project made
    earlier, this folder if not given: what its people changed stays, what the template changed comes in.

    \b
      labctl new flowers --answers cluster_project=vision
      cd flowers && make setup check && labctl submit --follow -- python3 -m flowers.train --data data/sample
      labctl new --update --dry-run
    """
    from labcluster.cli.version import own_version

    if name is None and not update:
        raise UsageError("give the project a NAME, as in labctl new flowers")
    folder = Path(name or ".").absolute()
    given = _answers(answers)
    if update:
        _update(folder, given, own_version(), dry_run)
    else:
        _create(folder, {"name": folder.name, **given}, own_version(), dry_run)


def _answers(given: tuple[str, ...]) -> dict[str, str]:
    pairs = {}
    for answer in given:
        key, equals, value = answer.partition("=")
        if not (key and equals):
            raise UsageError(f"--answers {answer!r}: write it as KEY=VALUE")
        pairs[key] = value
    return pairs


def _create(folder: Path, answers: dict[str, str], version: str, dry_run: bool) -> None:
    from labcluster.adapters import scaffolding

    if dry_run:
        for file in scaffolding.rehearse_create(folder, answers, version):
            print(file)
        return
    scaffolding.create(folder, answers, version)
    committed = scaffolding.commit(folder, f"Start from labcluster's template {version}")
    print(f"{folder.name} is made" + ("" if committed else ": commit it, so that it can be updated later"))
    output.say(f"next: cd {folder.name} && make setup check")


def _update(folder: Path, answers: dict[str, str], version: str, dry_run: bool) -> None:
    from labcluster.adapters import scaffolding

    if dry_run:
        print(scaffolding.rehearse_update(folder, answers, version) or "It is up to date.")
        return
    clashes = scaffolding.update(folder, answers, version)
    if clashes:
        raise ConflictError(
            f"updated, but its changes and the template's clash in {', '.join(clashes)}: settle the marked"
            " places and commit, or take all back with git reset --hard"
        )
    changed = scaffolding.git(folder, "status", "--porcelain", "--", ".").splitlines()
    if changed:
        print(f"{len(changed)} files changed: look at git diff, run make setup check, and commit")
    else:
        print("It is up to date.")
