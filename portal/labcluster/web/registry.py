"""REST for images: /api/v1/images."""

from __future__ import annotations

from fastapi import APIRouter

from labcluster.models.registry import ImageList, LoginRequest, RegistryLogin, Removal
from labcluster.web.api import PROBLEMS
from labcluster.web.wiring import CallerOf, PortalOf

router = APIRouter(prefix="/api/v1/images", responses=PROBLEMS)


@router.get("")
def get_images(caller: CallerOf, portal: PortalOf, project: str | None = None) -> ImageList:
    """Images that a run may use, and how much the projects have in the registry."""
    return portal.registry.images(caller, project)


@router.post("/login")
def log_in(request: LoginRequest, caller: CallerOf, portal: PortalOf) -> RegistryLogin:
    """A short-lived password of the registry, for programs that push and pull for the caller."""
    return portal.registry.login(caller, request)


@router.delete("/{name:path}")
def remove_image(name: str, caller: CallerOf, portal: PortalOf, dry_run: bool = False) -> Removal:
    """Remove an image with all its tags; its layers are freed by the next garbage collection."""
    return portal.registry.remove(caller, name, dry_run=dry_run)
