"""Random requests through the real apiserver: nothing that is accepted runs under foreign ids.

`--examples` says how many; `make fuzz` asks for ten times as many as `make test`, and never for the same.
"""

from __future__ import annotations

import http.client
import json
import re
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import oracle
import pytest
from generated import Request, requests
from hypothesis import HealthCheck, Phase, given, settings
from labcluster.adapters.kube import KubeApi
from members import JOB_CONTROLLER, pod

from tests import attacks

PODS = "/api/v1/namespaces/project-vision/pods"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"


class Client:
    """One kept-alive connection: a tenth of the official client's time for a request."""

    def __init__(self, api: KubeApi) -> None:
        configuration = api._client.configuration
        context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
        self._connection = http.client.HTTPSConnection(
            urlsplit(configuration.host).netloc, context=context, timeout=30
        )
        self._token = configuration.api_key["authorization"]

    def close(self) -> None:
        """Hang up."""
        self._connection.close()

    def send(self, request: Request) -> tuple[int, dict[str, Any]]:
        """The status and the answer of a dry run."""
        method, path, body, kind = "POST", "", request.item, "application/json"
        if request.ephemeral is None:
            path = attacks.collection(request.item)
        else:
            method, path, kind = "PATCH", f"{PODS}/running/ephemeralcontainers", STRATEGIC
            body = {"spec": {"ephemeralContainers": request.ephemeral}}
        headers = {"Authorization": self._token, "Content-Type": kind, "Accept": "application/json"}
        if request.user is not None:
            headers["Impersonate-User"] = request.user
            if request.group is not None:
                headers["Impersonate-Group"] = request.group
        self._connection.request(method, f"{path}?dryRun=All", json.dumps(body), headers)
        response = self._connection.getresponse()
        return response.status, json.loads(response.read())


@pytest.fixture
def connection(lab: KubeApi) -> Iterator[Client]:
    """A connection of the test's own."""
    found = Client(lab)
    yield found
    found.close()


@pytest.fixture
def running(lab: KubeApi) -> Any:
    """A pod of ada's that ephemeral containers can be put into."""
    lab.create(PODS, pod({"metadata.name": "running"}), user=JOB_CONTROLLER)
    yield
    lab.delete(f"{PODS}/running")


def search(connection: Client, examples: int, phases: tuple[Phase, ...]) -> tuple[Counter[str], Counter[str]]:
    """Send random requests; what was answered, by kind and by rule. AssertionError where one escapes."""
    answers: Counter[str] = Counter()
    rules: Counter[str] = Counter()

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=examples <= 1000,
        suppress_health_check=list(HealthCheck),
        phases=phases,
        report_multiple_bugs=False,
    )
    @given(requests())
    def check(asked: Request) -> None:
        status, answer = connection.send(asked)
        kind = "ephemeral containers" if asked.ephemeral else asked.item["kind"]
        if status in (200, 201):
            answers[kind] += 1
            found = (
                oracle.ephemeral_findings(answer) if asked.ephemeral else oracle.findings(answer, asked.user)
            )
            assert found == [], f"accepted for {asked.user} ({asked.group}): {json.dumps(asked.item)}"
        else:
            rule = re.search(r"\[([a-z]+/[a-z-]+)\]", answer.get("message", ""))
            rules[rule[1] if rule else "none"] += 1
            assert status in (400, 403, 404, 409, 422), answer

    check()
    return answers, rules


def test_nothing_that_is_accepted_runs_under_foreign_ids_or_with_forbidden_things(
    lab: KubeApi, running: None, connection: Client, request: pytest.FixtureRequest
) -> None:
    examples = request.config.getoption("--examples")
    answers, rules = search(connection, examples, (Phase.generate, Phase.shrink))
    accepted = answers.total()
    print(f"{accepted} of {accepted + rules.total()} accepted: {dict(answers)}; refused: {dict(rules)}")
    # It tells something only where both answers are given, to every kind and by nearly every rule.
    assert accepted >= examples / 10
    assert rules["none"] < examples / 4, "the schema refuses too much of what is generated"
    if examples >= 1000:
        assert len(rules) >= 25
        assert set(answers) >= {"Job", "Pod", "Service", "CronJob", "Deployment", "PodTemplate"}
        assert answers["ephemeral containers"]


POLICIES = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies"


@pytest.fixture
def without(lab: KubeApi) -> Iterator[Callable[[str], None]]:
    """Take a rule out of every policy; it is back afterwards."""
    before = {item["metadata"]["name"]: item["spec"] for item in lab.list(POLICIES)}

    def put(change: Callable[[Any], Any]) -> None:
        for name, spec in before.items():
            body = {"spec": {"validations": [change(rule) for rule in spec["validations"]]}}
            lab.request("PATCH", f"{POLICIES}/{name}", body=body, content_type=MERGE)
        time.sleep(2)

    def drop(name: str) -> None:
        put(lambda r: {**r, "expression": "true"} if f"[{name}]" in json.dumps(r, ensure_ascii=False) else r)

    yield drop
    put(lambda rule: rule)


@pytest.mark.parametrize("rule", ["identity/uid", "storage/sub-path"])
def test_search_finds_out_where_a_rule_is_missing(
    lab: KubeApi, running: None, connection: Client, without: Callable[[str], None], rule: str
) -> None:
    without(rule)
    with pytest.raises(AssertionError, match="accepted for"):
        search(connection, 4000, (Phase.generate,))
