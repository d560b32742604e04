"""Makes projects from the template and brings them up to date, by copier.

Copier updates by comparing what an old and a new version of a template make, so it wants a git repository
with both. The template has none: it is a folder of this package, and only its newest version is there. So
every project carries the versions that it was made from as a git bundle (BUNDLE, some ten kilobytes):
whoever updates it, on whatever machine, adds the version of his own labctl to it, and copier finds both.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from labcluster.errors import ConflictError, LabclusterError, NotFoundError, UsageError

#: Where a project keeps the versions of its template, and the path by which its answers name them.
BUNDLE = ".labcluster/template.bundle"
ANSWERS = ".copier-answers.yml"

# The same content gives the same commit wherever it is made, and nobody's git settings change it.
_NAME, _MAIL, _DATE = "labctl", "labctl@localhost", "2026-01-01T00:00:00+0000"
_IDENTITY = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    **{f"GIT_{who}_NAME": _NAME for who in ("AUTHOR", "COMMITTER")},
    **{f"GIT_{who}_EMAIL": _MAIL for who in ("AUTHOR", "COMMITTER")},
    **{f"GIT_{who}_DATE": _DATE for who in ("AUTHOR", "COMMITTER")},
}


def template_folder() -> Path:
    """The template: beside the package's code where it is installed, in the checkout's `templates` else."""
    package = Path(__file__).resolve().parents[1]
    for base in (package, package.parents[1]):
        if (found := base / "templates" / "project").is_dir():
            return found
    raise LabclusterError(f"the project template is not beside {package}: install labctl anew")


def create(folder: Path, answers: Mapping[str, str], version: str) -> None:
    """Make a project in a folder that does not exist yet or is empty."""
    _refuse_full(folder)
    with _versions(None, version) as (bundle, tag), _telling(folder):
        import copier

        copier.run_copy(
            BUNDLE, folder, data=dict(answers), vcs_ref=tag, defaults=True, quiet=True, overwrite=True
        )
        _keep(bundle, folder)


def update(folder: Path, answers: Mapping[str, str], version: str) -> list[str]:
    """Bring a project up to date; gives the files in which its changes and the template's clash.

    Its work tree must be clean: what changes is then seen in `git diff`, and can be taken back.
    """
    _refuse_stranger(folder)
    with _versions(folder / BUNDLE, version) as (bundle, tag), _telling(folder):
        import copier

        copier.run_update(
            folder,
            data=dict(answers),
            vcs_ref=tag,
            defaults=True,
            quiet=True,
            overwrite=True,
            skip_answered=True,
        )
        _keep(bundle, folder)
    return git(folder, "diff", "--name-only", "--diff-filter=U", "--relative").splitlines()


def rehearse_create(folder: Path, answers: Mapping[str, str], version: str) -> list[str]:
    """The files that `create` would make."""
    _refuse_full(folder)
    with TemporaryDirectory(prefix="labctl-new-") as temporary:
        made = Path(temporary) / folder.name
        create(made, answers, version)
        return sorted(str(file.relative_to(made.parent)) for file in made.rglob("*") if file.is_file())


def rehearse_update(folder: Path, answers: Mapping[str, str], version: str) -> str:
    """What `update` would change, as `git diff --stat` shows it; tried on a copy."""
    _refuse_stranger(folder)
    top = Path(git(folder, "rev-parse", "--show-toplevel"))
    with TemporaryDirectory(prefix="labctl-new-") as temporary:
        git(top, "clone", "--quiet", "--local", "--no-hardlinks", ".", temporary)
        copy = Path(temporary) / folder.resolve().relative_to(top.resolve())
        update(copy, answers, version)
        git(copy, "add", "--all", "--intent-to-add", "--", ".")
        return git(copy, "diff", "--stat", "HEAD", "--", ".")


def commit(folder: Path, message: str) -> bool:
    """Commit a new project in a repository of its own; False if it lies in one, or git knows no identity."""
    if _inside_repository(folder):
        return False
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", "--all")
    try:
        git(folder, "commit", "--quiet", "--message", message)
    except UsageError:  # git does not know who commits
        return False
    return True


def _inside_repository(folder: Path) -> bool:
    try:
        return git(folder, "rev-parse", "--is-inside-work-tree") == "true"
    except UsageError:
        return False


def _refuse_full(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConflictError(f"{folder} exists and is not empty: take another name, or --update for a project")


def _refuse_stranger(folder: Path) -> None:
    if not (folder / ANSWERS).is_file() or not (folder / BUNDLE).is_file():
        raise NotFoundError(f"{folder} was not made by labctl new: {ANSWERS} and {BUNDLE} are not both there")
    if git(folder, "status", "--porcelain", "--", "."):
        raise ConflictError(f"{folder} has changes that are not committed: commit or stash them, then update")


def git(folder: Path, *words: str, env: Mapping[str, str] | None = None) -> str:
    """What git prints about a folder."""
    try:
        done = subprocess.run(
            ["git", *words], cwd=folder, env={**os.environ, **(env or {})}, capture_output=True, text=True
        )
    except FileNotFoundError:
        raise UsageError("git is not on this machine: labctl new needs it") from None
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no reason"])[-1]
        raise UsageError(f"git {words[0]} in {folder}: {said}")
    return done.stdout.rstrip("\n")


@contextlib.contextmanager
def _versions(bundle: Path | None, version: str) -> Iterator[tuple[Path, str]]:
    """All versions a project had and ours, as a bundle, and the tag of ours; the process is in its folder."""
    with TemporaryDirectory(prefix="labctl-new-") as temporary:
        base, repository = Path(temporary), Path(temporary) / "repository"
        if bundle is None:
            git(base, "init", "--quiet", "--initial-branch=main", str(repository), env=_IDENTITY)
        else:
            git(base, "clone", "--quiet", str(bundle), str(repository), env=_IDENTITY)
            for entry in repository.iterdir():
                if entry.name != ".git":
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(template_folder(), repository, dirs_exist_ok=True, ignore=ignore)
        # Forced: what a project ignores is still part of the template.
        git(repository, "add", "--all", "--force", env=_IDENTITY)
        made = base / BUNDLE
        made.parent.mkdir()
        if bundle is None or git(repository, "status", "--porcelain", env=_IDENTITY):
            tag = _new_tag(repository, version)
            git(repository, "commit", "--quiet", "--message", f"labcluster {version}", env=_IDENTITY)
            git(repository, "tag", tag, env=_IDENTITY)
            git(repository, "bundle", "create", "--quiet", str(made), "HEAD", "main", "--tags", env=_IDENTITY)
        else:
            tag = git(repository, "describe", "--tags", "--abbrev=0")
            shutil.copyfile(bundle, made)
        with contextlib.chdir(base):
            yield made, tag


def _new_tag(repository: Path, version: str) -> str:
    """v<version>; where that name is taken by other content, as between two releases, v<version>.post<n>."""
    from packaging.version import Version

    tags = [Version(tag) for tag in git(repository, "tag").split()]
    own = Version(version)
    if tags and own < Version(max(tags).base_version):
        raise ConflictError(
            f"it was made with labctl {max(tags)}, this is {own}: update it with a labctl that is not older"
        )
    taken = [tag for tag in tags if tag.base_version == own.base_version]
    return f"v{own.base_version}" + (f".post{(max(taken).post or 0) + 1}" if taken else "")


def _keep(bundle: Path, folder: Path) -> None:
    (folder / BUNDLE).parent.mkdir(exist_ok=True)
    shutil.copyfile(bundle, folder / BUNDLE)


@contextlib.contextmanager
def _telling(folder: Path) -> Iterator[None]:
    """Copier's failures as ours."""
    from copier.errors import CopierError

    try:
        yield
    except CopierError as error:
        raise UsageError(f"{folder}: {' '.join(str(error).split()) or type(error).__name__}") from None
    except ValueError as error:  # an answer that its question's validator refuses
        raise UsageError(f"--answers: {' '.join(str(error).split())}") from None
