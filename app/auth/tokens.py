"""Access tokens (RFC 9068): issued to clients and verified with each request."""

import time
import uuid
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import jwt

from app.auth.keyring import NOTHING_KNOWN, AuthState
from app.auth.keys import ALGORITHM, SigningKey
from app.db.principal import RESIDENT, Principal
from app.errors import Forbidden, Unauthorized, Unavailable

AUDIENCE = "flows"
TOKEN_TYPE = "at+jwt"  # noqa: S105  (RFC 9068 §2.1)
LIFETIME_SECONDS = 3600
CLOCK_SECONDS = 30  # greatest difference of the clocks of issuer and verifier
CACHED_TOKENS = 10_000
TENANT_ROLES = frozenset({"flows", "public_backend"})
OWNED_ROLES = TENANT_ROLES | {RESIDENT}  # their tokens name an ESCO
OPERATOR = "operator"
NAMES = ("jti", "client_id", "role")  # claims that must be non-empty text
# No ESCO has this id: a token for it can read the schema but no rows.
NO_ESCO = uuid.UUID(int=0)
OWN_CLIENT = "flows-gateway"
OWN_SECONDS = 60
ROLES = OWNED_ROLES | {"grafanareader", OPERATOR}


def tenant_role(scopes: Collection[str]) -> str:
    """Return the database role that gives an ESCO's caller the rights of these scopes."""
    return "flows" if "write" in scopes else "public_backend"


@dataclass(frozen=True, slots=True)
class Grant:
    """The client, role, ESCO and scopes that a token is issued for.

    `member` is the person that it is for, if it is for one, and `acting` the id of another person
    who acts for that person.
    """

    client_id: str
    role: str
    esco: uuid.UUID | None
    esco_code: str | None
    scopes: tuple[str, ...]
    member: str | None = None
    acting: str | None = None


def issue(
    key: SigningKey,
    issuer: str,
    grant: Grant,
    *,
    seconds: int = LIFETIME_SECONDS,
    token_id: str | None = None,
) -> str:
    """Return a signed token for `grant`; without the scope `write` it is read-only."""
    now = int(time.time())
    role = tenant_role(grant.scopes) if grant.role == "flows" else grant.role
    claims: dict[str, Any] = {
        "iss": issuer,
        "aud": AUDIENCE,
        "sub": grant.member or grant.client_id,
        "client_id": grant.client_id,
        "role": role,
        "scope": " ".join(grant.scopes),
        "jti": token_id or str(uuid.uuid4()),
        "iat": now,
        "nbf": now,
        "exp": now + seconds,
    }
    if grant.esco:
        claims |= {"esco": str(grant.esco), "esco_code": grant.esco_code}
    if grant.acting:
        claims["act"] = {"sub": grant.acting}
    headers = {"kid": key.kid, "typ": TOKEN_TYPE}
    return jwt.encode(claims, key.private, algorithm=ALGORITHM, headers=headers)


def issue_own(key: SigningKey, issuer: str, role: str) -> str:
    """Return a short-lived token with which the gateway itself asks PostgREST; it reads no rows."""
    esco = NO_ESCO if role in OWNED_ROLES else None
    grant = Grant(OWN_CLIENT, role, esco, None, ("read", "write"))
    return issue(key, issuer, grant, seconds=OWN_SECONDS)


class TokenVerifier:
    """Verifies tokens with the known keys and a single algorithm, whatever their headers say.

    Verified tokens are cached; a cached token is only checked for expiry and for revocation of
    itself, its client or its ESCO.
    """

    def __init__(self, issuer: str) -> None:
        self._issuer = issuer
        self._state = NOTHING_KNOWN
        self._keys: dict[str, jwt.PyJWK] = {}
        self._good: OrderedDict[str, Principal] = OrderedDict()

    def update(self, state: AuthState) -> None:
        """Replace the state with a newer copy; if its keys differ, the cache is dropped."""
        if state.keys != self._state.keys:
            self._keys = {kid: jwt.PyJWK(jwk, ALGORITHM) for kid, jwk in state.keys.items()}
            self._good.clear()
        self._state = state

    @property
    def fresh(self) -> bool:
        """True if the state is recent enough to verify tokens."""
        return self._state.fresh

    def verify(self, token: str) -> Principal:
        """Return the caller of a valid token.

        Unauthorized for an invalid token, Forbidden for one without an ESCO or with a role that has
        no access, Unavailable if revocations have not been read for too long.
        """
        state = self._state
        if not state.fresh:
            raise Unavailable("Tokens cannot be checked right now.")
        caller = self._good.get(token)
        if caller is None:
            caller = self._check(token)
            self._good[token] = caller
            if len(self._good) > CACHED_TOKENS:
                self._good.popitem(last=False)
        elif caller.expires_at + CLOCK_SECONDS <= time.time():
            del self._good[token]
            raise Unauthorized("The token is not valid: it has expired.")
        if (
            caller.token_id in state.revoked
            or caller.client_id in state.clients
            or (state.members and not state.members.isdisjoint(caller.people))
            or caller.tenant in state.escos
        ):
            raise Unauthorized("The token is no longer valid.")
        return caller

    def _check(self, token: str) -> Principal:
        try:
            header = jwt.get_unverified_header(token)
            if str(header.get("typ", "")).lower() != TOKEN_TYPE or "crit" in header:
                raise Unauthorized("This is not an access token of this service.")
            key = self._keys.get(str(header.get("kid")))
            if key is None and str(header.get("kid")) in self._state.damaged:
                raise Unavailable("The key of the token cannot be read right now.")
            if key is None:
                raise Unauthorized("The token is signed with an unknown key.")
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[ALGORITHM],
                audience=AUDIENCE,
                issuer=self._issuer,
                leeway=CLOCK_SECONDS,
                options={"require": ["exp", "iat", "iss", "aud", *NAMES]},
            )
        except jwt.PyJWTError as error:
            raise Unauthorized(f"The token is not valid: {error}.") from error
        if not all(claims[name] and isinstance(claims[name], str) for name in NAMES):
            raise Unauthorized("The token is not valid: a claim is not text.")
        # PyJWT accepts numbers in quotes, too; PostgREST does not, and we compute with them.
        if any(isinstance(claims.get(name), str) for name in ("exp", "iat", "nbf")):
            raise Unauthorized("The token is not valid: a time is not a number.")
        role = claims["role"]
        if role not in ROLES:
            raise Forbidden("The token's role has no access here.")
        return Principal(
            role=role,
            esco=_esco(claims) if role in OWNED_ROLES else None,
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
