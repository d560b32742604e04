"""REST for site administrators: /api/v1/admin. Every change may be asked for again without harm."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel

from labcluster.models.members import Change, Member, MemberRequest
from labcluster.models.projects import ProjectRequest, ProjectView
from labcluster.services import members, projects
from labcluster.web.api import PROBLEMS
from labcluster.web.wiring import AdministrationOf

router = APIRouter(prefix="/api/v1/admin", responses=PROBLEMS)


class MemberList(BaseModel):
    """All people of the cluster."""

    items: list[Member]


class ProjectList(BaseModel):
    """All projects."""

    items: list[ProjectView]


@router.get("/members")
def list_members(administration: AdministrationOf) -> MemberList:
    """All people of the cluster."""
    return MemberList(items=members.list_members(administration.directory.read()))


@router.put("/members/{name}")
def put_member(
    name: str, request: MemberRequest, administration: AdministrationOf, dry_run: bool = False
) -> Change:
    """Add or change a member."""
    change = members.ensure_member(administration.directory, name, request, dry_run=dry_run)
    administration.cached.invalidate()
    return change


@router.get("/projects")
def list_projects(administration: AdministrationOf) -> ProjectList:
    """All projects with their members."""
    directory = administration.directory.read()
    return ProjectList(items=projects.list_projects(directory, administration.projects.list()))


@router.put("/projects/{name}")
def put_project(
    name: str, request: ProjectRequest, administration: AdministrationOf, dry_run: bool = False
) -> Change:
    """Add or change a project."""
    change = projects.ensure_project(
        administration.directory, administration.projects, name, request, dry_run=dry_run
    )
    administration.cached.invalidate()
    return change


@router.put("/projects/{project}/members/{user}")
def add_member(project: str, user: str, administration: AdministrationOf, dry_run: bool = False) -> Change:
    """Make somebody a member of a project."""
    change = projects.add_member(administration.directory, project, user, dry_run=dry_run)
    administration.cached.invalidate()
    return change


@router.delete("/projects/{project}/members/{user}")
def remove_member(project: str, user: str, administration: AdministrationOf, dry_run: bool = False) -> Change:
    """Take somebody out of a project."""
    change = projects.remove_member(administration.directory, project, user, dry_run=dry_run)
    administration.cached.invalidate()
    return change
