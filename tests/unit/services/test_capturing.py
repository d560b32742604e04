"""What is captured of real repositories and folders."""

from __future__ import annotations

import io
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import CalledProcessError

import pytest
from capsules import Lab, commit, files_of, git, repository, write


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "lab")


@pytest.fixture
def net(tmp_path: Path) -> Path:
    return repository(
        tmp_path / "net", {"train.py": "v1\n", "src/model.py": "m\n", ".gitignore": "*.pt\nout/\n"}
    )


def test_clean_commit_is_one_layer_that_is_stored_once(lab: Lab, net: Path) -> None:
    first = lab.capture(net)
    assert files_of(lab, first) == {"train.py": "v1\n", "src/model.py": "m\n", ".gitignore": "*.pt\nout/\n"}
    before = lab.stored()
    assert lab.capture(net) == first
    assert lab.stored() == before
    assert first.capsule["git"]["commit"] == git(net, "rev-parse", "HEAD")
    assert first.capsule["git"]["branch"] == "main"
    assert not first.capsule["git"]["dirty"]
    assert first.reference()["subdir"] == ""


def test_two_people_with_the_same_commit_share_its_layer(lab: Lab, net: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "--quiet", str(net), str(tmp_path / "hers"))
    hers = Lab(tmp_path / "her-notes")
    hers.objects = lab.objects
    assert lab.capture(net).capsule["layers"] == hers.capture(tmp_path / "hers").capsule["layers"]


def test_staged_unstaged_untracked_and_deleted_are_as_they_are(lab: Lab, net: Path) -> None:
    commit(
        net,
        {
            "gone.py": "x",
            "moved.py": "a long text that git knows again " * 9,
            "kind": "file",
            "late.py": "v1",
        },
    )
    write(net, {"train.py": "v2\n", "new.py": "staged\n", "notes/idea.txt": "untracked\n"})
    write(net, {"big.pt": "ignored", "out/log": "ignored"})
    git(net, "add", "new.py")
    write(net, {"new.py": "and changed again\n"})
    (net / "gone.py").unlink()
    git(net, "mv", "moved.py", "src/moved.py")
    (net / "kind").unlink()
    write(net, {"kind/inner": "now a folder"})
    git(net, "rm", "--quiet", "--cached", "late.py")
    code = lab.capture(net)
    assert files_of(lab, code) == {
        "train.py": "v2\n",
        "new.py": "and changed again\n",
        "notes/idea.txt": "untracked\n",
        "src/model.py": "m\n",
        "src/moved.py": "a long text that git knows again " * 9,
        "kind/inner": "now a folder",
        "late.py": "v1",
        ".gitignore": "*.pt\nout/\n",
    }
    capsule = lab.capsule(code)
    assert capsule["git"]["dirty"]
    assert capsule["untracked"] == ["kind/inner", "late.py", "notes/idea.txt"]
    patch = lab.read(capsule["patch"]).decode()
    assert "-v1\n+v2\n" in patch
    assert "and changed again" in patch


def test_merge_that_is_not_done_is_captured_as_it_lies_there(lab: Lab, net: Path) -> None:
    git(net, "checkout", "--quiet", "-b", "other")
    commit(net, {"train.py": "theirs\n"})
    git(net, "checkout", "--quiet", "main")
    commit(net, {"train.py": "ours\n"})
    with pytest.raises(CalledProcessError):
        git(net, "merge", "--quiet", "other")
    code = lab.capture(net)
    assert files_of(lab, code)["train.py"].startswith("<<<<<<< HEAD\nours\n")
    assert code.capsule["git"]["dirty"]


def test_ignored_file_that_was_removed_from_the_index_is_gone(lab: Lab, net: Path) -> None:
    commit(net, {"key.txt": "secret"})
    git(net, "rm", "--quiet", "--cached", "key.txt")
    write(net, {".gitignore": "key.txt\n"})
    assert "key.txt" not in files_of(lab, lab.capture(net))


def test_what_was_captured_is_not_touched_by_later_edits(lab: Lab, net: Path) -> None:
    write(net, {"train.py": "v2\n"})
    code = lab.capture(net)
    write(net, {"train.py": "v3\n"})
    assert files_of(lab, code)["train.py"] == "v2\n"
    assert files_of(lab, lab.capture(net))["train.py"] == "v3\n"


def test_edit_of_the_same_length_within_the_same_moment_is_seen(lab: Lab, net: Path) -> None:
    seen = set()
    for number in range(5):
        write(net, {"train.py": f"x{number}\n"})
        seen.add(files_of(lab, lab.capture(net))["train.py"])
    assert seen == {f"x{number}\n" for number in range(5)}


