"""Tokens of Dex at the portal, and the browser's login: against a login service on loopback."""

from __future__ import annotations

import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey
from labcluster.adapters import oidc
from labcluster.adapters.oidc import DexLogins, DexTokens
from labcluster.errors import NotAuthenticatedError, UnreachableError
from labcluster.models.callers import BrowserLogin
from stand_in_dex import StandInDex

AUDIENCES = ["labctl", "labctl-laptop"]
NOW = int(time.time())


@pytest.fixture
def tokens(dex: StandInDex, certificate: tuple[Path, Path]) -> DexTokens:
    return DexTokens(dex.issuer, dex.issuer, certificate[0])


@pytest.fixture
def logins(dex: StandInDex, tokens: DexTokens, certificate: tuple[Path, Path], tmp_path: Path) -> DexLogins:
    secret = tmp_path / "secret"
    secret.write_text("s")
    return DexLogins(
        tokens,
        dex.issuer,
        dex.issuer,
        certificate[0],
        client_id="portal",
        secret_file=secret,
        redirect_uri="https://portal.test/login/callback",
    )


@pytest.mark.parametrize("audience", AUDIENCES)
def test_token_says_who_it_is_about(dex: StandInDex, tokens: DexTokens, audience: str) -> None:
    assert tokens.owner(dex.token("bo", audience), AUDIENCES).user == "bo"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"exp": NOW - 60}, "has expired"),
        ({"exp": None}, "exp"),
        ({"aud": "portal"}, "aud"),
        ({"aud": None}, "aud"),
        ({"iss": "https://elsewhere/dex"}, "iss"),
        ({"preferred_username": None}, "preferred_username"),
    ],
)
def test_token_for_another_time_place_or_nobody_is_refused(
    dex: StandInDex, tokens: DexTokens, changes: dict[str, object], says: str
) -> None:
    with pytest.raises(NotAuthenticatedError, match=says):
        tokens.owner(dex.token(**changes), AUDIENCES)  # type: ignore[arg-type]


def test_forged_tokens_are_refused(dex: StandInDex, tokens: DexTokens) -> None:
    good = dex.token()
    head, claims, signature = good.split(".")
    other = dex.token("bo").split(".")[1]
    stranger = RSAKey.generate_key(2048)
    made = [
        "",
        "nonsense",
        f"{head}.{other}.{signature}",
        f"{head}.{claims}.",
        jwt.encode({"alg": "RS256", "kid": dex.key.kid}, {"iss": dex.issuer, "aud": "labctl"}, stranger),
        # A shared secret instead of a key, and no signature at all.
        jwt.encode({"alg": "HS256", "kid": dex.key.kid}, {"iss": dex.issuer}, OctKey.generate_key(256)),
        "eyJhbGciOiJub25lIn0." + claims + ".",
    ]
    for token in made:
        with pytest.raises(NotAuthenticatedError):
            tokens.owner(token, AUDIENCES)
    assert tokens.owner(good, AUDIENCES).user == "ada"


def test_keys_are_fetched_once_and_outlive_dex(dex: StandInDex, tokens: DexTokens) -> None:
    token = dex.token()
    tokens.owner(token, AUDIENCES)
    dex.away = True
    assert tokens.owner(token, AUDIENCES).user == "ada"
    assert [path for path, _ in dex.asked] == ["/dex/keys"]


def test_without_any_keys_nobody_is_called_a_forger(dex: StandInDex, tokens: DexTokens) -> None:
    dex.away = True
    with pytest.raises(UnreachableError, match="Dex"):
        tokens.owner(dex.token(), AUDIENCES)


def test_a_new_key_is_asked_for_but_not_by_every_stranger(
    dex: StandInDex, tokens: DexTokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens.owner(dex.token(), AUDIENCES)
    dex.key = RSAKey.generate_key(2048, auto_kid=True)
    for _ in range(3):
        with pytest.raises(NotAuthenticatedError):
            tokens.owner(dex.token(), AUDIENCES)
    assert len(dex.asked) == 1
    monkeypatch.setattr(oidc, "_AGAIN_SECONDS", 0.0)
    assert tokens.owner(dex.token(), AUDIENCES).user == "ada"


def confirm(dex: StandInDex, url: str, user: str = "ada") -> tuple[str, str]:
    """What Dex's page does: the code and state that the browser brings back."""
    query = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    assert query["code_challenge_method"] == "S256"
    dex.codes["c1"] = {**query, "user": user}
    return query["state"], "c1"


def test_browser_login_ends_with_who_it_was(dex: StandInDex, logins: DexLogins) -> None:
    url, begun = logins.begin()
    assert url.startswith(f"{dex.issuer}/auth?")
    assert logins.finish(begun, *confirm(dex, url)).user == "ada"


def test_browser_login_is_bound_to_its_beginning(dex: StandInDex, logins: DexLogins) -> None:
    url, begun = logins.begin()
    state, code = confirm(dex, url)
    for stranger in (BrowserLogin("", "", ""), BrowserLogin("s", begun.nonce, begun.verifier)):
        with pytest.raises(NotAuthenticatedError, match="begun elsewhere"):
            logins.finish(stranger, state, code)
    for stranger in (
        BrowserLogin(state, begun.nonce, "another-verifier-of-sufficient-length-0123456789"),
        BrowserLogin(state, "another", begun.verifier),
    ):
        confirm(dex, url)
        with pytest.raises(NotAuthenticatedError):
            logins.finish(stranger, state, code)


def test_browser_login_without_dex_says_so(dex: StandInDex, logins: DexLogins) -> None:
    url, begun = logins.begin()
    state, code = confirm(dex, url)
    dex.away = True
    with pytest.raises((UnreachableError, NotAuthenticatedError)):
        logins.finish(begun, state, code)
