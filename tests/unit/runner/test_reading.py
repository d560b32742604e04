"""What labctl captures and labrun lays down is what compare and export read: three programs, one contract."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from capsules import Lab, commit, git, repository, write
from labcluster.adapters.code_trees import LINK
from labcluster.cli import gathering
from labcluster.services.comparison import compare
from run_folders import RUN, sha256
from test_capsules import Site, lab, labrun, site, tree  # noqa: F401 - fixtures


def told(made: Site, number: int, code: Any) -> dict[str, Any]:
    """A run as the portal tells it."""
    own = {"id": f"vision-{number}", "number": number, "trial": 0, "code": code.reference(), "env": {}}
    return RUN | own | {"directory": str(made.directory(number))}


def digest(text: str) -> str:
    """Of a file or link as `tree` tells it."""
    return LINK + sha256(text[3:].encode()) if text.startswith("-> ") else sha256(text.rstrip("*").encode())


def test_the_captured_tree_is_read_without_being_unpacked(
    site: Site,  # noqa: F811 - a fixture
    lab: Lab,  # noqa: F811
    tmp_path: Path,
) -> None:
    inner = repository(tmp_path / "inner", {"inner.py": "i1"})
    net = repository(tmp_path / "net", {"train.py": "a\nb\n", "gone.py": "g", "kind": "file", "d/x": "x"})
    git(net, "submodule", "--quiet", "add", str(inner), "lib/inner")
    (net / "link").symlink_to("train.py")
    commit(net, {"ü/ö.py": "ö"})
    before = lab.capture(net)
    write(net, {"train.py": "a\nc\n", "new/a b.py": "n", "lib/inner/inner.py": "i2"})
    (net / "gone.py").unlink()
    (net / "kind").unlink()
    write(net, {"kind/now": "a folder"})
    shutil.rmtree(net / "d")
    write(net, {"d": "now a file"})
    after = lab.capture(net)
    for number, code in ((1, before), (2, after)):
        assert site.prepare(code, number=number).returncode == 0
    runs = [gathering.load(told(site, number, code)) for number, code in ((1, before), (2, after))]
    for run, number in zip(runs, (1, 2), strict=True):
        laid = {path: digest(text) for path, text in tree(site.directory(number) / "code").items()}
        assert run.code().digests == laid
    [change] = gathering.code_changes(runs)
    assert {(file.path, file.change) for file in change.files} == {
        ("d", "added"), ("d/x", "removed"), ("gone.py", "removed"), ("kind", "removed"),
        ("kind/now", "added"), ("lib/inner/inner.py", "changed"), ("new/a b.py", "added"),
        ("train.py", "changed"),
    }  # fmt: skip
    assert "-b\n+c\n" in change.diff
    assert runs[1].record.code is not None
    assert runs[1].record.code.dirty


def test_the_data_that_differ_are_named(
    site: Site,  # noqa: F811 - a fixture
    lab: Lab,  # noqa: F811
    tmp_path: Path,
) -> None:
    code = lab.capture(repository(tmp_path / "net", {"train.py": "v1"}))
    data = tmp_path / "digits"
    write(data, {"a.png": "1", "b.png": "2", "old.png": "3"})
    assert site.prepare(code, number=1, data=[str(data)]).returncode == 0
    write(data, {"b.png": "other", "sub/c.png": "4"})
    (data / "old.png").unlink()
    assert site.prepare(code, number=2, data=[str(data)]).returncode == 0
    runs = [gathering.load(told(site, number, code)) for number in (1, 2)]
    [change] = gathering.data_changes(runs)
    assert change.reason is None
    assert [(file.path, file.change) for file in change.files] == [
        ("b.png", "changed"),
        ("old.png", "removed"),
        ("sub/c.png", "added"),
    ]
    section = next(one for one in compare([run.record for run in runs]).sections if one.title == "data")
    assert [row.name for row in section.different] == [str(data)]
    assert gathering.code_changes(runs)[0].same
