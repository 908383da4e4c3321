"""Verifying tokens of trusted issuers: their keys, fetched and cached, and their claims."""

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from pydantic import SecretStr

from app.auth.issuers import Issuer
from app.auth.outbound import FetchError, Outbound

logger = logging.getLogger(__name__)

KEYS_FRESH_SECONDS = 600.0  # age at which keys are fetched again
KEYS_KEPT_SECONDS = 3600.0  # age to which keys are used while the issuer does not answer
REFETCH_SECONDS = 10.0  # between fetches for a key that is unknown, or after one that failed
CLOCK_TOLERANCE = 30  # seconds
MOST_ISSUER_KEYS = 50
LONGEST_SUBJECT = 255
LEAST_RSA_BITS = 2048
HMAC_ALGORITHM = "HS256"
CURVES: dict[str, tuple[str, ...]] = {
    "P-256": ("ES256",),
    "P-384": ("ES384",),
    "P-521": ("ES512",),
    "Ed25519": ("EdDSA",),
}
RSA_ALGORITHMS = ("RS256", "RS384", "RS512")
TIME_CLAIMS = ("exp", "iat", "nbf")


class SubjectTokenError(Exception):
    """The token is refused; the text says why."""


class IssuerUnavailableError(Exception):
    """The keys of the issuer cannot be had right now."""


@dataclass(slots=True)
class IssuerKeys:
    """The keys of an issuer, and when they were fetched; times are monotonic, in seconds.

    `loaded` are those that tokens were signed with, as loading one takes as long as verifying.
    """

    fetched_at: float = float("-inf")
    tried_at: float = float("-inf")
    keys: list[dict[str, Any]] = field(default_factory=list)
    loaded: dict[tuple[str, str], tuple[Any, str]] = field(default_factory=dict)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def replace(self, keys: list[dict[str, Any]]) -> None:
        """Take keys that were fetched now in place of those before."""
        self.keys, self.loaded, self.fetched_at = keys, {}, time.monotonic()

    def choose(self, header: dict[str, Any]) -> tuple[Any, str] | None:
        """Return what `choose_key` returns."""
        named = str(header.get("kid")), str(header.get("alg"))
        found = self.loaded.get(named) or choose_key(self.keys, header)
        if found is not None:
            self.loaded[named] = found
        return found


