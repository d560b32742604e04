"""MLflow's side of a passage: its workspace, its account, and a member's rights in that workspace alone."""

from __future__ import annotations

import secrets
import threading

from mlflow.entities import Workspace
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.server.auth import store
from mlflow.server.workspace_helpers import _get_workspace_store
from werkzeug.datastructures import Authorization

from labcluster_mlflow.assertions import Passage
from labcluster_mlflow.door import ACCOUNT

_ROLE = "member"
# MLflow's own role of users lets them change only what they made; a project's record belongs to all members.
_RIGHTS = {("workspace", "*"): "USE"} | {
    (kind, "*"): "MANAGE"
    for kind in (
        "experiment", "run", "trace", "assessment", "logged_model", "review_queue", "registered_model",
        "registered_model_version", "prompt", "prompt_version", "scorer", "scorer_version",
    )
}  # fmt: skip


def authorize() -> Authorization | None:
    """MLflow's `authorization_function`: whom the door let in."""
    account = ACCOUNT.get(None)
    return None if account is None else Authorization("basic", {"username": account, "password": ""})


class Accounts:
    """Implements `door.Accounts` on MLflow's stores; remembers what it has made until the process ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: set[Passage] = set()

    def ensure(self, passage: Passage) -> None:
        """Make what lacks and take away what is too much."""
        if passage in self._made:
            return
        with self._lock:
            if passage not in self._made:
                _ensure_workspace(passage.project)
                _ensure_account(passage, _ensure_role(passage.project))
                self._made.add(passage)


def _is(error: MlflowException, code: int) -> bool:
    return bool(error.error_code == ErrorCode.Name(code))


def _ensure_workspace(name: str) -> None:
    workspaces = _get_workspace_store()
    try:
        workspaces.get_workspace(name)
    except MlflowException as error:
        if not _is(error, RESOURCE_DOES_NOT_EXIST):
            raise
        try:
            workspaces.create_workspace(Workspace(name=name, description=f"project {name}"))
        except MlflowException as late:
            if not _is(late, RESOURCE_ALREADY_EXISTS):
                raise


def _ensure_role(workspace: str) -> int:
    """The members' role; its id."""
    try:
        role = store.get_role_by_name(workspace, _ROLE)
    except MlflowException as error:
        if not _is(error, RESOURCE_DOES_NOT_EXIST):
            raise
        role = store.create_role(name=_ROLE, workspace=workspace, description="the project's members")
    there = {}
    for right in store.list_role_permissions(role.id):
        place = (right.resource_type, right.resource_pattern)
        if _RIGHTS.get(place) == right.permission:
            there[place] = right.permission
        else:
            store.remove_role_permission(right.id)
    for (kind, pattern), permission in _RIGHTS.items():
        if (kind, pattern) not in there:
            store.add_role_permission(role.id, kind, pattern, permission)
    return int(role.id)


def _ensure_account(passage: Passage, role_id: int) -> None:
    if not store.has_user(passage.account):
        # Nobody is told the password, and the server takes none.
        store.create_user(passage.account, secrets.token_urlsafe(32))
    user = store.get_user(passage.account)
    if user.is_admin:
        store.update_user(passage.account, is_admin=False)
    roles = {role.id: role.workspace for role in store.list_user_roles(user.id)}
    for other, workspace in roles.items():
        if workspace != passage.project:
            store.unassign_role_from_user(user.id, other)
    if role_id not in roles:
        store.assign_role_to_user(user.id, role_id)
