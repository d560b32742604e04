"""What people may do with images, and what they are told when they may not."""

from __future__ import annotations

from typing import Any

import pytest
from labcluster.errors import ConflictError, NotAllowedError, NotFoundError, UsageError
from labcluster.models.registry import GIB, LoginRequest
from labcluster.services.registry import RegistryService
from portal_fakes import DIGEST


@pytest.fixture
def images(lab: Any) -> RegistryService:
    return RegistryService(lab.registry, lab.cluster, lab.store.active)


def limit(lab: Any, project: str, gib: int, used: int) -> None:
    lab.cluster.shares[project] = lab.cluster.shares[project].model_copy(update={"registry_gib": gib})
    lab.registry.used = used


def test_listed_are_ones_projects_images_and_the_common_ones(lab: Any, images: RegistryService) -> None:
    found = images.images(lab.ada, None)
    names = [image.reference.split("/", 1)[1] for image in found.items]
    assert names == ["common/python-ml:1.9", "common/python-ml:1.10", "vision/net:1"]
    assert {image.size_bytes for image in found.items} == {1000}
    with pytest.raises(NotAllowedError):
        images.images(lab.ada, "speech")


def test_use_is_shown_beside_the_quota(lab: Any, images: RegistryService) -> None:
    limit(lab, "vision", 20, 3 * GIB)
    usage = {use.project: (use.used_bytes, use.quota_bytes) for use in images.images(lab.ada, None).usage}
    assert usage == {"shared": (0, None), "vision": (3 * GIB, 20 * GIB)}


def test_list_is_there_while_the_use_is_not_known(lab: Any, images: RegistryService) -> None:
    lab.registry.usage_away = True
    found = images.images(lab.ada, "vision")
    assert len(found.items) == 3
    assert found.usage[0].used_bytes is None


def test_login_is_the_callers_own(lab: Any, images: RegistryService) -> None:
    login = images.login(lab.ada, LoginRequest(push="vision/new:1"))
    assert (login.username, login.password, login.registry) == ("ada", "password-of-ada", lab.registry.host)
    assert images.login(lab.ada, LoginRequest()).password == "password-of-ada"
    assert images.login(lab.admin, LoginRequest(push="common/new:1")).password.endswith("-admin")


@pytest.mark.parametrize(
    "name, error, said",
    [
        ("speech/new:1", NotAllowedError, "ada is no member of project speech"),
        ("nosuch/new:1", NotFoundError, "there is no project 'nosuch'; yours: shared, vision"),
        ("new:1", NotAllowedError, "only administrators change the common images"),
        ("labcluster/portal:1", NotAllowedError, "the cluster's own"),
        ("Vision/new:1", UsageError, "is not the name of an image"),
    ],
)
def test_push_that_would_be_denied_is_refused_before_it_begins(
    lab: Any, images: RegistryService, name: str, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        images.login(lab.ada, LoginRequest(push=name))


def test_full_project_is_told_so(lab: Any, images: RegistryService) -> None:
    limit(lab, "vision", 2, 2 * GIB)
    with pytest.raises(ConflictError, match=r"project vision uses 2\.0 GiB of its 2 GiB in the registry"):
        images.login(lab.ada, LoginRequest(push="vision/new:1"))
    limit(lab, "vision", 2, 2 * GIB - 1)
    assert images.login(lab.ada, LoginRequest(push="vision/new:1"))


def test_removed_image_is_gone_and_a_dry_run_keeps_it(lab: Any, images: RegistryService) -> None:
    planned = images.remove(lab.ada, "vision/net:1", dry_run=True)
    assert lab.registry.images["vision/net"] == {"1": DIGEST}
    assert images.remove(lab.ada, "vision/net:1") == planned
    assert lab.registry.images["vision/net"] == {}
    with pytest.raises(NotFoundError, match="vision/net has nothing"):
        images.remove(lab.ada, "vision/net:1")


def test_image_of_a_run_that_is_not_over_stays(lab: Any, images: RegistryService) -> None:
    run = lab.submit(image="vision/net:1")
    with pytest.raises(ConflictError, match=f"is the image of {run.id}"):
        images.remove(lab.ada, "vision/net:1")
    lab.runs.cancel(lab.ada, run.id)
    assert images.remove(lab.ada, "vision/net:1")


def test_image_with_two_tags_goes_only_by_its_digest(lab: Any, images: RegistryService) -> None:
    lab.registry.images["vision/net"]["best"] = DIGEST
    with pytest.raises(ConflictError, match="vision/net:1 is also best"):
        images.remove(lab.ada, "vision/net:1")
    assert images.remove(lab.ada, f"vision/net@{DIGEST}").tags == ["1", "best"]


@pytest.mark.parametrize("name", ["speech/asr:1", "python-ml:1.9", "labcluster/portal:0.1.0"])
def test_only_ones_own_projects_images_can_be_removed(lab: Any, images: RegistryService, name: str) -> None:
    with pytest.raises(NotAllowedError):
        images.remove(lab.ada, name)


def test_removing_needs_a_tag(lab: Any, images: RegistryService) -> None:
    with pytest.raises(UsageError, match="say which one"):
        images.remove(lab.ada, "vision/net")
