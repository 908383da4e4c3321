"""The state that decides whether a token is valid: known keys, revocations, disabled clients.

Every gateway process keeps a copy of the database's state. It reloads the copy on NOTIFY and every
second, in case a notification was lost. A copy older than `STALE_SECONDS` validates no token.
Whoever may log in to the database may notify, so many notifications are one reload.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from psycopg.rows import DictRow, dict_row
from psycopg.types.json import Jsonb

from app.auth.keys import SigningKey, read_public_key
from app.errors import Unavailable

logger = logging.getLogger(__name__)

STALE_SECONDS = 5.0
POLL_SECONDS = 1.0
GATHER_SECONDS = 0.1  # from a reload to the next
PUBLISH_SECONDS = 10  # least time from a key's publication to its first signature

QUERY = """
    select
        (select coalesce(jsonb_agg(jsonb_build_object(
            'kid', kid, 'public_jwk', public_jwk,
            'signs_in', extract(epoch from signs_from - clock_timestamp())
        ) order by signs_from), '[]') from gateway.signing_key
        where verifies_until is null or verifies_until > now()) as keys,
        (select coalesce(array_agg(kid), '{}') from gateway.signing_key) as published,
        (select coalesce(array_agg(jti), '{}') from gateway.revoked_token
        where expires_at > now() - interval '5 minutes') as revoked,
        (select coalesce(array_agg(id), '{}') from gateway.client
        where disabled_at is not null or expires_at <= now()) as clients,
        -- Tokens of people end after 15 minutes: those disabled an hour ago have none left.
        (select coalesce(array_agg(id), '{}') from (
            select id from gateway.member where disabled_at > now() - interval '1 hour'
            union all select id from gateway.app where disabled_at > now() - interval '1 hour'
        ) as people) as members,
        (select coalesce(array_agg(esco::text), '{}') from gateway.disabled_esco) as escos,
        (select key from gateway.shared_secret) as secret
