"""Scopes as clients write them, and quotas while the apiserver is away."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from labcluster.errors import UnreachableError, UsageError
from labcluster.models.registry import Scope
from labcluster.services.registry_tokens import RegistryQuotas, parse_scopes


def test_scopes_may_be_given_apart_or_together() -> None:
    wanted = [
        Scope("repository", "vision/net", ("pull", "push")),
        Scope("repository", "common/base", ("pull",)),
    ]
    texts = [f"repository:{scope.name}:{','.join(scope.actions)}" for scope in wanted]
    assert parse_scopes(texts) == wanted
    assert parse_scopes([" ".join(texts)]) == wanted


def test_scope_without_actions_asks_for_nothing() -> None:
    assert parse_scopes(["repository:vision/net:"]) == []


@pytest.mark.parametrize(
    "text",
    [
        "repository", "repository:vision", ":vision:pull", "repository:../vision:pull",
        "repository:Vision:pull",
        "repository:vision//net:pull", "repository:vision/net:pull;push", "repository:/vision:pull",
        "repository:" + "a" * 256 + ":pull",
    ],
)  # fmt: skip
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no scope"):
        parse_scopes([text])


def test_too_many_scopes_are_refused() -> None:
    with pytest.raises(UsageError, match="at most 20"):
        parse_scopes([f"repository:vision/net{number}:pull" for number in range(21)])


def test_quotas_stay_while_the_apiserver_is_away() -> None:
    now, away = 0.0, False

    def read() -> Mapping[str, int]:
        if away:
            raise UnreachableError("the apiserver does not answer")
        return {"vision": 7}

    quotas = RegistryQuotas(lambda _: 0, read, seconds=30.0, clock=lambda: now)
    assert (quotas.quota("vision"), quotas.quota("speech")) == (7, None)
    now, away = 31.0, True
    assert quotas.quota("vision") == 7