def test_changes_that_were_packed_before_are_not_packed_again(
    lab: Lab, net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(net, {"train.py": "v2\n", "new.py": "n"})
    monkeypatch.setattr("labcluster.services.capturing._RACY_NS", -(10**12))
    first = lab.capture(net)
    monkeypatch.setattr("labcluster.adapters.objects._entry", lambda *_: pytest.fail("packed again"))
    assert lab.capture(net) == first


def test_several_who_submit_at_once_do_not_disturb_one_another(lab: Lab, net: Path) -> None:
    write(net, {f"m{number}.py": "x" * number for number in range(50)})
    with ThreadPoolExecutor(8) as pool:
        digests = {code.digest for code in pool.map(lambda _: lab.capture(net), range(16))}
    assert len(digests) == 1
    assert not list(lab.objects.glob(".new-*"))
    assert files_of(lab, lab.capture(net))["m49.py"] == "x" * 49


def test_executables_and_links_stay_what_they_are(lab: Lab, net: Path) -> None:
    (net / "run.sh").write_text("#!/bin/sh\n")
    (net / "run.sh").chmod(0o755)
    (net / "current").symlink_to("src/model.py")
    commit(net, {})
    (net / "other").symlink_to("run.sh")
    code = lab.capture(net)
    found = files_of(lab, code)
    assert (found["current"], found["other"]) == ("-> src/model.py", "-> run.sh")
    with tarfile.open(fileobj=io.BytesIO(lab.read(code.capsule["layers"][0]["sha256"]))) as archive:
        assert {entry.name: entry.mode for entry in archive}["run.sh"] == 0o755


def test_detached_head_and_no_commit_at_all(lab: Lab, net: Path, tmp_path: Path) -> None:
    git(net, "checkout", "--quiet", "--detach")
    capsule = lab.capture(net).capsule
    assert (capsule["git"]["detached"], capsule["git"]["branch"]) == (True, None)
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    git(fresh, "init", "--quiet", "--initial-branch", "main")
    write(fresh, {"a.py": "a", "b.py": "b"})
    git(fresh, "add", "a.py")
    code = lab.capture(fresh)
    assert files_of(lab, code) == {"a.py": "a", "b.py": "b"}
    assert (code.capsule["git"]["commit"], code.capsule["git"]["dirty"]) == (None, True)


def test_folder_below_the_root_is_where_the_command_starts(lab: Lab, net: Path) -> None:
    code = lab.capture(net / "src")
    assert (code.root, code.capsule["subdir"]) == (str(net), "src")
    assert "train.py" in files_of(lab, code)


def test_folder_without_git_is_kept_whole_but_for_what_is_ignored(lab: Lab, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    write(plain, {"a.py": "a", "b/c.py": "c", "b/weights.bin": "w", "x/y": "y", ".labignore": "*.bin\n/x\n"})
    code = lab.capture(plain)
    assert files_of(lab, code) == {"a.py": "a", "b/c.py": "c", ".labignore": "*.bin\n/x\n"}
    assert code.capsule["git"] is None
    assert code.reference()["commit"] is None
    assert not (plain / ".git").exists()


def test_labignore_holds_for_tracked_files_too(lab: Lab, net: Path) -> None:
    commit(net, {"data/big.csv": "1,2", "data/small.csv": "3"})
    lab.capture(net)
    write(net, {".labignore": "big.csv\n*.tmp\n", "new.tmp": "", "data/big.csv": "changed"})
    code = lab.capture(net)
    assert files_of(lab, code).keys() == {
        ".labignore",
        ".gitignore",
        "train.py",
        "src/model.py",
        "data/small.csv",
    }


@pytest.fixture
def outer(net: Path, tmp_path: Path) -> Path:
    """A repository with two submodules, one of them within the other."""
    inner = repository(tmp_path / "inner", {"inner.py": "i1"})
    middle = repository(tmp_path / "middle", {"middle.py": "m1"})
    git(middle, "submodule", "--quiet", "add", str(inner), "deep/inner")
    git(middle, "commit", "--quiet", "--message", "inner")
    git(net, "submodule", "--quiet", "add", str(middle), "lib")
    git(net, "commit", "--quiet", "--message", "lib")
    git(net, "submodule", "--quiet", "update", "--init", "--recursive")
    return net


def test_submodules_are_captured_with_their_own_changes(lab: Lab, outer: Path) -> None:
    clean = lab.capture(outer)
    assert not clean.capsule["git"]["dirty"]
    assert {path: text for path, text in files_of(lab, clean).items() if path.endswith(".py")} == {
        "train.py": "v1\n",
        "src/model.py": "m\n",
        "lib/middle.py": "m1",
        "lib/deep/inner/inner.py": "i1",
    }
    write(outer, {"lib/deep/inner/inner.py": "i2", "lib/new.py": "n"})
    code = lab.capture(outer)
    found = files_of(lab, code)
    assert (found["lib/deep/inner/inner.py"], found["lib/new.py"]) == ("i2", "n")
    marks = {entry["path"]: entry["dirty"] for entry in code.capsule["git"]["submodules"]}
    assert marks == {"lib": True, "lib/deep/inner": True}
    assert code.capsule["git"]["dirty"]
    assert "b/lib/deep/inner/inner.py" in lab.read(code.capsule["patch"]).decode()
    assert code.capsule["layers"][:3] == clean.capsule["layers"]


def test_submodule_on_another_commit_is_what_is_checked_out(lab: Lab, outer: Path) -> None:
    commit(outer / "lib", {"middle.py": "m2"})
    code = lab.capture(outer)
    assert files_of(lab, code)["lib/middle.py"] == "m2"
    assert code.capsule["git"]["dirty"]
    assert code.capsule["git"]["submodules"][0]["commit"] == git(outer / "lib", "rev-parse", "HEAD")


def test_submit_from_within_a_submodule_captures_the_whole(lab: Lab, outer: Path) -> None:
    code = lab.capture(outer / "lib" / "deep" / "inner")
    assert (code.root, code.capsule["subdir"]) == (str(outer), "lib/deep/inner")
    assert "train.py" in files_of(lab, code)


def test_submodule_that_is_not_there_and_a_nested_repository(lab: Lab, outer: Path, tmp_path: Path) -> None:
    git(outer, "submodule", "--quiet", "deinit", "--force", "lib")
    repository(outer / "tool", {"tool.py": "t"})
    write(outer / "tool", {"own.py": "o"})
    found = files_of(lab, lab.capture(outer))
    assert "lib/middle.py" not in found
    assert (found["tool/tool.py"], found["tool/own.py"]) == ("t", "o")


def test_commits_that_no_remote_has_are_kept_as_a_bundle(lab: Lab, net: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "--quiet", "--bare", str(net), str(tmp_path / "hub.git"))
    git(net, "remote", "add", "origin", str(tmp_path / "hub.git"))
    git(net, "fetch", "--quiet")
    assert lab.capture(net).capsule["git"]["bundle"] is None
    commit(net, {"train.py": "v2\n"})
    bundle = lab.capture(net).capsule["git"]["bundle"]
    (tmp_path / "work.bundle").write_bytes(lab.read(bundle))
    git(tmp_path, "clone", "--quiet", str(tmp_path / "hub.git"), str(tmp_path / "later"))
    git(tmp_path / "later", "fetch", "--quiet", str(tmp_path / "work.bundle"), "HEAD")
    assert git(tmp_path / "later", "show", "FETCH_HEAD:train.py") == "v2"


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://ada:ghp_secret@git.lab/net.git", "https://git.lab/net.git"),
        ("https://oauth2:tok@git.lab:8443/a/b?private_token=x#y", "https://git.lab:8443/a/b"),
        ("https://token@git.lab/net", "https://git.lab/net"),
        ("ssh://git:pw@git.lab:22/net", "ssh://git@git.lab:22/net"),
        ("git@git.lab:ada/net.git", "git@git.lab:ada/net.git"),
        ("/lab/projects/vision/code/net.git", "/lab/projects/vision/code/net.git"),
    ],
)
def test_secrets_in_the_remotes_address_are_not_kept(lab: Lab, net: Path, url: str, kept: str) -> None:
    git(net, "remote", "add", "origin", url)
    code = lab.capture(net)
    assert code.reference()["remote"] == kept
    assert not any(b"secret" in lab.read(name) for name in lab.stored())


