"""What cannot be captured, and a store that cannot take it: each is told in one line."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
from capsules import Lab, commit, files_of, repository, write
from labcluster.errors import ConflictError, LabclusterError, NotAllowedError, UsageError


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "lab")


@pytest.fixture
def net(tmp_path: Path) -> Path:
    return repository(
        tmp_path / "net", {"train.py": "v1\n", "src/model.py": "m\n", ".gitignore": "*.pt\nout/\n"}
    )


def test_too_large_names_the_largest_and_keeps_nothing(lab: Lab, net: Path) -> None:
    write(net, {"a.bin": "x" * 3000, "b.bin": "x" * 2000})
    with pytest.raises(UsageError) as caught:
        lab.capture(net, limit=4096)
    assert "is 4.9 KiB, more than 4.0 KiB" in caught.value.detail
    assert "the largest: a.bin (2.9 KiB), b.bin (2.0 KiB)" in caught.value.detail
    assert "\n" not in caught.value.detail
    commit(net, {})
    with pytest.raises(UsageError, match=r"a\.bin \(2\.9 KiB\)"):
        lab.capture(net, limit=4096)
    assert lab.capture(net, limit=6000).capsule["bytes"] == 5000 + 3 + 2 + 10


def odd_link(net: Path) -> None:
    (net / "data").symlink_to("/lab/datasets/mnist")


def odd_up(net: Path) -> None:
    (net / "src" / "up").symlink_to("../../other")


def odd_pipe(net: Path) -> None:
    os.mkfifo(net / "src" / "pipe")


def odd_socket(net: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(net / "sock"))


def odd_committed(net: Path) -> None:
    (net / "data").symlink_to("/lab/datasets/mnist")
    commit(net, {})


def odd_name(net: Path) -> None:
    Path(os.fsdecode(bytes(net) + b"/odd\xff")).write_text("")


@pytest.mark.parametrize(
    ("make", "says", "pattern"),
    [
        (odd_link, "data (a link that leads out, to /lab/datasets/mnist)", "data"),
        (odd_up, "src/up (a link that leads out, to ../../other)", "up"),
        (odd_pipe, "src/pipe (neither a file nor a folder)", "src/pipe"),
        (odd_socket, "sock (neither a file nor a folder)", "sock"),
        (odd_committed, "data (a link that leads out, to /lab/datasets/mnist)", "data"),
        (odd_name, "a name that is not UTF-8", "odd*"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_name_unless_ignored(
    lab: Lab, net: Path, make: Any, says: str, pattern: str
) -> None:
    make(net)
    with pytest.raises(UsageError) as caught:
        lab.capture(net)
    assert says in caught.value.detail
    assert ".labignore" in caught.value.detail
    write(net, {".labignore": f"{pattern}\n"})
    assert files_of(lab, lab.capture(net)).keys() == {"train.py", "src/model.py", ".gitignore", ".labignore"}


def test_pipe_that_git_ignores_is_nobodys_loss(lab: Lab, net: Path) -> None:
    os.mkfifo(net / "wandb.pt")
    assert "wandb.pt" not in files_of(lab, lab.capture(net))


def test_committed_link_that_was_replaced_is_no_reason_to_refuse(lab: Lab, net: Path) -> None:
    odd_committed(net)
    (net / "data").unlink()
    write(net, {"data/a": "a"})
    assert files_of(lab, lab.capture(net))["data/a"] == "a"


def test_layer_that_is_gone_from_the_store_is_made_again(lab: Lab, net: Path) -> None:
    code = lab.capture(net)
    layer = code.capsule["layers"][0]["sha256"]
    (lab.objects / layer[:2] / layer).unlink()
    assert lab.capture(net) == code
    assert layer in lab.stored()


def test_objects_can_be_changed_by_nobody_and_folders_are_the_groups(lab: Lab, net: Path) -> None:
    digest = lab.capture(net).digest or ""
    assert (lab.objects / digest[:2] / digest).stat().st_mode & 0o7777 == 0o440
    assert (lab.objects / digest[:2]).stat().st_mode & 0o7777 == 0o3770


def test_nothing_half_written_stays(lab: Lab, net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        lab.capture(net)
    assert lab.stored() == set()


def test_what_somebody_was_killed_over_is_removed_a_day_later(lab: Lab, net: Path) -> None:
    for name in (".new-old", ".new-fresh"):
        (lab.objects / name).write_text("half")
    os.utime(lab.objects / ".new-old", (1, 1))
    lab.capture(net)
    assert [path.name for path in lab.objects.glob(".new-*")] == [".new-fresh"]


@pytest.mark.parametrize(
    ("number", "kind", "says"),
    [
        (28, ConflictError, "is full"),
        (122, ConflictError, "is full"),
        (13, NotAllowedError, "you may not write"),
        (5, LabclusterError, "Input/output"),
    ],
)
def test_store_that_takes_nothing_is_told_with_the_way_out(
    lab: Lab, net: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[LabclusterError], says: str
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(kind) as caught:
        lab.capture(net)
    assert says in caught.value.detail
    assert "--no-code" in caught.value.detail
    assert lab.stored() == set()


def test_object_of_somebody_else_that_is_cut_short_is_told(
    lab: Lab, net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = lab.capture(net).digest or ""
    damaged = lab.objects / digest[:2] / digest
    damaged.chmod(0o600)
    damaged.write_text("")

    def sticky(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", sticky)
        with pytest.raises(ConflictError, match="is damaged and belongs to uid"):
            lab.capture(net)
    assert lab.capture(net).digest == digest
    assert lab.capsule(lab.capture(net))


def test_home_without_room_for_notes_costs_only_time(lab: Lab, net: Path) -> None:
    (lab.folder / "cache").write_text("a file in the place of the folder")
    assert lab.capture(net) == lab.capture(net)
