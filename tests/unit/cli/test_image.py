"""labctl image build, push and rm, with programs that write down what they were asked."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from labcluster.errors import NotAllowedError

from .conftest import FakePortal, Labctl

HOST = "registry.test:5000"
DIGEST = "sha256:" + "a" * 64
LOGIN = {"registry": HOST, "username": "ada", "password": "short-lived", "expires_in": 3600}

TOOL = f"""#!/bin/sh
echo "progress of $0"
auth=; digest=
for word in "$@"; do
  case $word in
    --authfile=*) auth=${{word#*=}} ;;
    --digestfile=*) digest=${{word#*=}} ;;
  esac
done
printf '%s\\n' "${{0##*/}} $*" "$(stat -c %a "$(dirname "$auth")")" "$(cat "$auth")" >> "$LOG"
[ -z "$digest" ] || echo {DIGEST} > "$digest"
exit "${{STATUS:-0}}"
"""


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """What buildah and skopeo were called with: command, mode of the login's folder, login."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("buildah", "skopeo"):
        (folder / name).write_text(TOOL)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return lambda: (tmp_path / "log").read_text().splitlines() if (tmp_path / "log").exists() else []


def archive(path: Path, name: str) -> None:
    with tarfile.open(path, "w") as file:
        file.addfile(tarfile.TarInfo(name))


@pytest.mark.parametrize(
    ("holds", "kind"), [("oci-layout", "oci-archive"), ("manifest.json", "docker-archive")]
)
def test_archive_is_pushed_with_a_login_that_no_argument_shows(
    portal: FakePortal, labctl: Labctl, tools: Any, tmp_path: Path, holds: str, kind: str
) -> None:
    archive(tmp_path / "net.tar", holds)
    portal.on("POST", "/images/login", LOGIN)
    done = labctl("image", "push", "net.tar", "vision/net:1", "--json")
    assert json.loads(done.out) == {"reference": f"{HOST}/vision/net:1", "digest": DIGEST}
    assert portal.requests[0].body == {"push": "vision/net:1"}
    command, mode, login = tools()
    assert command.startswith("skopeo copy --authfile=")
    assert command.endswith(f"{kind}:net.tar docker://{HOST}/vision/net:1")
    assert "short-lived" not in command
    assert mode == "700"
    assert list(json.loads(login)["auths"]) == [HOST]
    assert not list(tmp_path.glob("labctl-*"))


def test_local_image_is_pushed_under_its_own_name_or_another(
    portal: FakePortal, labctl: Labctl, tools: Any
) -> None:
    portal.on("POST", "/images/login", LOGIN)
    assert labctl("image", "push", "localhost/net:1", "vision/net:1").out == "vision/net:1\n"
    assert tools()[0].endswith(f"localhost/net:1 docker://{HOST}/vision/net:1")
    assert labctl("image", "push", f"{HOST}/vision/net:2").code == 0
    assert tools()[3].endswith(f"{HOST}/vision/net:2 docker://{HOST}/vision/net:2")


@pytest.mark.parametrize("words", [["localhost/net:1"], ["net.tar"], ["./net.tar"]])
def test_push_wants_a_name(portal: FakePortal, labctl: Labctl, tools: Any, words: list[str]) -> None:
    done = labctl("image", "push", *words)
    assert (done.code, tools()) == (2, [])
    assert "PROJECT/NAME:TAG" in done.err


def test_file_without_an_image_is_refused(
    portal: FakePortal, labctl: Labctl, tools: Any, tmp_path: Path
) -> None:
    archive(tmp_path / "notes.tar", "notes.txt")
    (tmp_path / "text").write_text("text")
    (tmp_path / "folder").mkdir()
    portal.on("POST", "/images/login", LOGIN)
    for source, said in (("notes.tar", "holds no image"), ("text", "no archive"), ("folder", "OCI's layout")):
        done = labctl("image", "push", source, "vision/net:1")
        assert (done.code, said in done.err) == (2, True), done.err
    assert tools() == []


def test_image_is_built_and_pushed(portal: FakePortal, labctl: Labctl, tools: Any, tmp_path: Path) -> None:
    (tmp_path / "Containerfile").write_text("FROM common/python-ml:1.0\n")
    portal.on("POST", "/images/login", LOGIN)
    done = labctl("image", "build", "-t", "vision/net:1", "--build-arg", "A=1")
    assert done.out == "vision/net:1\n"
    build, _, _, push, _, _ = tools()
    assert build.startswith("buildah build-using-dockerfile --isolation=chroot")
    assert build.endswith(f"--file=Containerfile --tag={HOST}/vision/net:1 --build-arg A=1 .")
    assert push.startswith("buildah push") and push.endswith(f"docker://{HOST}/vision/net:1")


def test_who_may_not_push_learns_it_before_the_work(
    portal: FakePortal, labctl: Labctl, tools: Any, tmp_path: Path
) -> None:
    (tmp_path / "Dockerfile").write_text("FROM common/python-ml:1.0\n")
    portal.on("POST", "/images/login", NotAllowedError("ada is no member of project speech"))
    done = labctl("image", "build", "-t", "speech/net:1")
    assert (done.code, tools()) == (3, [])
    assert done.err == "labctl: ada is no member of project speech\n"


def test_failed_build_pushes_nothing(
    portal: FakePortal, labctl: Labctl, tools: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "Containerfile").write_text("FROM nothing\n")
    monkeypatch.setenv("STATUS", "125")
    portal.on("POST", "/images/login", LOGIN)
    done = labctl("image", "build", "-t", "vision/net:1")
    assert (done.code, done.out, len(tools())) == (1, "", 3)
    assert "buildah build-using-dockerfile failed, see above" in done.err


def test_folder_without_a_containerfile(portal: FakePortal, labctl: Labctl, tools: Any) -> None:
    done = labctl("image", "build", "-t", "vision/net:1")
    assert (done.code, "has no Containerfile" in done.err) == (2, True)


def test_machine_without_the_tools_is_told_so(
    portal: FakePortal, labctl: Labctl, tools: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "Containerfile").write_text("FROM common/python-ml:1.0\n")
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    portal.on("POST", "/images/login", LOGIN)
    done = labctl("image", "build", "-t", "vision/net:1")
    assert (done.code, "buildah is not on this machine" in done.err) == (2, True)


def test_removed_images_are_named(portal: FakePortal, labctl: Labctl) -> None:
    removed = {"repository": "vision/net", "tags": ["1", "best"], "digest": DIGEST}
    portal.on("DELETE", "/images/vision/net%3A1", removed)
    assert labctl("image", "rm", "vision/net:1").out == f"removed vision/net (1, best) {DIGEST[:19]}\n"
    assert labctl("image", "rm", "--dry-run", "vision/net:1").out.startswith("would remove vision/net")
    assert [request.query for request in portal.requests] == [{}, {"dry_run": ["true"]}]
