"""MLflow is reached by the portal alone, and knows no secret but its database's."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def objects(rendered: Any) -> dict[str, Any]:
    return {item["kind"]: item for item in rendered("mlflow")}


def pod(objects: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = objects["Deployment"]["spec"]["template"]["spec"]
    return spec


def test_only_the_portal_reaches_it_and_it_reaches_only_its_database(objects: dict[str, Any]) -> None:
    spec = objects["NetworkPolicy"]["spec"]

    def apps(peers: list[dict[str, Any]]) -> list[str]:
        return [peer["podSelector"]["matchLabels"]["app.kubernetes.io/name"] for peer in peers]

    [rule] = spec["ingress"]
    assert (apps(rule["from"]), [port["port"] for port in rule["ports"]]) == (["portal"], [5000])
    names, database = spec["egress"]
    assert {port["port"] for port in names["ports"]} == {53}
    assert (apps(database["to"]), [port["port"] for port in database["ports"]]) == (["postgresql"], [5432])


def test_it_has_no_address_outside_the_cluster_and_no_token(objects: dict[str, Any]) -> None:
    assert all("hostPort" not in port for c in pod(objects)["containers"] for port in c["ports"])
    assert pod(objects)["automountServiceAccountToken"] is False
    assert "type" not in objects["Service"]["spec"]


def test_it_knows_the_public_half_of_the_portals_key(objects: dict[str, Any], rendered: Any) -> None:
    volumes = {volume["name"]: volume for volume in pod(objects)["volumes"]}
    assert volumes["portal"] == {"name": "portal", "configMap": {"name": "mlflow-portal-key"}}
    secrets = {
        volume["secret"]["secretName"]: volume["secret"] for volume in volumes.values() if "secret" in volume
    }
    assert secrets.keys() == {"mlflow-tls", "postgresql-passwords"}
    assert [item["key"] for item in secrets["postgresql-passwords"]["items"]] == ["mlflow"]
    # And the portal's pods have the other half.
    for item in rendered("portal"):
        if item["kind"] == "Deployment":
            names = [
                v.get("secret", {}).get("secretName") for v in item["spec"]["template"]["spec"]["volumes"]
            ]
            assert "mlflow-signing" in names, item["metadata"]["name"]


def test_password_stands_in_no_command(objects: dict[str, Any]) -> None:
    for container in [*pod(objects)["initContainers"], *pod(objects)["containers"]]:
        [database] = [word for word in container["command"] if word.startswith("--database=")]
        assert database.startswith("--database=postgresql+psycopg2://mlflow@postgresql.")
        assert "sslmode=verify-full" in database


def test_artifacts_are_its_folder_of_the_tree(objects: dict[str, Any]) -> None:
    assert objects["PersistentVolume"]["spec"]["hostPath"]["path"] == "/lab/mlflow"
    assert pod(objects)["securityContext"]["runAsUser"] == 10106