class IdentityVerifier:
    """Verifies the tokens of people with the keys of the issuer that is registered for them."""

    def __init__(self, outbound: Outbound, secrets: Mapping[str, SecretStr]) -> None:
        self._outbound = outbound
        self._secrets = secrets
        self._known: dict[tuple[str, str | None], IssuerKeys] = {}

    async def verify(self, issuer: Issuer, token: str) -> dict[str, Any]:
        """Return the claims of a token of this issuer.

        SubjectTokenError if it is not valid, IssuerUnavailableError if its keys cannot be fetched.
        """
        try:
            header = jwt.get_unverified_header(token)
        except jwt.PyJWTError:
            raise SubjectTokenError("It is not a JWT.") from None
        if "crit" in header:
            raise SubjectTokenError("It has an extension that is not understood.")
        key, algorithm = await self._key(issuer, header)
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=list(issuer.audiences),
                issuer=issuer.url,
                leeway=CLOCK_TOLERANCE,
                options={"require": ["exp", "iat", "iss", "aud", "sub"]},
            )
        except jwt.PyJWTError as error:
            raise SubjectTokenError(f"It is not valid: {error}.") from None
        subject = claims["sub"]
        if not isinstance(subject, str) or not 1 <= len(subject) <= LONGEST_SUBJECT:
            raise SubjectTokenError("Its sub is not a short text.")
        if "\x00" in subject or any(isinstance(claims.get(name), str) for name in TIME_CLAIMS):
            raise SubjectTokenError("A claim has the wrong type.")
        for name, value in issuer.claims.items():
            if claims.get(name) != value:
                raise SubjectTokenError(f"Its claim {name} is not the one required.")
        return claims

    async def _key(self, issuer: Issuer, header: dict[str, Any]) -> tuple[Any, str]:
        """Return the key that a token must be signed with, and the one algorithm allowed for it."""
        algorithm = header.get("alg")
        if issuer.secret_name is not None:
            secret = self._secrets.get(issuer.secret_name)
            if secret is None:
                logger.error(
                    "FLOWS_ISSUERS_HMAC_SECRETS has no secret for the issuer %s", issuer.url
                )
                raise IssuerUnavailableError
            if algorithm != HMAC_ALGORITHM:
                raise SubjectTokenError("Its algorithm is not that of the issuer.")
            return secret.get_secret_value(), HMAC_ALGORITHM
        known = self._known.setdefault((issuer.url, issuer.jwks_uri), IssuerKeys())
        now = time.monotonic()
        if now - known.fetched_at > KEYS_FRESH_SECONDS:
            await self._refresh(issuer, known)
        found = known.choose(header)
        if found is None:
            # The issuer may have begun to sign with a new key.
            await self._refresh(issuer, known)
            found = known.choose(header)
        if time.monotonic() - known.fetched_at > KEYS_KEPT_SECONDS:
            raise IssuerUnavailableError
        if found is None:
            raise SubjectTokenError("It is signed with a key or algorithm that the issuer has not.")
        return found

    async def _refresh(self, issuer: Issuer, known: IssuerKeys) -> None:
        """Fetch the keys, unless that was tried a moment ago; those known stay if it fails."""
        async with known.lock:
            if time.monotonic() - known.tried_at < REFETCH_SECONDS:
                return
            try:
                known.replace(await self._fetch(issuer))
            except FetchError as error:
                logger.warning("the keys of the issuer %s are not renewed: %s", issuer.url, error)
            finally:
                known.tried_at = time.monotonic()

    async def _fetch(self, issuer: Issuer) -> list[dict[str, Any]]:
        uri: Any = issuer.jwks_uri
        if uri is None:
            place = f"{issuer.url.rstrip('/')}/.well-known/openid-configuration"
            described = await self._outbound.fetch(place)
            if described.get("issuer") != issuer.url:
                raise FetchError("its discovery document is of another issuer")
            uri = described.get("jwks_uri")
        if not isinstance(uri, str):
            raise FetchError("its discovery document names no keys")
        keys = (await self._outbound.fetch(uri)).get("keys")
        if not isinstance(keys, list) or not 1 <= len(keys) <= MOST_ISSUER_KEYS:
            raise FetchError("it has no keys, or too many")
        return [key for key in keys if isinstance(key, dict)]


def choose_key(keys: list[dict[str, Any]], header: dict[str, Any]) -> tuple[Any, str] | None:
    """Return the key that the header of a token names and its algorithm; None if none fits.

    The kind of key decides which algorithms are allowed, never the header alone.
    """
    kid, algorithm = header.get("kid"), header.get("alg")
    fitting = [
        key
        for key in keys
        if (kid is None or key.get("kid") == kid)
        and algorithm in allowed_algorithms(key)
        and key.get("use", "sig") == "sig"
    ]
    if len(fitting) != 1:
        return None
    try:
        found = jwt.PyJWK(fitting[0], str(algorithm)).key
    except (jwt.PyJWTError, ValueError, TypeError):
        return None
    if isinstance(found, RSAPublicKey) and found.key_size < LEAST_RSA_BITS:
        return None
    # A private key that was published by mistake verifies nothing.
    return None if hasattr(found, "private_numbers") else (found, str(algorithm))


def allowed_algorithms(jwk: dict[str, Any]) -> tuple[str, ...]:
    """Return the algorithms for which a public JWK may be used."""
    allowed: tuple[str, ...] = ()
    if jwk.get("kty") == "RSA":
        allowed = RSA_ALGORITHMS
    elif jwk.get("kty") in ("EC", "OKP"):
        allowed = CURVES.get(str(jwk.get("crv")), ())
    named = jwk.get("alg")
    return allowed if named is None else tuple(each for each in allowed if each == named)
