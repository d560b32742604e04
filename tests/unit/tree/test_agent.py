"""The agent of the file server, on a directory of its own."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from labcluster.tree import tree
from labcluster.tree.tree import Folder, Seen, ensure, forget, retire, run, wanted

ME = (os.geteuid(), os.getegid())


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    for name in ("home", "scratch", "projects", "datasets"):
        (tmp_path / name).mkdir()
    handle = os.open(tmp_path, os.O_RDONLY)
    yield handle
    os.close(handle)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_people_get_home_and_scratch_and_projects_their_folders() -> None:
    folders = {str(folder): folder for folder in wanted({"ada": 20000}, {"vision": 30000})}
    assert sorted(folders) == [
        "home/ada",
        "projects/vision",
        "projects/vision/capsules",
        "projects/vision/code",
        "projects/vision/data",
        "projects/vision/models",
        "projects/vision/runs",
        "scratch/ada",
    ]
    assert (folders["home/ada"].uid, folders["home/ada"].gid, folders["home/ada"].mode) == (
        20000,
        20000,
        0o700,
    )
    assert folders["projects/vision/runs"].mode == 0o2770
    # Sticky: members add objects, and none of them removes another's.
    assert folders["projects/vision/capsules"].mode == 0o3770
    # Nobody but root may put something else in the place of runs.
    assert not folders["projects/vision"].mode & stat.S_IWGRP


@pytest.mark.parametrize("name", ["..", ".", "a/b", "", "Ada", "-rf", "a\n"])
def test_name_that_is_no_plain_path_gets_nothing(name: str) -> None:
    assert not list(wanted({name: 20000}, {name: 30000}))


@pytest.mark.parametrize("number", [0, 1000, 19999, 40000])
def test_number_out_of_range_gets_nothing(number: int) -> None:
    assert not list(wanted({"ada": number}, {"vision": number}))


def test_number_of_two_gets_nothing() -> None:
    assert not list(wanted({"ada": 20000, "eve": 20000}, {}))


def test_folder_is_made_once_with_its_mode(root: int, tmp_path: Path) -> None:
    folder = Folder(("projects", "vision"), *ME, 0o2750)
    assert ensure(root, folder) == "made projects/vision"
    assert ensure(root, folder) is None
    assert mode(tmp_path / "projects/vision") == 0o2750


def test_mode_of_a_projects_folder_is_set_back_and_that_of_a_home_is_its_owners(
    root: int, tmp_path: Path
) -> None:
    for folder in (
        Folder(("projects", "p"), *ME, 0o2770),
        Folder(("home", "ada"), *ME, 0o700, keep_mode=True),
    ):
        ensure(root, folder)
        tmp_path.joinpath(*folder.path).chmod(0o755)
        ensure(root, folder)
    assert mode(tmp_path / "projects/p") == 0o2770
    assert mode(tmp_path / "home/ada") == 0o755


def test_interrupted_folder_is_given_away_later(root: int, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[int, int]] = []
    monkeypatch.setattr(tree.os, "fchown", lambda _fd, uid, gid: given.append((uid, gid)))
    folder = Folder(("home", "ada"), 20000, 20000, 0o700)
    assert ensure(root, folder) == "made home/ada for 20000:20000"
    # Its owner is still us: the agent was killed before it could give the folder away.
    ensure(root, folder)
    assert given == [(20000, 20000)] * 2


def test_folder_of_somebody_else_is_left_alone(
    root: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home/ada").mkdir(mode=0o755)
    monkeypatch.setattr(tree.os, "geteuid", lambda: ME[0] + 1)
    with pytest.raises(PermissionError, match="is left as it is"):
        ensure(root, Folder(("home", "ada"), 20000, 20000, 0o700))
    assert mode(tmp_path / "home/ada") == 0o755


@pytest.mark.parametrize("kind", ["link", "file"])
def test_nothing_is_done_through_a_link_or_a_file(root: int, tmp_path: Path, kind: str) -> None:
    target = tmp_path / "datasets"
    target.chmod(0o711)
    place = tmp_path / "home/ada"
    place.symlink_to(target) if kind == "link" else place.write_text("")
    with pytest.raises(PermissionError, match="no directory"):
        ensure(root, Folder(("home", "ada"), *ME, 0o700))
    assert mode(target) == 0o711


def test_link_in_the_middle_of_a_path_is_not_followed(root: int, tmp_path: Path) -> None:
    (tmp_path / "projects/vision").symlink_to(tmp_path / "datasets")
    with pytest.raises(OSError, match="vision"):
        ensure(root, Folder(("projects", "vision", "runs"), *ME, 0o2770))
    assert not list((tmp_path / "datasets").iterdir())


def test_one_bad_folder_does_not_keep_the_others_from_being_made(
    root: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(
        tree, "wanted", lambda *_: [Folder(("home", name), *ME, 0o700) for name in ("ada", "bo")]
    )
    (tmp_path / "home/ada").write_text("")
    complaints = set[str]()
    for _ in range(3):
        tree.apply(root, tree.wanted({}, {}), complaints)
    assert (tmp_path / "home/bo").is_dir()
    assert len([r for r in caplog.records if r.levelno == logging.ERROR]) == 1


def test_agent_waits_for_the_directory_and_goes_on(root: int, caplog: pytest.LogCaptureFixture) -> None:
    answers = [
        OSError("ldaps://ldap: down"),
        OSError("ldaps://ldap: down"),
        Seen({}, {}),
        KeyboardInterrupt(),
    ]

    def read() -> Seen:
        answer = answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer  # type: ignore[return-value]

    caplog.set_level(logging.INFO)
    with pytest.raises(KeyboardInterrupt):
        run(root, read, pause=lambda _: None)
    assert [r.message for r in caplog.records] == [
        "waiting for the directory: ldaps://ldap: down",
        "the directory answers again",
    ]


def test_once_tells_by_its_status(root: int) -> None:
    def away() -> tuple[dict[str, int], dict[str, int]]:
        raise OSError("down")

    assert run(root, away, once=True) == 1
    assert run(root, lambda: Seen({}, {}), once=True) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_owners_are_those_of_the_directory(root: int, tmp_path: Path) -> None:
    assert run(root, lambda: Seen({"ada": 20000}, {"vision": 30000}), once=True) == 0
    home, runs = (tmp_path / "home/ada").stat(), (tmp_path / "projects/vision/runs").stat()
    assert (home.st_uid, home.st_gid, stat.S_IMODE(home.st_mode)) == (20000, 20000, 0o700)
    assert (runs.st_uid, runs.st_gid, stat.S_IMODE(runs.st_mode)) == (0, 30000, 0o2770)


def test_folder_of_a_removed_project_is_put_out_of_reach_once(root: int, tmp_path: Path) -> None:
    gid = ME[1]
    data = tmp_path / "projects" / "vision" / "data"
    data.mkdir(parents=True)
    (data / "kept").write_text("x")
    gone = Seen({}, {}, removed=[("vision", gid), ("speech", 30001)])
    assert len(list(retire(root, gone))) == 1
    kept = tmp_path / "projects" / ".removed" / f"vision-{gid}"
    assert (kept / "data" / "kept").read_text() == "x"
    assert mode(kept.parent) == 0o700
    assert list(retire(root, gone)) == []


def test_folder_that_is_another_projects_stays(root: int, tmp_path: Path) -> None:
    here = tmp_path / "projects" / "vision"
    here.mkdir()
    assert not list(retire(root, Seen({}, {}, removed=[("vision", ME[1] + 1)])))
    assert not list(retire(root, Seen({}, {"vision": ME[1]}, removed=[("vision", ME[1])])))
    assert not list(retire(root, Seen({}, {}, removed=[("..", ME[1]), (".removed", ME[1])])))
    assert here.is_dir()


def test_who_joined_or_left_is_forgotten_by_sssd_and_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[str] = []
    monkeypatch.setattr(tree.subprocess, "run", lambda command, **_: commands.append(" ".join(command)))
    flush = tmp_path / "flush"
    flush.write_text("")
    monkeypatch.setattr(tree, "_KERNEL_GROUPS", flush)
    before = Seen({}, {}, members={"vision": frozenset({"ada", "bo"}), "shared": frozenset({"cy"})})
    forget(before, before)
    assert (commands, flush.read_text()) == ([], "")
    forget(before, Seen({}, {}, members={"vision": frozenset({"bo", "eve"}), "shared": frozenset({"cy"})}))
    assert commands == [
        "/usr/sbin/sss_cache --group=vision",
        "/usr/sbin/sss_cache --user=ada",
        "/usr/sbin/sss_cache --user=eve",
    ]
    assert int(flush.read_text()) > 0


def test_host_without_sssd_goes_on(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def missing(*_: object, **__: object) -> None:
        raise FileNotFoundError("no sss_cache")

    monkeypatch.setattr(tree.subprocess, "run", missing)
    forget(Seen({}, {}, members={"vision": frozenset({"ada"})}), Seen({}, {}))
    assert "sssd keeps old groups for a while" in caplog.text
