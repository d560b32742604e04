"""What labctl loads, and that its help says what its verbs say. Counts, not times: a busy machine lies."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest
from labcluster.cli import admin
from labcluster.cli.lazy import LazyGroup
from labcluster.cli.main import labctl as root

from .conftest import FakePortal, Labctl, run

# click itself brings 120 to 150, by the Python it runs on.
MOST_MODULES = 200
DEAR = {
    "ssl",
    "http.client",
    "json",
    "ctypes",
    "tomllib",
    "subprocess",
    "asyncio",
    "argparse",
    "importlib.metadata",
}
NEVER = {
    "rich",
    "jinja2",
    "leather",
    "pydantic",
    "kubernetes",
    "fastapi",
    "sqlalchemy",
    "httpx",
    "ldap",
    "yaml",
}


def modules_after(*words: str) -> set[str]:
    """Names of the modules that a labctl command has loaded when it ends."""
    script = (
        "import sys; from labcluster.cli.main import main; main(sys.argv[1:]);"
        "print('\\n' + ' '.join(sys.modules), file=sys.stderr)"
    )
    command = [sys.executable, "-I", "-c", script, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize(
    "words", [["--help"], ["submit", "--help"], ["compare", "--help"], ["admin", "project", "--help"]]
)
def test_help_loads_little(words: list[str]) -> None:
    loaded = modules_after(*words)
    assert loaded & (DEAR | NEVER) == set()
    assert len(loaded) < MOST_MODULES


def test_the_roots_help_loads_no_verb() -> None:
    verbs = {module for module, _ in root.verbs.values()}
    assert modules_after("--help") & verbs == set()


def test_a_plain_list_loads_no_table_drawer(
    labctl: Labctl, portal: FakePortal, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "rich"]:
        monkeypatch.delitem(sys.modules, name)
    portal.on("GET", "/runs", {"items": [run()]})
    assert labctl("ls").code == 0
    assert "rich" not in sys.modules


@pytest.mark.parametrize("group", [root, admin.command])
def test_the_table_of_verbs_agrees_with_the_verbs(group: LazyGroup) -> None:
    context = click.Context(group)
    assert group.verbs
    for name, (_, line) in group.verbs.items():
        verb = group.get_command(context, name)
        assert verb is not None
        assert (verb.help or "").splitlines()[0] == line, name


def test_every_option_is_explained() -> None:
    def walk(command: click.Command) -> None:
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, (command.name, parameter.name)
        if isinstance(command, click.Group):
            for name in command.list_commands(click.Context(command)):
                found = command.get_command(click.Context(command), name)
                assert found is not None
                assert found.help, name
                walk(found)

    walk(root)


@pytest.mark.parametrize(
    ("shell", "says"),
    [("bash", "complete -o nosort -F"), ("zsh", "#compdef labctl"), ("fish", "complete --no-files")],
)
def test_completion_scripts(labctl: Labctl, shell: str, says: str) -> None:
    done = labctl("completion", shell)
    assert done.code == 0
    assert says in done.out


def test_run_ids_are_completed(labctl: Labctl, portal: FakePortal) -> None:
    from click.shell_completion import ShellComplete

    portal.on("GET", "/runs", {"items": [run(), run(id="speech-1")]})
    completion = ShellComplete(root, {}, "labctl", "_LABCTL_COMPLETE")
    assert [item.value for item in completion.get_completions(["show"], "vi")] == ["vision-7"]
    portal.on("GET", "/runs", 503)
    assert completion.get_completions(["show"], "vi") == []
