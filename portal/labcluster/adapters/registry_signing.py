"""The key of the registry's tokens and of the logins that its token service hands out (JSON Web Tokens)."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

_ALGORITHM = "ES256"
_LOGIN_TYPE = "registry-login+jwt"


class TokenSigner:
    """Implements `services.registry_tokens.Signer` with a P-256 key in two PEM files."""

    def __init__(self, key_file: Path, certificate_file: Path) -> None:
        self._key = ECKey.import_key(key_file.read_bytes())
        certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
        # The registry finds the key by this certificate, which it has been given as its only root.
        self._chain = [base64.b64encode(certificate.public_bytes(Encoding.DER)).decode()]

    def sign(self, claims: Mapping[str, Any]) -> str:
        """A token that the registry believes."""
        return self._encode({"alg": _ALGORITHM, "typ": "JWT", "x5c": self._chain}, claims)

    def sign_login(self, claims: Mapping[str, Any]) -> str:
        """A token that only `read_login` believes: it names no certificate."""
        return self._encode({"alg": _ALGORITHM, "typ": _LOGIN_TYPE}, claims)

    def read_login(self, token: str) -> dict[str, Any] | None:
        """The claims of a login of ours, else None; what they mean is for the caller to check."""
        try:
            decoded = jwt.decode(token, self._key, algorithms=[_ALGORITHM])
        except (JoseError, ValueError):
            return None
        return dict(decoded.claims) if decoded.header.get("typ") == _LOGIN_TYPE else None

    def _encode(self, header: dict[str, Any], claims: Mapping[str, Any]) -> str:
        return jwt.encode(header, dict(claims), self._key, algorithms=[_ALGORITHM])
