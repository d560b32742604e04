"""What labctl captures, labrun checks out: the two programs meet only in the files between them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from capsules import Lab, commit, git, repository, write
from labcluster.services.capturing import Code
from test_labrun import PLACES, ROOT


@pytest.fixture(scope="module")
def labrun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program."""
    go = shutil.which("go", path=PLACES)
    built = tmp_path_factory.mktemp("labrun") / "labrun"
    environment = os.environ | {"GOPROXY": "off", "GOFLAGS": "-mod=readonly", "CGO_ENABLED": "0"}
    source = ROOT / "images" / "runner"
    if (
        go is None
        or subprocess.run([go, "version"], cwd=source, env=environment, capture_output=True).returncode
    ):
        pytest.skip("the Go that labrun asks for is not on this machine yet: make artifacts")
    subprocess.run([go, "build", "-o", built, "."], cwd=source, env=environment, check=True)
    return built


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "lab")


class Site:
    """A project's runs, prepared as on a node."""

    def __init__(self, labrun: Path, lab: Lab, folder: Path) -> None:
        self.labrun, self.lab, self.folder = labrun, lab, folder

    def directory(self, number: int = 1) -> Path:
        return self.lab.folder / "projects" / "vision" / "runs" / f"{number}_0_train"

    def prepare(
        self, code: Code | None = None, *, number: int = 1, attempt: int = 1, **more: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run `labrun prepare` for a run of some code."""
        call, environment = self.call(code, number, attempt, more)
        return subprocess.run(call, env=environment, capture_output=True, text=True, check=False)

    def call(
        self, code: Code | None, number: int, attempt: int, more: dict[str, Any]
    ) -> tuple[list[Any], dict[str, str]]:
        """What to call, and with which environment."""
        words = more.pop("command", ["train", "--lr", "{lr}"])
        run = {
            **{"id": f"vision-{number}", "project": "vision", "user": "ada", "attempt": attempt},
            **{"command": ["train", "--lr", "{lr}"], "workdir": str(self.lab.folder), "env": {}},
            **({"code": code.reference()} if code else {}),
            **more,
        }
        environment = os.environ | {
            "LABCLUSTER_RUN": json.dumps(run),
            "LABCLUSTER_RUN_DIR": str(self.directory(number)),
            "LABCLUSTER_ATTEMPT": str(attempt),
            "LABRUN_CACHE": str(self.folder / "her-cache"),
            "LABRUN_CLAIM_INTERVAL": "1ms",
        }
        tools = self.folder / "tools"
        tools.mkdir(exist_ok=True)
        return [self.labrun, "prepare", "--to", tools, "--", *words], environment

    def read(self, name: str, number: int = 1) -> Any:
        """A JSON file of the run."""
        return json.loads((self.directory(number) / name).read_text())


@pytest.fixture
def site(labrun: Path, lab: Lab, tmp_path: Path) -> Site:
    return Site(labrun, lab, tmp_path)


def tree(root: Path) -> dict[str, str]:
    """Every file and link below a folder but git's own."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if ".git" in path.relative_to(root).parts or (path.is_dir() and not path.is_symlink()):
            continue
        executable = path.is_symlink() or path.stat().st_mode & 0o100
        found[name] = (
            f"-> {path.readlink()}" if path.is_symlink() else f"{path.read_text()}{'*' * bool(executable)}"
        )
    return found


def test_run_finds_the_folder_as_it_was(site: Site, lab: Lab, tmp_path: Path) -> None:
    inner = repository(tmp_path / "inner", {"inner.py": "i1"})
    net = repository(
        tmp_path / "net", {"train.py": "v1", "gone.py": "g", "kind": "file", "d/x": "x", "ü/ö.py": "ö"}
    )
    git(net, "submodule", "--quiet", "add", str(inner), "lib/inner")
    (net / "go.sh").write_text("#!/bin/sh\n")
    (net / "go.sh").chmod(0o755)
    (net / "link").symlink_to("train.py")
    commit(net, {"long/" + "n" * 120 + "/" + "m" * 120: "long"})
    write(net, {"train.py": "v2", "new/a b.py": "n", "lib/inner/inner.py": "i2", "lib/inner/more.py": "m"})
    (net / "gone.py").unlink()
    (net / "kind").unlink()
    write(net, {"kind/now": "a folder"})
    shutil.rmtree(net / "d")
    write(net, {"d": "now a file"})
    (net / "link").unlink()
    (net / "link").symlink_to("new")
    code = lab.capture(net / "new")
    expected = tree(net)
    done = site.prepare(code, params={"lr": "0.1"}, seed=7, command=["train", "--lr", "0.1"])
    assert (done.returncode, done.stderr) == (0, "")
    found = tree(site.directory() / "code")
    assert found == {path: text for path, text in expected.items() if path != ".gitmodules"} | {
        ".gitmodules": (net / ".gitmodules").read_text()
    }
    args = site.read("args.json")
    assert args == {
        "command": ["train", "--lr", "0.1"],
        "workdir": str(site.directory() / "code" / "new"),
        "params": {"lr": "0.1"},
        "seed": 7,
    }
    assert site.read("code.json") == lab.capsule(code)
    assert "+v2" in (site.directory() / "code.patch").read_text()


def test_later_attempt_gets_a_fresh_copy_and_keeps_what_the_earlier_wrote(
    site: Site, lab: Lab, tmp_path: Path
) -> None:
    code = lab.capture(repository(tmp_path / "net", {"train.py": "v1"}))
    assert site.prepare(code).returncode == 0
    write(site.directory() / "code", {"train.py": "changed", "model.pt": "weights"})
    assert site.prepare(code).returncode == 0, "a restarted node runs init containers again"
    assert tree(site.directory() / "code")["model.pt"] == "weights"
    assert site.prepare(code, attempt=2).returncode == 0
    assert tree(site.directory() / "code") == {"train.py": "v1"}
    assert tree(site.directory() / "code.attempt-1") == {"train.py": "changed", "model.pt": "weights"}


def test_pods_of_one_run_wait_for_the_one_that_checks_out(site: Site, lab: Lab, tmp_path: Path) -> None:
    code = lab.capture(repository(tmp_path / "net", {"train.py": "v1"}))
    call, environment = site.call(code, 1, 1, {})
    gang = {"LABCLUSTER_NODES": "2", "MASTER_ADDR": "localhost"}
    second = subprocess.Popen(
        call, env=environment | gang | {"NODE_RANK": "1"}, stdout=subprocess.PIPE, text=True
    )
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(1)
    assert not (site.directory() / "code").exists()
    first = subprocess.run(call, env=environment | gang | {"NODE_RANK": "0"}, check=False)
    said, _ = second.communicate(timeout=20)
    assert (first.returncode, second.returncode) == (0, 0)
    assert "waiting until the first pod has checked out the code" in said
    assert tree(site.directory() / "code") == {"train.py": "v1"}
    assert not list(site.directory().glob(".waiting*"))


def test_code_that_is_gone_or_damaged_is_told_by_name(site: Site, lab: Lab, tmp_path: Path) -> None:
    net = repository(tmp_path / "net", {"train.py": "v1"})
    code = lab.capture(net)
    layer = code.capsule["layers"][0]["sha256"]
    kept = lab.objects / layer[:2] / layer
    content = kept.read_bytes()
    kept.unlink()
    done = site.prepare(code)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert f"the captured code of this run is gone: {kept}" in done.stderr
    kept.write_bytes(content[:-8] + b"\0" * 8)
    done = site.prepare(code, number=2)
    assert done.returncode == 1
    assert str(kept) in done.stderr
    assert "its bytes are not what its name says" in done.stderr
    assert not (site.directory(2) / "code").exists()
    kept.write_bytes(content)
    assert site.prepare(code, number=2).returncode == 0


def test_folder_whose_files_are_all_ignored_is_there_for_the_command(
    site: Site, lab: Lab, tmp_path: Path
) -> None:
    net = repository(tmp_path / "net", {"train.py": "v1", ".gitignore": "out/\n"})
    (net / "out").mkdir()
    assert site.prepare(lab.capture(net / "out")).returncode == 0
    assert (site.directory() / "code" / "out").is_dir()


def manifest(site: Site, lab: Lab, number: int) -> dict[str, str]:
    """Sums by path of a run's only data directory."""
    (data,) = site.read("data.json", number)
    lines = [json.loads(line) for line in lab.read(data["manifest"]).decode().splitlines()]
    assert [line["path"] for line in lines] == sorted(line["path"] for line in lines)
    assert (data["files"], data["bytes"]) == (len(lines), sum(line["size"] for line in lines))
    return {line["path"]: line["sha256"] for line in lines}


def test_data_is_told_apart_by_its_bytes_alone(site: Site, lab: Lab, tmp_path: Path) -> None:
    data = tmp_path / "data"
    write(data, {"a/one.csv": "1", "b.csv": "2", "ü.csv": "3"})
    (data / "latest").symlink_to("b.csv")
    (data / "nowhere").symlink_to("/nowhere")
    assert site.prepare(data=[str(data)]).returncode == 0
    first = manifest(site, lab, 1)
    assert (
        first["b.csv"]
        == first["latest"]
        == "d4735e3a265e16eee03f59718b9b5d03019c07d8b6c51f90da3a666eec13ab35"
    )
    assert first.keys() == {"a/one.csv", "b.csv", "latest", "nowhere", "ü.csv"}
    copy = tmp_path / "copy"
    shutil.copytree(data, copy, symlinks=True)
    os.utime(copy / "b.csv", (1, 1))
    assert site.prepare(number=2, data=[str(copy)]).returncode == 0
    assert site.read("data.json", 2)[0]["digest"] == site.read("data.json")[0]["digest"]
    write(copy, {"b.csv": "4"})
    assert site.prepare(number=3, data=[str(copy)]).returncode == 0
    assert site.read("data.json", 3)[0]["digest"] != site.read("data.json")[0]["digest"]


def test_only_what_changed_is_read_again(site: Site, lab: Lab, tmp_path: Path) -> None:
    data = tmp_path / "data"
    write(data, {"a.csv": "1", "b.csv": "2"})
    for name in ("a.csv", "b.csv"):
        os.utime(data / name, (10**9, 10**9))
    assert site.prepare(data=[str(data)]).returncode == 0
    # Same size and time: only reading it again would show that it is another.
    write(data, {"a.csv": "9", "b.csv": "9"})
    os.utime(data / "a.csv", (10**9, 10**9))
    assert site.prepare(number=2, data=[str(data)]).returncode == 0
    before, after = manifest(site, lab, 1), manifest(site, lab, 2)
    assert after["a.csv"] == before["a.csv"]
    assert after["b.csv"] != before["b.csv"]


def test_file_that_changed_just_now_is_read_again(site: Site, lab: Lab, tmp_path: Path) -> None:
    data = tmp_path / "data"
    write(data, {"a.csv": "1"})
    assert site.prepare(data=[str(data)]).returncode == 0
    times = (data / "a.csv").stat()
    write(data, {"a.csv": "2"})
    os.utime(data / "a.csv", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert site.prepare(number=2, data=[str(data)]).returncode == 0
    assert manifest(site, lab, 1) != manifest(site, lab, 2)


def test_data_that_is_not_there_ends_the_run_by_name(site: Site, tmp_path: Path) -> None:
    done = site.prepare(data=[str(tmp_path / "gone")])
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert f"--data {tmp_path}/gone: the node cannot read it: no such file" in done.stderr
    (tmp_path / "file").write_text("")
    assert "it is no directory" in site.prepare(number=2, data=[str(tmp_path / "file")]).stderr
