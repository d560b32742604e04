"""The registry trusts one key, and only the token service holds it."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from labcluster.models.settings import RegistryTokenSettings


@pytest.fixture
def objects(rendered: Any) -> dict[str, Any]:
    return {item["kind"]: item for item in rendered("registry")}


def container(objects: dict[str, Any], name: str) -> dict[str, Any]:
    containers = objects["Deployment"]["spec"]["template"]["spec"]["containers"]
    return next(found for found in containers if found["name"] == name)


def mounted(objects: dict[str, Any], name: str) -> dict[str, dict[str, Any]]:
    """Mount path -> volume."""
    volumes = {v["name"]: v for v in objects["Deployment"]["spec"]["template"]["spec"]["volumes"]}
    return {mount["mountPath"]: volumes[mount["name"]] for mount in container(objects, name)["volumeMounts"]}


def test_settings_are_those_that_the_token_service_checks(objects: dict[str, Any]) -> None:
    settings = RegistryTokenSettings.model_validate_json(objects["ConfigMap"]["data"]["registry-tokens.json"])
    assert settings.registry == "registry.lab.internal:5000"
    assert settings.ldap.bind_dn == "cn=registry,ou=services,dc=lab,dc=internal"
    folders = mounted(objects, "tokens")
    files = [settings.key_file, settings.cluster_password_file, settings.ldap.password_file]
    for file in [*files, settings.node_password_file, settings.ldap.ca_file, settings.storage / "docker"]:
        assert str(file.parent) in folders, file


def test_registry_and_token_service_agree(objects: dict[str, Any]) -> None:
    token = yaml.safe_load(objects["ConfigMap"]["data"]["config.yml"])["auth"]["token"]
    settings = RegistryTokenSettings.model_validate_json(objects["ConfigMap"]["data"]["registry-tokens.json"])
    assert token["realm"] == "https://registry.lab.internal:5001/token"
    assert (token["service"], token["issuer"]) == (settings.registry, settings.issuer)


def test_registry_knows_the_certificate_but_not_the_key(objects: dict[str, Any]) -> None:
    secrets = {
        v["secret"]["secretName"]: v["secret"] for v in mounted(objects, "registry").values() if "secret" in v
    }
    assert secrets.keys() == {"registry-tls", "registry-tokens-tls"}
    assert [item["key"] for item in secrets["registry-tokens-tls"]["items"]] == ["tls.crt"]


def test_only_the_token_service_reaches_the_apiserver_and_reads_the_storage(objects: dict[str, Any]) -> None:
    path = "/var/run/secrets/kubernetes.io/serviceaccount"
    assert path in mounted(objects, "tokens")
    assert path not in mounted(objects, "registry")
    assert objects["Deployment"]["spec"]["template"]["spec"]["automountServiceAccountToken"] is False
    [data] = [m for m in container(objects, "tokens")["volumeMounts"] if m["name"] == "data"]
    assert data["readOnly"] is True
    [rule] = objects["ClusterRole"]["rules"]
    assert rule == {"apiGroups": ["labcluster.internal"], "resources": ["projects"], "verbs": ["get", "list"]}
