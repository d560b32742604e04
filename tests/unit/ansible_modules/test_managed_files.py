"""The module managed_files, called as ansible calls it: arguments in, JSON out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

MODULE = Path(__file__).parents[3] / "ansible" / "plugins" / "modules" / "managed_files.py"
OWN = {"owner": str(os.getuid()), "group": str(os.getgid())}


def managed_files(*files: dict[str, Any], check: bool = False) -> dict[str, Any]:
    """What the module answers."""
    arguments = {"files": [OWN | entry for entry in files], "_ansible_check_mode": check}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(MODULE)],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
        capture_output=True,
        text=True,
        check=False,
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_files_folders_and_links_are_made_once(tmp_path: Path) -> None:
    wanted = (
        {"path": f"{tmp_path}/etc", "state": "directory", "mode": "0750"},
        {"path": f"{tmp_path}/etc/one", "content": "1\n", "mode": "0600"},
        {"path": f"{tmp_path}/link", "state": "link", "target": "etc/one"},
    )
    assert managed_files(*wanted)["paths"] == [entry["path"] for entry in wanted]
    assert (tmp_path / "link").read_text() == "1\n"
    assert (tmp_path / "etc" / "one").stat().st_mode & 0o777 == 0o600
    assert managed_files(*wanted)["changed"] is False


@pytest.mark.parametrize("drift", [lambda file: file.write_text("2\n"), lambda file: file.chmod(0o666)])
def test_drift_is_put_right(tmp_path: Path, drift: Any) -> None:
    file = tmp_path / "file"
    wanted = {"path": str(file), "content": "1\n", "mode": "0644"}
    managed_files(wanted)
    drift(file)
    assert managed_files(wanted)["paths"] == [str(file)]
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("1\n", 0o644)


def test_check_mode_says_what_would_change_and_changes_nothing(tmp_path: Path) -> None:
    answer = managed_files({"path": f"{tmp_path}/file", "content": "1\n"}, check=True)
    assert answer["changed"] is True
    assert answer["diff"][0]["after"] == "1\n"
    assert not (tmp_path / "file").exists()


def test_a_refused_content_leaves_every_file_alone(tmp_path: Path) -> None:
    answer = managed_files(
        {"path": f"{tmp_path}/good", "content": "1\n"},
        {"path": f"{tmp_path}/bad", "content": "2\n", "validate": "grep -q never %s"},
    )
    assert answer["failed"] is True
    assert f"{tmp_path}/bad" in answer["msg"]
    assert list(tmp_path.iterdir()) == []


def test_the_diff_of_a_private_file_is_never_shown(tmp_path: Path) -> None:
    answer = managed_files({"path": f"{tmp_path}/key", "content": "secret\n", "mode": "0600"})
    assert "secret" not in json.dumps({key: value for key, value in answer.items() if key != "invocation"})


def test_what_must_be_absent_is_removed_and_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "gone").symlink_to(tmp_path / "kept")
    wanted = {"path": f"{tmp_path}/gone", "state": "absent"}
    assert managed_files(wanted)["changed"] is True
    assert (tmp_path / "kept").is_dir()
    assert managed_files(wanted)["changed"] is False


def test_an_unknown_owner_is_one_clear_line(tmp_path: Path) -> None:
    answer = managed_files({"path": f"{tmp_path}/file", "content": "", "owner": "nobody-here"})
    assert "no such user or group: nobody-here" in answer["msg"]
