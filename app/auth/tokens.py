"""Access tokens, RFC 9068: issued for a client, and verified again at the door."""

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jwt

from app.auth.keys import ALGORITHM, SigningKey
from app.auth.principal import Principal
from app.errors import Forbidden, Unauthorized

AUDIENCE = "flows"
TOKEN_TYPE = "at+jwt"  # noqa: S105  (RFC 9068 §2.1)
LIFETIME_SECONDS = 3600
TENANT_ROLES = frozenset({"flows", "public_backend"})
ROLES = TENANT_ROLES | {"grafanareader"}


@dataclass(frozen=True, slots=True)
class Grant:
    """What a token is to allow, and to whom."""

    client_id: str
    role: str
    esco: uuid.UUID | None
    esco_code: str | None
    scopes: tuple[str, ...]


def issue(key: SigningKey, issuer: str, grant: Grant, *, seconds: int = LIFETIME_SECONDS) -> str:
    """Return a signed token for `grant`; without `write` it reads only, whatever its client may."""
    now = int(time.time())
    role = "public_backend" if grant.role == "flows" and "write" not in grant.scopes else grant.role
    claims: dict[str, Any] = {
        "iss": issuer,
        "aud": AUDIENCE,
        "sub": grant.client_id,
        "client_id": grant.client_id,
        "role": role,
        "scope": " ".join(grant.scopes),
        "jti": str(uuid.uuid4()),
        "iat": now,
        "nbf": now,
        "exp": now + seconds,
    }
    if grant.esco:
        claims |= {"esco": str(grant.esco), "esco_code": grant.esco_code}
    headers = {"kid": key.kid, "typ": TOKEN_TYPE}
    return jwt.encode(claims, key.private, algorithm=ALGORITHM, headers=headers)


class TokenVerifier:
    """Checks a token against the known keys; one algorithm, whatever the token's header says."""

    def __init__(self, keys: Mapping[str, SigningKey], issuer: str) -> None:
        self._keys = {kid: key.private.public_key() for kid, key in keys.items()}
        self._issuer = issuer

    def verify(self, token: str) -> Principal:
        """Return the caller; Unauthorized for a bad token, Forbidden for one without an ESCO."""
        try:
            header = jwt.get_unverified_header(token)
            if str(header.get("typ", "")).lower() != TOKEN_TYPE or "crit" in header:
                raise Unauthorized("This is not an access token of this service.")
            key = self._keys.get(str(header.get("kid")))
            if key is None:
                raise Unauthorized("The token is signed with a key that is not known.")
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[ALGORITHM],
                audience=AUDIENCE,
                issuer=self._issuer,
                options={"require": ["exp", "iat", "iss", "aud", "jti", "client_id", "role"]},
            )
        except jwt.PyJWTError as error:
            raise Unauthorized(f"The token is not valid: {error}.") from error
        role = claims["role"]
        if role not in ROLES:
            raise Forbidden("The token's role has no access here.")
        return Principal(
            role=role,
            esco=_esco(claims) if role in TENANT_ROLES else None,
            esco_code=claims.get("esco_code"),
            client_id=claims["client_id"],
            scopes=frozenset(str(claims.get("scope", "")).split()),
            token_id=claims["jti"],
            expires_at=claims["exp"],
            claims=claims,
        )


def _esco(claims: dict[str, Any]) -> uuid.UUID:
    try:
        return uuid.UUID(claims["esco"])
    except (KeyError, ValueError, AttributeError, TypeError):
        raise Forbidden("The token names no ESCO.") from None
