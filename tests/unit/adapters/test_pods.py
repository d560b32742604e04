"""Tokens of pods: what the apiserver must have said before one counts."""

from __future__ import annotations

from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import OctKey
from labcluster.adapters.pods import KubePodTokens
from labcluster.errors import NotAuthenticatedError, NotFoundError, UnreachableError
from labcluster.models.callers import PodOwner

KEY = OctKey.generate_key(256)
POD, UID = "run-vision-1-x7", "0e7f"


class Cluster:
    """An apiserver that knows one token and one pod."""

    def __init__(self) -> None:
        self.reviews = 0
        self.away = False
        self.asked: list[dict[str, Any]] = []
        self.status: dict[str, Any] = {
            "authenticated": True,
            "audiences": ["labcluster"],
            "user": {
                "username": "system:serviceaccount:project-vision:default",
                "extra": {
                    "authentication.kubernetes.io/pod-name": [POD],
                    "authentication.kubernetes.io/pod-uid": [UID],
                },
            },
        }
        self.labels: dict[str, str] | None = {
            "labcluster.internal/user": "ada",
            "labcluster.internal/project": "vision",
        }
        self.uid = UID
        self.now = 0.0

    def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if self.away:
            raise UnreachableError("away")
        assert path == "/apis/authentication.k8s.io/v1/tokenreviews"
        self.asked.append(body["spec"])
        return {"status": self.status}

    def get(self, path: str) -> dict[str, Any]:
        if path != f"/api/v1/namespaces/project-vision/pods/{POD}" or self.labels is None:
            raise NotFoundError(path)
        return {"metadata": {"uid": self.uid, "labels": self.labels}}


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def tokens(cluster: Cluster) -> KubePodTokens:
    return KubePodTokens(cluster, clock=lambda: cluster.now)  # type: ignore[arg-type]


def test_pod_is_whose_its_labels_say(cluster: Cluster, tokens: KubePodTokens) -> None:
    assert tokens.owner("t") == PodOwner("ada", "vision")
    assert cluster.asked == [{"token": "t", "audiences": ["labcluster"]}]


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("authenticated",), False),
        (("audiences",), []),
        (("audiences",), ["https://kubernetes.default.svc"]),
        (("user", "username"), "system:serviceaccount:labcluster:labcluster-portal"),
        (("user", "username"), "system:serviceaccount:project-speech:default"),
        (("user", "username"), "ada"),
        (("user", "extra"), {}),
        (("user", "extra", "authentication.kubernetes.io/pod-uid"), ["another"]),
        (("user", "extra", "authentication.kubernetes.io/pod-name"), ["another"]),
    ],
)
def test_token_of_anything_else_is_refused(
    cluster: Cluster, tokens: KubePodTokens, place: tuple[str, ...], value: Any
) -> None:
    found = cluster.status
    for part in place[:-1]:
        found = found[part]
    found[place[-1]] = value
    with pytest.raises(NotAuthenticatedError):
        tokens.owner("t")


@pytest.mark.parametrize(
    "labels",
    [
        None,
        {},
        {"labcluster.internal/project": "vision"},
        {"labcluster.internal/user": "ada", "labcluster.internal/project": "speech"},
    ],
)
def test_pod_that_is_gone_or_nobodys_is_refused(
    cluster: Cluster, tokens: KubePodTokens, labels: dict[str, str] | None
) -> None:
    cluster.labels = labels
    with pytest.raises(NotAuthenticatedError):
        tokens.owner("t")


def test_verdict_good_or_bad_is_used_for_a_minute(cluster: Cluster, tokens: KubePodTokens) -> None:
    tokens.owner("t")
    cluster.status["authenticated"] = False
    assert tokens.owner("t") == PodOwner("ada", "vision")
    for _ in range(3):
        with pytest.raises(NotAuthenticatedError):
            tokens.owner("other")
    assert len(cluster.asked) == 2
    cluster.now = 61.0
    with pytest.raises(NotAuthenticatedError):
        tokens.owner("t")


def test_what_cannot_be_asked_is_no_verdict(cluster: Cluster, tokens: KubePodTokens) -> None:
    cluster.away = True
    with pytest.raises(UnreachableError):
        tokens.owner("t")
    cluster.away = False
    assert tokens.owner("t") == PodOwner("ada", "vision")


def test_tokens_of_pods_are_told_from_those_of_people(tokens: KubePodTokens) -> None:
    def made(claims: dict[str, Any]) -> str:
        return jwt.encode({"alg": "HS256"}, claims, KEY)

    assert tokens.recognises(made({"iss": "https://kubernetes", "kubernetes.io": {"pod": {}}}))
    assert not tokens.recognises(made({"iss": "https://dex", "preferred_username": "ada"}))
    for text in ("", "x", "a.b.c", "a.ew.c", "..", "a.W10.c"):
        assert not tokens.recognises(text)
