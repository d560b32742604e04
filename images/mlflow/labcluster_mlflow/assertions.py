"""The portal's word for who sends a request: a token of a minute (JSON Web Token, Ed25519)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

#: The header that carries it.
HEADER = b"x-lab-assertion"

_ALGORITHM = "Ed25519"
_ISSUER = "portal"
_AUDIENCE = "mlflow"
# No longer than the portal makes them, whatever they say; and how far two clocks may differ.
_LIFE_SECONDS = 60
_CLOCKS_SECONDS = 10
# People by their name; the cluster's own programs have a colon in theirs, which no person can have.
_SUBJECT = re.compile(r"(labcluster:)?[a-z][a-z0-9._-]{0,62}")
_PROJECT = re.compile(r"[a-z][a-z0-9-]{0,38}[a-z0-9]")


@dataclass(frozen=True)
class Passage:
    """Who may do something, and in which project."""

    user: str
    project: str

    @property
    def account(self) -> str:
        """MLflow's account for this person in this project: it never has a right in another."""
        return f"{self.user}@{self.project}"


class Assertions:
    """Reads them with the portal's public key, which cannot make any."""

    def __init__(self, public_key_file: Path) -> None:
        key = OKPKey.import_key(public_key_file.read_bytes())
        if key.is_private or key.curve_name != "Ed25519":
            raise ValueError(f"{public_key_file} must hold the public half of an Ed25519 key")
        self._key = key
        essential = {"essential": True}
        self._rules = jwt.JWTClaimsRegistry(
            None,
            _CLOCKS_SECONDS,
            iss={"essential": True, "value": _ISSUER},
            aud={"essential": True, "value": _AUDIENCE},
            iat=essential,
            exp=essential,
        )

    def read(self, token: str) -> Passage | None:
        """What a good assertion says; None for any other text."""
        try:
            claims = jwt.decode(token, self._key, algorithms=[_ALGORITHM]).claims
            self._rules.validate(claims)
            user, project = str(claims.get("sub")), str(claims.get("prj"))
            lives = claims["exp"] - claims["iat"] <= _LIFE_SECONDS
        except (JoseError, ValueError, TypeError):
            return None
        if not (lives and _SUBJECT.fullmatch(user) and _PROJECT.fullmatch(project)):
            return None
        return Passage(user, project)