def test_remote_that_the_branch_follows_is_the_one(lab: Lab, net: Path) -> None:
    for name in ("origin", "fork", "another"):
        git(net, "remote", "add", name, f"https://git.lab/{name}")
    assert lab.capture(net).capsule["git"]["remote"] == "https://git.lab/origin"
    git(net, "update-ref", "refs/remotes/fork/main", "HEAD")
    git(net, "branch", "--quiet", "--set-upstream-to", "fork/main")
    assert lab.capture(net).capsule["git"]["remote"] == "https://git.lab/fork"


def test_locks_are_named_with_their_bytes(lab: Lab, net: Path) -> None:
    commit(net, {"uv.lock": "one", "sub/requirements-dev.txt": "two", "labcluster.toml": ""})
    write(net, {"uv.lock": "three"})
    capsule = lab.capture(net).capsule
    assert [lock["path"] for lock in capsule["locks"]] == ["sub/requirements-dev.txt", "uv.lock"]
    assert capsule["locks"][1]["sha256"] == "8b5b9db0c13db24256c829aa364aa90c6d2eba318b9232a4ab9313b954d3555f"
    assert capsule["toml"]


def test_dry_run_writes_nothing_and_counts(lab: Lab, net: Path) -> None:
    write(net, {"new.py": "12345"})
    code = lab.capture(net, dry_run=True)
    assert (code.digest, code.capsule["files"], code.capsule["bytes"]) == (None, 4, 3 + 2 + 10 + 5)
    assert lab.stored() == set()
    assert lab.capture(net).capsule["files"] == 4
    assert lab.capture(net, dry_run=True).capsule["files"] == 4


def test_environment_of_a_git_hook_does_not_lead_elsewhere(
    lab: Lab, net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = repository(tmp_path / "other", {"other.py": ""})
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git" / "index"))
    assert "train.py" in files_of(lab, lab.capture(net))


def test_line_endings_are_those_of_a_checkout(lab: Lab, net: Path) -> None:
    commit(net, {".gitattributes": "*.bat text eol=crlf\n", "run.bat": "a\nb\n"})
    assert files_of(lab, lab.capture(net))["run.bat"] == "a\r\nb\r\n"
