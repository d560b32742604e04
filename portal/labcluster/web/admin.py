"""REST for site administrators: /api/v1/admin. Every change may be asked for again without harm."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel, Field

from labcluster.models.members import (
    Change,
    EnrolmentItem,
    EnrolmentResult,
    MemberRequest,
    MemberView,
    PasswordRequest,
)
from labcluster.models.projects import ProjectChange, ProjectRequest, ProjectView
from labcluster.services import enrolment, members, projects
from labcluster.web.api import PROBLEMS
from labcluster.web.wiring import AdministrationOf

router = APIRouter(prefix="/api/v1/admin", responses=PROBLEMS)


class MemberList(BaseModel):
    """All people of the cluster."""

    items: list[MemberView]


class ProjectList(BaseModel):
    """All projects."""

    items: list[ProjectView]


class Enrolment(BaseModel):
    """People to be enrolled together."""

    items: list[EnrolmentItem] = Field(max_length=5000)


class EnrolmentResults(BaseModel):
    """One result for each of them, in their order."""

    items: list[EnrolmentResult]


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


@router.post("/members/enrol")
def enrol(request: Enrolment, administration: AdministrationOf, dry_run: bool = False) -> EnrolmentResults:
    """Add or change many members, all of them or none. With `dry_run`, faults are in the results."""
    results = enrolment.enrol(administration.directory, request.items, dry_run=dry_run)
    administration.cached.invalidate()
    return EnrolmentResults(items=results)


@router.get("/members/{name}")
def get_member(name: str, administration: AdministrationOf) -> MemberView:
    """One member with his projects."""
    return members.view_member(administration.directory.read(), name)


@router.put("/members/{name}/password")
def put_password(
    name: str, request: PasswordRequest, administration: AdministrationOf, dry_run: bool = False
) -> Change:
    """Set a member's password."""
    password = request.password.get_secret_value()
    return members.set_password(administration.directory, name, password, dry_run=dry_run)


@router.put("/members/{name}/disabled")
def disable_member(name: str, administration: AdministrationOf, dry_run: bool = False) -> Change:
    """Shut a member out everywhere and cancel what he runs; his files and projects are kept."""
    change = members.set_disabled(administration.directory, name, disabled=True, dry_run=dry_run)
    administration.cached.invalidate()
    return change


@router.delete("/members/{name}/disabled")
def enable_member(name: str, administration: AdministrationOf, dry_run: bool = False) -> Change:
    """Let a disabled member in again."""
    change = members.set_disabled(administration.directory, name, disabled=False, dry_run=dry_run)
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


@router.get("/projects/{name}")
def get_project(name: str, administration: AdministrationOf) -> ProjectView:
    """One project with its members."""
    directory = administration.directory.read()
    return projects.view_project(directory, administration.projects.list(), name)


@router.patch("/projects/{name}")
def patch_project(
    name: str, request: ProjectChange, administration: AdministrationOf, dry_run: bool = False
) -> Change:
    """Change some values of a project; what is left out stays."""
    change = projects.change_project(
        administration.directory, administration.projects, name, request, dry_run=dry_run
    )
    administration.cached.invalidate()
    return change


@router.delete("/projects/{name}")
def delete_project(
    name: str, administration: AdministrationOf, confirm: str | None = None, dry_run: bool = False
) -> Change:
    """Remove a project; `confirm` is its name once more. Its files and the record of its runs are kept."""
    change = projects.remove_project(
        administration.directory,
        administration.projects,
        administration.runs,
        name,
        confirm=confirm,
        dry_run=dry_run,
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
