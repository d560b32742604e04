"""The rules of a capsule that need no repository."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from labcluster.services.capsule import canonical, is_lock, is_place, leads_out, show_size
from labcluster.services.parameters import fill

HOME = "/lab/home/ada"


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/",
            "/lab",
            "/lab/home",
            HOME,
            "/lab/home/bo",
            "/lab/scratch/ada",
            "/lab/projects",
            "/tmp",
            "/home",
        ),
        *("/lab/projects/vision", "/lab/projects/vision/code", "/lab/projects/vision/data"),
        *("/lab/datasets", "/lab/datasets/mnist", "/lab/datasets/mnist/train"),
    ],
)
def test_place_of_many_projects_is_never_captured(path: str) -> None:
    assert is_place(path, HOME)


@pytest.mark.parametrize(
    "path",
    [
        f"{HOME}/net",
        "/lab/scratch/ada/net",
        "/lab/projects/vision/code/net",
        "/tmp/net",
        "/srv/net",
    ],
)
def test_folder_of_one_project_is(path: str) -> None:
    assert not is_place(path, HOME)


def test_home_elsewhere_is_a_place_too() -> None:
    assert is_place("/srv/people/eve", "/srv/people/eve")
    assert is_place("/srv/people", "/srv/people/eve")
    assert not is_place("/srv/people/eve/net", "/srv/people/eve")


@pytest.mark.parametrize(
    ("path", "target", "out"),
    [
        ("a", "b", False),
        ("d/a", "../b", False),
        ("d/a", "../../b", True),
        ("a", "..", True),
        ("d/a", "..", False),
        ("a", "/lab/datasets", True),
        ("a", "d/../../b", True),
        ("a", "..b/c", False),
    ],
)
def test_links_out_of_the_tree_are_known(path: str, target: str, out: bool) -> None:
    assert leads_out(path, target) is out


@pytest.mark.parametrize(
    "name", ["uv.lock", "a/poetry.lock", "requirements.txt", "requirements/../requirements-gpu.txt"]
)
def test_lock_files_are_known(name: str) -> None:
    assert is_lock(name)
    assert not is_lock(f"{name}.py")


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (200 * 2**20, "200 MiB"), (3 * 2**30, "3.0 GiB")],
)
def test_sizes_are_for_people(count: int, shown: str) -> None:
    assert show_size(count) == shown


def test_one_capsule_has_one_form() -> None:
    assert canonical({"b": 1, "a": ["ü"]}) == canonical({"a": ["ü"], "b": 1}) == '{"a":["ü"],"b":1}'.encode()


@given(
    st.dictionaries(st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]{0,8}", fullmatch=True), st.text(), max_size=4),
    st.text(),
)
def test_filling_places_changes_nothing_else(params: dict[str, str], text: str) -> None:
    assert fill([json.dumps(text)], {}) == [json.dumps(text)]
    for name, value in params.items():
        assert fill([f"--x={{{name}}}", f"${{{name}}}"], params) == [f"--x={value}", f"${{{name}}}"]
