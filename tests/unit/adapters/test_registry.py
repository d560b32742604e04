"""The registry's answers, and how long they are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from labcluster.adapters.registry import HttpRegistry
from labcluster.errors import UnreachableError
from labcluster.models.settings import RegistrySettings

SETTINGS = RegistrySettings(
    host="registry.lab.internal:5000",
    url="https://registry.labcluster.svc:5000",
    token_url="https://registry.labcluster.svc:5001",
    username_file=Path("/nonexistent"),
    password_file=Path("/nonexistent"),
    ca_file=Path("/nonexistent"),
)


class Site:
    """A registry of one image, and a clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.asked: list[str] = []
        self.away = False
        self.images = {"1": "sha256:aa"}
        client = httpx.Client(transport=httpx.MockTransport(self.answer))
        self.registry = HttpRegistry(SETTINGS, client=client, clock=lambda: self.now)

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(f"{request.method} {request.url.raw_path.decode()}")
        path = request.url.path
        if self.away:
            raise httpx.ConnectError("refused")
        if path == "/v2/_catalog":
            last = request.url.params.get("last")
            link = {} if last else {"Link": '</v2/_catalog?last=a&n=1000>; rel="next"'}
            return httpx.Response(200, headers=link, json={"repositories": ["b"] if last else ["a"]})
        if path == "/v2/common/x/tags/list":
            return httpx.Response(200, json={"tags": list(self.images)})
        if path.startswith("/v2/common/x/manifests/"):
            digest = self.images.get(path.rsplit("/", 1)[1])
            return httpx.Response(200, headers={"Docker-Content-Digest": digest}) if digest else _absent()
        return _absent() if path.startswith("/v2/nosuch") else httpx.Response(500)


def _absent() -> httpx.Response:
    return httpx.Response(404, json={"errors": []})


@pytest.fixture
def site() -> Any:
    return Site()


def test_many_submits_ask_once(site: Site) -> None:
    assert [site.registry.digest("common/x", "1") for _ in range(3)] == ["sha256:aa"] * 3
    assert site.asked == ["HEAD /v2/common/x/manifests/1"]


def test_image_that_was_just_pushed_is_the_one_that_is_meant(site: Site) -> None:
    assert site.registry.digest("common/x", "1") == "sha256:aa"
    assert site.registry.digest("common/x", "2") is None
    site.images |= {"1": "sha256:bb", "2": "sha256:cc"}
    site.now = 2.5
    assert site.registry.digest("common/x", "1") == "sha256:bb"
    assert site.registry.digest("common/x", "2") == "sha256:cc"


def test_image_is_listed_as_soon_as_it_was_pushed(site: Site) -> None:
    assert site.registry.tags("common/x") == ["1"]
    site.images["2"] = "sha256:bb"
    assert site.registry.tags("common/x") == ["1", "2"]
    site.away = True
    assert site.registry.tags("common/x") == ["1", "2"]


def test_registry_that_is_away_does_not_stop_runs_of_known_images(site: Site) -> None:
    site.registry.digest("common/x", "1")
    site.away, site.now = True, 600.0
    assert site.registry.digest("common/x", "1") == "sha256:aa"
    with pytest.raises(UnreachableError):
        site.registry.digest("common/x", "2")
    site.now = 4000.0
    with pytest.raises(UnreachableError):
        site.registry.digest("common/x", "1")


def test_long_lists_are_read_to_their_end(site: Site) -> None:
    assert site.registry.repositories() == ["a", "b"]
    assert site.registry.tags("nosuch") == []


def test_failing_registry_is_the_clusters_fault(site: Site) -> None:
    with pytest.raises(UnreachableError, match="answers with HTTP 500"):
        site.registry.tags("common/y")
