"""What Dex is told: who may log in, for how long, and by which clients."""

from __future__ import annotations

from typing import Any

import pytest
import yaml


@pytest.fixture
def config(rendered: Any) -> dict[str, Any]:
    return yaml.safe_load(next(o for o in rendered("dex") if o["kind"] == "ConfigMap")["data"]["config.yaml"])


def test_state_is_in_kubernetes_whose_definitions_the_chart_brings(config: Any, rendered: Any) -> None:
    """Memory storage hangs at a refresh; and Dex needs no right to make definitions."""
    assert config["storage"] == {"type": "kubernetes", "config": {"inCluster": True, "crdHandling": "check"}}
    definitions = [item for item in rendered("dex") if item["kind"] == "CustomResourceDefinition"]
    assert len(definitions) == 12
    assert all(item["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep" for item in definitions)
    rules = next(item for item in rendered("dex") if item["kind"] == "Role")["rules"]
    assert [rule["apiGroups"] for rule in rules] == [["dex.coreos.com"]]


def test_probes_ask_for_the_keys(rendered: Any) -> None:
    """/healthz says 200 while the storage hangs."""
    pod = next(item for item in rendered("dex") if item["kind"] == "Deployment")["spec"]["template"]["spec"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert pod["containers"][0][probe]["httpGet"]["path"] == "/dex/keys"


def test_login_node_laptop_and_browser_are_clients_of_their_own(config: Any) -> None:
    """One refresh token for a user and client: a shared client would end the login elsewhere."""
    clients = {client["id"]: client for client in config["staticClients"]}
    assert set(clients) == {"labctl", "labctl-laptop", "portal"}
    assert (
        clients["labctl"]["redirectURIs"]
        == clients["labctl-laptop"]["redirectURIs"]
        == ["/dex/device/callback"]
    )
    assert clients["portal"]["redirectURIs"] == ["https://portal.lab.internal/login/callback"]
    assert "public" not in clients["portal"]


def test_passwords_come_by_the_environment(config: Any, rendered: Any) -> None:
    connector = config["connectors"][0]["config"]
    assert connector["bindPW"] == "$DEX_LDAP_PASSWORD"
    assert all("secret" not in client for client in config["staticClients"])
    pod = next(item for item in rendered("dex") if item["kind"] == "Deployment")["spec"]["template"]["spec"]
    given = {entry["name"]: entry["valueFrom"]["secretKeyRef"] for entry in pod["containers"][0]["env"]}
    assert given == {
        "DEX_LDAP_PASSWORD": {"name": "openldap-passwords", "key": "dex"},
        "DEX_PORTAL_SECRET": {"name": "dex-clients", "key": "portal"},
    }


def test_members_without_mail_log_in_and_disabled_ones_do_not(config: Any) -> None:
    search = config["connectors"][0]["config"]["userSearch"]
    assert search["emailSuffix"] == "lab.internal"
    assert "(!(shadowExpire=1))" in search["filter"]


def test_keys_live_long_and_tokens_short(config: Any) -> None:
    """The API server refuses tokens of a new key for minutes; nobody can take a token back before its end."""
    assert config["signer"]["config"]["keysRotationPeriod"] == "4320h"
    assert config["expiry"]["idTokens"] == "15m"