"""


@dataclass(frozen=True, slots=True)
class AuthState:
    """A copy of the database's state: public JWKs by kid, revocations, disabled clients and ESCOs.

    `members` are disabled people and apps, `secret` is a key of all gateways and no caller.
    `damaged` are the kids of keys whose rows cannot be used; the others are in `keys`.
    `signs_from` is in seconds of this process's monotonic clock. It is computed from the delay that
    the database returns, so that the clocks of machines do not matter.
    """

    loaded_at: float
    keys: dict[str, dict[str, Any]] = field(default_factory=dict)
    signs_from: dict[str, float] = field(default_factory=dict)
    damaged: frozenset[str] = frozenset()
    published: frozenset[str] = frozenset()
    revoked: frozenset[str] = frozenset()
    clients: frozenset[str] = frozenset()
    members: frozenset[str] = frozenset()
    escos: frozenset[str] = frozenset()
    secret: bytes = b""

    @property
    def fresh(self) -> bool:
        """True if the copy is recent enough to validate tokens."""
        return time.monotonic() - self.loaded_at < STALE_SECONDS


NOTHING_KNOWN = AuthState(loaded_at=float("-inf"))


async def load_state(connection: psycopg.AsyncConnection[DictRow]) -> AuthState:
    """Read the state; its age counts from before the query."""
    now = time.monotonic()
    row = await (await connection.execute(QUERY)).fetchone()
    assert row is not None  # noqa: S101  (the query returns exactly one row)
    answered = time.monotonic()
    usable = [key for key in row["keys"] if read_public_key(key["kid"], key["public_jwk"])]
    keys = {key["kid"]: key["public_jwk"] for key in usable}
    return AuthState(
        loaded_at=now,
        keys=keys,
        # Count from after the query: a key may sign a moment late, but never too early.
        signs_from={key["kid"]: answered + float(key["signs_in"]) for key in usable},
        damaged=frozenset(key["kid"] for key in row["keys"]) - keys.keys(),
        published=frozenset(row["published"]),
        revoked=frozenset(row["revoked"]),
        clients=frozenset(row["clients"]),
        members=frozenset(row["members"]),
        escos=frozenset(row["escos"]),
        secret=row["secret"],
    )


async def follow_state(
    database_url: str, keys: Callable[[], list[SigningKey]], update: Callable[[AuthState], None]
) -> None:
    """Keep the state fresh until cancelled, on a separate connection that no busy pool can delay.

    Keys of this installation that the database does not know are published. If there are no others,
    they sign at once, else only after every gateway has had time to load them.
    """
    damaged: frozenset[str] = frozenset()
    while True:
        try:
            async with await psycopg.AsyncConnection.connect(
                database_url,
                autocommit=True,
                row_factory=dict_row,
                application_name="flows-gateway tokens",
                connect_timeout=3,
            ) as connection:
                await connection.execute("listen flows_tokens")
                while True:
                    async with asyncio.timeout(STALE_SECONDS):
                        state = await load_state(connection)
                        # Retired keys are in `published` too: their files may still exist.
                        if missing := [k for k in keys() if k.kid not in state.published]:
                            await publish(connection, missing)
                            state = await load_state(connection)
                    if state.damaged != damaged:
                        damaged = state.damaged
                        _report_damage(damaged)
                    update(state)
                    await asyncio.sleep(GATHER_SECONDS)
                    with suppress(TimeoutError):
                        async for _ in connection.notifies(timeout=POLL_SECONDS, stop_after=1):
                            pass
        except (psycopg.Error, TimeoutError, OSError) as error:
            logger.warning("keys and revocations cannot be read: %s", str(error).strip())
            await asyncio.sleep(POLL_SECONDS)


def _report_damage(kids: frozenset[str]) -> None:
    for kid in sorted(kids):
        logger.error("the row of the signing key %s is damaged: it is not used until repaired", kid)
    if not kids:
        logger.warning("the rows of all signing keys are intact again")


async def publish(
    connection: psycopg.AsyncConnection[Any],
    keys: list[SigningKey],
    seconds: int = PUBLISH_SECONDS,
) -> None:
    """Publish the public keys in the database, `seconds` before the private ones sign tokens."""
    for key in keys:
        await connection.execute(
            "insert into gateway.signing_key (kid, public_jwk, signs_from)"
            " select %s, %s, now() + case when exists (select from gateway.signing_key"
            " where verifies_until is null) then make_interval(secs => %s)"
            " else interval '0' end on conflict do nothing",
            (key.kid, Jsonb(key.public_jwk), seconds),
        )


def publish_keys(admin_url: str, keys: list[SigningKey]) -> None:
    """Publish keys from a program without an event loop."""

    async def published() -> None:
        async with await psycopg.AsyncConnection.connect(admin_url) as connection:
            await publish(connection, keys)

    asyncio.run(published())


class Keyring:
    """The private keys of this installation; chooses the one that signs."""

    def __init__(self, keys: list[SigningKey]) -> None:
        self._keys = {key.kid: key for key in keys}
        self._state = NOTHING_KNOWN
        self._public: list[RSAPublicKey] = []
        self._cipher: AESSIV | None = None

    def add(self, keys: list[SigningKey]) -> None:
        """Add keys; a key whose file was deleted keeps signing until it is retired."""
        self._keys |= {key.kid: key for key in keys}

    def update(self, state: AuthState) -> None:
        """Replace the state with a newer copy."""
        if state.keys != self._state.keys:
            read = (read_public_key(kid, jwk) for kid, jwk in state.keys.items())
            self._public = [key for key in read if key]
        if state.secret != self._state.secret:
            self._cipher = AESSIV(state.secret)
        self._state = state

    @property
    def damaged(self) -> frozenset[str]:
        """The kids of published keys whose rows cannot be used."""
        return self._state.damaged

    def sign(self, data: bytes) -> bytes:
        """Return a signature that every gateway can verify; Unavailable as `current`."""
        return self.current().private.sign(data, PKCS1v15(), SHA256())

    @property
    def signature_bytes(self) -> set[int]:
        """The lengths that signatures may have."""
        return {key.key_size // 8 for key in self._public}

    def verify(self, data: bytes, signature: bytes) -> bool:
        """Return whether a gateway has signed the data, with a key that still verifies."""
        for key in self._public:
            with suppress(InvalidSignature):
                key.verify(signature, data, PKCS1v15(), SHA256())
                return True
        return False

    def seal(self, data: bytes, purpose: bytes) -> bytes:
        """Return data encrypted for every gateway and no caller: the same for the same data.

        Its first 16 bytes tell of the data whether they are the same, and nothing else.
        """
        if self._cipher is None:
            raise Unavailable("There is no key to encrypt with yet.")
        return self._cipher.encrypt(data, [purpose])

    def unseal(self, sealed: bytes, purpose: bytes) -> bytes | None:
        """Return what a gateway has sealed for a purpose; None for anything else."""
        if self._cipher is not None:
            with suppress(InvalidTag):
                return self._cipher.decrypt(sealed, [purpose])
        return None

    @property
    def private(self) -> list[SigningKey]:
        """The private keys of this installation."""
        return list(self._keys.values())

    @property
    def public(self) -> list[dict[str, Any]]:
        """The public JWKs of all keys that verify tokens, those of other installations included."""
        return list(self._state.keys.values())

    def current(self) -> SigningKey:
        """Return the newest private key that all verifiers have loaded; Unavailable if none."""
        now = time.monotonic()
        ready = [
            (signs_from, kid)
            for kid, signs_from in self._state.signs_from.items()
            if kid in self._keys and signs_from <= now
        ]
        if not ready:
            raise Unavailable("There is no key to sign tokens with yet.")
        return self._keys[max(ready)[1]]
