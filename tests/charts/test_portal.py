"""What the programs of the chart portal are told, and what their service accounts may do."""

from __future__ import annotations

from typing import Any

import pytest
from labcluster.models.settings import PortalSettings

READ = {"get", "list", "watch"}


def one(objects: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    return next(item for item in objects if (item["kind"], item["metadata"]["name"]) == (kind, name))


@pytest.mark.parametrize("program", ["web", "controller"])
def test_settings_are_those_that_the_programs_check(rendered: Any, program: str) -> None:
    data = one(rendered("portal"), "ConfigMap", "portal")["data"][f"{program}.json"]
    settings = PortalSettings.model_validate_json(data)
    assert settings.ldap is not None
    assert settings.ldap.bind_dn.startswith("cn=portal," if program == "web" else "cn=controller,")
    assert settings.jobs.runner_image.count("@sha256:") == 1
    assert settings.admins[0].uid == 10000
    # Only the web server logs people in: the controller gets none of its secrets.
    assert (settings.login is not None) is (program == "web")


def test_every_file_of_the_settings_is_mounted(rendered: Any) -> None:
    objects = rendered("portal")
    data = one(objects, "ConfigMap", "portal")["data"]["web.json"]
    settings = PortalSettings.model_validate_json(data)
    assert settings.ldap is not None
    files = [settings.database.password_file, settings.registry.username_file, settings.ldap.password_file]
    files += [settings.database.ca_file, settings.munge_socket]
    assert settings.login is not None
    assert settings.mlflow is not None
    files += [settings.mlflow.key_file, settings.mlflow.ca_file]
    files += [settings.login.ca_file, settings.login.secret_file, settings.login.session_key_file]
    web = one(objects, "Deployment", "portal")["spec"]["template"]["spec"]["containers"][0]
    mounts = [mount["mountPath"] for mount in web["volumeMounts"]]
    for file in files:
        assert str(file.parent) in mounts, file


def test_portal_itself_may_only_look_and_keep_projects(rendered: Any) -> None:
    for rule in one(rendered("portal"), "ClusterRole", "labcluster-portal")["rules"]:
        if rule["verbs"] == ["impersonate"]:
            continue  # the next test's business
        if rule["resources"] == ["tokenreviews"]:
            # Looks at tokens that it was shown, and changes nothing.
            assert (rule["apiGroups"], rule["verbs"]) == (["authentication.k8s.io"], ["create"])
            continue
        allowed = READ | ({"create", "patch", "delete"} if rule["resources"] == ["projects"] else set())
        assert set(rule["verbs"]) <= allowed, rule
        assert "secrets" not in rule["resources"]
        if "configmaps" in rule["resources"]:
            assert rule["resourceNames"] == ["labcluster-members"]


def test_only_the_role_that_the_controller_fills_lets_anybody_impersonate_people(rendered: Any) -> None:
    objects = rendered("portal")
    rules = [
        rule
        for role in objects
        if role["kind"] in ("ClusterRole", "Role")
        for rule in role["rules"]
        if "impersonate" in rule["verbs"] or "*" in rule["verbs"]
    ]
    # The groups that open shells and make runs; no user, no service account, no other group.
    assert [(rule["resources"], rule["resourceNames"]) for rule in rules] == [
        (["groups"], ["labcluster:shell", "labcluster:portal"])
    ]
    binding = one(objects, "ClusterRoleBinding", "labcluster-impersonator")
    assert binding["roleRef"]["name"] == "labcluster-impersonator"
    names = {subject["name"] for subject in binding["subjects"]}
    assert names == {"labcluster-portal", "labcluster-controller"}


def test_munge_key_is_seen_by_munged_alone(rendered: Any) -> None:
    spec = one(rendered("portal"), "Deployment", "portal")["spec"]["template"]["spec"]
    seen = {
        container["name"]
        for container in spec["initContainers"] + spec["containers"]
        if any(mount["name"] in ("munge-key", "munge-secret") for mount in container["volumeMounts"])
    }
    assert seen == {"munge-key", "munged"}
