"""Rules of the whole tree: nothing floats, nothing is empty, nothing belongs to one machine."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PYTHON_LINES = 400


def tracked() -> list[Path]:
    """Files that git tracks or would, as they are in the working tree."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


FILES = tracked()
LOCKS = (".sum", ".lock")


def texts(*suffixes: str) -> list[tuple[Path, str]]:
    """Text of the tracked files with one of some endings; of all without any."""
    found = []
    for path in FILES:
        if path.suffix in LOCKS or (suffixes and path.suffix not in suffixes):
            continue
        try:
            found.append((path.relative_to(ROOT), path.read_text()))
        except UnicodeDecodeError:
            continue
    return found


def test_no_file_names_a_machine_path() -> None:
    local = re.compile(r"(?<![\w.])/(?:work|root|home/[a-z]+)/[\w.-]")
    for path, text in texts():
        if path.parts[0] == "images":
            # What a recipe does below /root or /home is its image's own file system.
            text = re.sub(r"/(?:root|home)/", "", text)
        found = local.search(text)
        assert not found, f"{path}: {found and found[0]!r} is a path of one machine"


def test_no_file_names_a_package_registry() -> None:
    hosts = re.compile(
        r"//(?:[\w-]+\.)*(?:pypi\.org|deb\.debian\.org|proxy\.golang\.org|npmjs\.org|docker\.io|quay\.io|gcr\.io)\b"
    )
    for path, text in texts(".yml", ".yaml", ".py", ".sh", ".toml", ".j2", ".cfg", ""):
        found = hosts.search(text)
        assert not found, (
            f"{path}: {found and found[0]!r}: take the mirror from the machine or the site's variables"
        )


def test_no_secret_is_tracked() -> None:
    secret = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----\n[A-Za-z0-9+/=]{20}")
    for path, text in texts():
        assert not secret.search(text), f"{path} holds a private key"


def test_no_image_floats() -> None:
    for path, text in texts(".yml", ".yaml"):
        assert not re.search(r"image:\s*\S+:latest\b", text), f"{path}: pin the image"
    for path, text in texts(""):
        if path.name == "Containerfile":
            for image in re.findall(r"^FROM\s+(\S+)", text, re.MULTILINE):
                assert not image.endswith(":latest"), f"{path}: pin {image}"


def test_no_python_file_is_over_its_size_alarm() -> None:
    for path, text in texts(".py"):
        assert text.count("\n") <= PYTHON_LINES, f"{path}: {text.count(chr(10))} lines: split it by topic"


@pytest.mark.parametrize(
    "path", [p for p in FILES if p.name.startswith("test_") and p.suffix == ".py"], ids=lambda p: p.name
)
def test_every_test_file_tests_and_every_test_asserts(path: Path) -> None:
    tests = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    assert tests, "no test in this file"
    for test in tests:
        body = ast.dump(test)
        assert any(word in body for word in ("Assert(", "'raises'", "assert_", "check_", "expect")), (
            f"{test.name} asserts nothing"
        )


def test_every_yaml_file_can_be_read() -> None:
    for path, text in texts(".yml", ".yaml"):
        if "templates" in path.parts or "$ANSIBLE_VAULT" in text[:20] or "invalid" in path.parts:
            continue
        loader = type("Loader", (yaml.SafeLoader,), {})
        loader.add_multi_constructor("!", lambda _loader, _suffix, _node: None)
        assert list(yaml.load_all(text, loader)) is not None, path


def test_what_is_vendored_is_as_it_was_published() -> None:
    sums = [path for path in FILES if path.name == "SHA256SUMS"]
    assert sums
    for path in sums:
        subprocess.run(
            ["sha256sum", "--check", "--strict", "--quiet", path.name], cwd=path.parent, check=True
        )
        assert {path.parent / "LICENSE", path.parent / "README.md"} <= set(FILES), path
