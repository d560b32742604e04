"""Dex, for the portal: who a token is about, and the browser's login by the authorization code flow.

Dex is reached by its Service while its tokens name it as browsers do, so its paths are known, not discovered.
Keys are kept, and go on being used while Dex is away: only a portal that has just started needs it.
"""

from __future__ import annotations

import logging
import ssl
import threading
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import httpx
from authlib.common.security import generate_token
from authlib.integrations.base_client import OAuthError
from authlib.integrations.requests_client import OAuth2Session
from joserfc import jwt
from joserfc.errors import ExpiredTokenError, InvalidKeyIdError, JoseError
from joserfc.jwk import KeySet
from joserfc.jwt import ClaimsOption
from requests.exceptions import RequestException

from labcluster.errors import NotAuthenticatedError, UnreachableError
from labcluster.models.callers import BrowserLogin, TokenOwner

log = logging.getLogger(__name__)

_ALGORITHMS = ["RS256"]
_CLOCKS_SECONDS = 30
_KEYS_SECONDS = 3600.0
# How soon Dex is asked again for keys that it did not give or that did not help.
_AGAIN_SECONDS = 10.0
_SCOPE = "openid profile groups"


class DexTokens:
    """Implements `services.authentication.TokenVerifier`."""

    def __init__(self, issuer: str, url: str, ca_file: Path, *, timeout: float = 3.0) -> None:
        self._issuer = issuer
        self._url = url
        self._ca_file = ca_file
        self._timeout = timeout
        self._lock = threading.Lock()
        self._kept: KeySet | None = None
        self._kept_at = 0.0
        self._tried_at: float | None = None

    def owner(self, token: str, audiences: Collection[str], nonce: str | None = None) -> TokenOwner:
        """Whom Dex made a token for, if it is good now and meant for one of the audiences."""
        try:
            try:
                found = jwt.decode(token, self._keys(), _ALGORITHMS)
            except InvalidKeyIdError:  # Dex may sign with a new key
                found = jwt.decode(token, self._keys(newer=True), _ALGORITHMS)
            rules: dict[str, ClaimsOption] = {
                "iss": {"essential": True, "value": self._issuer},
                "aud": {"essential": True, "values": list(audiences)},
                "exp": {"essential": True},
                "preferred_username": {"essential": True},
            }
            if nonce is not None:
                rules["nonce"] = {"essential": True, "value": nonce}
            jwt.JWTClaimsRegistry(None, _CLOCKS_SECONDS, **rules).validate(found.claims)
        except ExpiredTokenError:
            raise NotAuthenticatedError("the token has expired: labctl login") from None
        except (JoseError, ValueError) as error:
            raise NotAuthenticatedError(f"the token is not good here ({error}): labctl login") from None
        return TokenOwner(str(found.claims["preferred_username"]))

    def _keys(self, *, newer: bool = False) -> KeySet:
        # Who has keys does not wait for somebody else who fetches.
        if self._lock.acquire(blocking=self._kept is None or newer):
            try:
                now = time.monotonic()
                due = self._kept is None or newer or now - self._kept_at > _KEYS_SECONDS
                if due and (self._tried_at is None or now - self._tried_at > _AGAIN_SECONDS):
                    self._fetch()
                    self._tried_at = time.monotonic()
            finally:
                self._lock.release()
        if self._kept is None:
            raise UnreachableError("the login service (Dex) does not answer, so no token can be checked")
        return self._kept

    def _fetch(self) -> None:
        try:
            trust = ssl.create_default_context(cafile=str(self._ca_file))
            answer = httpx.get(f"{self._url}/keys", verify=trust, timeout=self._timeout)
            answer.raise_for_status()
            self._kept = KeySet.import_key_set(answer.json())
            self._kept_at = time.monotonic()
        except (httpx.HTTPError, OSError, JoseError, ValueError, KeyError) as error:
            log.warning("no keys from %s: %s", self._url, error)


class DexLogins:
    """Implements `services.authentication.BrowserLogins`: code flow with PKCE, state and nonce."""

    def __init__(
        self,
        tokens: DexTokens,
        issuer: str,
        url: str,
        ca_file: Path,
        *,
        client_id: str,
        secret_file: Path,
        redirect_uri: str,
        timeout: float = 5.0,
    ) -> None:
        self._tokens = tokens
        self._issuer = issuer
        self._url = url
        self._ca_file = ca_file
        self._client_id = client_id
        self._secret_file = secret_file
        self._redirect_uri = redirect_uri
        self._timeout = timeout

    def begin(self) -> tuple[str, BrowserLogin]:
        """Where to send the browser, and what it must bring back."""
        login = BrowserLogin(state=generate_token(30), nonce=generate_token(30), verifier=generate_token(48))
        url, _ = self._session().create_authorization_url(
            f"{self._issuer}/auth", state=login.state, nonce=login.nonce, code_verifier=login.verifier
        )
        return str(url), login

    def finish(self, login: BrowserLogin, state: str, code: str) -> TokenOwner:
        """Who has logged in; NotAuthenticatedError if this is not the end of that beginning."""
        if not state or state != login.state:
            raise NotAuthenticatedError("this login was begun elsewhere or is too old: log in again")
        try:
            token: dict[str, Any] = self._session().fetch_token(
                f"{self._url}/token",
                code=code,
                code_verifier=login.verifier,
                verify=str(self._ca_file),
                timeout=self._timeout,
            )
        except OAuthError as error:
            raise NotAuthenticatedError(f"the login was not accepted ({error}): log in again") from None
        except (RequestException, ValueError) as error:
            log.warning("no token from %s: %s", self._url, error)
            raise UnreachableError("the login service (Dex) does not answer: try again in a minute") from None
        return self._tokens.owner(str(token.get("id_token", "")), [self._client_id], login.nonce)

    def _session(self) -> Any:
        return OAuth2Session(
            self._client_id,
            self._secret_file.read_text().strip(),
            scope=_SCOPE,
            redirect_uri=self._redirect_uri,
            code_challenge_method="S256",
        )
