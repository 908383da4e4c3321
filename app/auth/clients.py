"""Clients, secrets, ESCOs, revocations and their audit log, all stored in the database.

Every function runs in the caller's transaction and writes its audit entry there, so that nothing
happens unrecorded. `Actor.esco` restricts a function to one ESCO's rows; None means all rows.
"""

import asyncio
import hashlib
import hmac
import re
import secrets
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, LiteralString

import psycopg
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from psycopg.rows import DictRow

from app.auth.tokens import Grant
from app.db.batch import fetch_rows
from app.db.session import Connection
from app.errors import Conflict, Forbidden, NotFound, Unprocessable
from app.settings import LimitsSettings

SECRET_PREFIX = "fls_"  # noqa: S105  (lets people and scanners recognise a leaked secret)
MOST_SECRETS = 2
LONGEST_NAME = 200

# Secrets are 256 random bits, which nobody finds by trying: a fast hash protects them as well as a
# slow one. Older gateways know only Argon2 hashes, so new secrets still get one, and secrets that
# have no digest yet are checked by it once. A hash names its own parameters, so the smallest do:
# with others, an ESCO's admin who creates clients keeps all cores busy.
_hasher = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)
# Compared with when a client is unknown or has one secret, so that each check does the same work.
_NO_DIGEST = bytes(32)

CLIENT = """
    select c.id, c.esco, e.code as esco_code, c.name, c.role, c.scopes, c.lifetime_seconds,
        c.created_at, c.last_used_at, c.expires_at, c.disabled_at,
        array(select jsonb_build_object('id', s.id, 'created_at', s.created_at)
            from gateway.client_secret as s where s.client = c.id order by s.created_at) as secrets
    from gateway.client as c left join gateway.escos() as e on e.id = c.esco
"""

Identity = Literal["client", "member", "resident", "app"]
MADE: Mapping[Identity, LiteralString] = {
    "client": "select count(*) as made from gateway.client where esco = %s",
    "member": "select count(*) as made from gateway.member where esco = %s and not resident",
    "resident": "select count(*) as made from gateway.member where esco = %s and resident",
    "app": "select count(*) as made from gateway.app where esco = %s",
}


@dataclass(frozen=True, slots=True)
class Actor:
    """The person or client that acts, with its address.

    `esco` is the ESCO whose rows it may read and change; None means all ESCOs. `scopes` are those
    that it may give to clients; None means any.
    """

    name: str
    address: str | None = None
    esco: uuid.UUID | None = None
    scopes: frozenset[str] | None = None

    def check_may_give(self, scopes: Iterable[str]) -> None:
        """Raise Forbidden unless the actor has all of these scopes itself."""
        if self.scopes is not None and (beyond := set(scopes) - self.scopes):
            raise Forbidden(f"Your token itself lacks the scope {' '.join(sorted(beyond))}.")


COMMAND_LINE = Actor("operator")


async def record(
    connection: Connection,
    actor: Actor,
    action: str,
    *,
    subject: str | None = None,
    detail: str | None = None,
    esco: uuid.UUID | None = None,
    outcome: str = "done",
) -> None:
    """Append an entry to the audit log; `subject` is an id, `detail` gives particulars."""
    await connection.execute(
        "insert into gateway.audit (actor, action, esco, subject, detail, address, outcome)"
        " values (%s, %s, %s, %s, %s, %s, %s)",
        (actor.name, action, esco or actor.esco, subject, detail, actor.address, outcome),
    )


async def list_clients(connection: Connection, actor: Actor) -> list[DictRow]:
    """Return the clients that the actor may manage, without any secrets, ordered by id."""
    cursor = await connection.execute(
        f"{CLIENT} where %(esco)s::uuid is null or c.esco = %(esco)s order by c.id",
        {"esco": actor.esco},
    )
    return await cursor.fetchall()


async def get_client(connection: Connection, actor: Actor, client_id: str) -> DictRow:
    """Return a client; NotFound if it does not exist or belongs to another ESCO."""
    cursor = await connection.execute(
        f"{CLIENT} where c.id = %(id)s and (%(esco)s::uuid is null or c.esco = %(esco)s)",
        {"id": client_id, "esco": actor.esco},
    )
    client = await cursor.fetchone()
    if client is None:
        raise NotFound("There is no such client.")
    return client


async def check_room(
    connection: Connection, kind: Identity, esco: uuid.UUID, limits: LimitsSettings
) -> None:
    """Raise Conflict if an ESCO has the most of a kind; disabled ones count too."""
    cursor = await connection.execute(MADE[kind], (esco,))
    row = await cursor.fetchone()
    most = limits.residents if kind == "resident" else limits.identities
    if row and row["made"] >= most:
        raise Conflict(
            f"The ESCO has {most:,} {kind}s, which is the most that it may have, disabled ones "
            "included; use one of them again, or ask the operator for more."
        )


async def create_client(
    connection: Connection,
    actor: Actor,
    *,
    limits: LimitsSettings,
    esco: uuid.UUID | None,
    name: str,
    role: str,
    scopes: list[str],
    lifetime_seconds: int,
    expires_at: datetime | None = None,
    client_id: str | None = None,
) -> tuple[DictRow, str]:
    """Create a client; return it with its secret, which cannot be read again.

    NotFound if the ESCO does not exist; Conflict if `client_id` is taken, or if the ESCO has the
    most clients; Forbidden for scopes that the actor lacks.
    """
    actor.check_may_give(scopes)
    name = _checked_name(name)
    if esco is not None:
        await check_room(connection, "client", esco, limits)
    client_id = client_id or f"flc_{secrets.token_hex(8)}"
    try:
        await connection.execute(
            "insert into gateway.client"
            " (id, esco, name, role, scopes, lifetime_seconds, expires_at)"
            " values (%s, %s, %s, %s, %s, %s, %s)",
            (client_id, esco, name, role, scopes, lifetime_seconds, expires_at),
        )
    except psycopg.errors.ForeignKeyViolation:
        raise NotFound("There is no such ESCO.") from None
    except psycopg.errors.UniqueViolation:
        raise Conflict(f"A client {client_id} exists already.") from None
    secret, _ = await _add_secret(connection, client_id)
    made = _describe(
        role=role, scopes=scopes, lifetime_seconds=lifetime_seconds, expires_at=expires_at
    )
    await record(connection, actor, "client.create", subject=client_id, detail=made, esco=esco)
    return await get_client(connection, actor, client_id), secret


async def change_client(
    connection: Connection, actor: Actor, client_id: str, **changes: Any
) -> DictRow:
    """Change columns of a client: name, role, scopes, lifetime_seconds, expires_at, disabled_at.

    NotFound as in `get_client`; Forbidden for scopes that the actor lacks.
    """
    client = await get_client(connection, actor, client_id)
    actor.check_may_give(changes.get("scopes", ()))
    if "name" in changes:
        changes["name"] = _checked_name(changes["name"])
    for column, value in changes.items():
        statement = psycopg.sql.SQL("update gateway.client set {} = %s where id = %s")
        await connection.execute(
            statement.format(psycopg.sql.Identifier(column)), (value, client_id)
        )
    action = "client.disable" if changes.get("disabled_at") else "client.change"
    told = _describe(**changes)
    await record(connection, actor, action, subject=client_id, detail=told, esco=client["esco"])
    return await get_client(connection, actor, client_id)


def _checked_name(name: str) -> str:
    name = name.strip()
    if not 1 <= len(name) <= LONGEST_NAME:
        raise Unprocessable(f"name: 1 to {LONGEST_NAME} characters")
    return name


def _describe(**members: Any) -> str:
    """Return members and their values as text for the audit log."""
    return "; ".join(
        f"{name}: {' '.join(value) if isinstance(value, list) else value}"
        for name, value in members.items()
    )


async def add_secret(
    connection: Connection, actor: Actor, client_id: str, *, replace_oldest: bool = False
) -> str:
    """Create a second secret for a client, valid alongside the first, and return it.

    A client that already has two is a Conflict, unless `replace_oldest` drops the older one. With
    the secret come the client's scopes, so it is Forbidden for scopes that the actor lacks.
    """
    client = await get_client(connection, actor, client_id)
    actor.check_may_give(client["scopes"])
    # Lock the client's row: two requests at the same time could otherwise leave three secrets.
    await connection.execute("select from gateway.client where id = %s for update", (client_id,))
    held = (await get_client(connection, actor, client_id))["secrets"]
    if len(held) >= MOST_SECRETS:
        if not replace_oldest:
            raise Conflict("The client has two secrets; delete one first.")
        await connection.execute(
            "delete from gateway.client_secret where id = %s", (held[0]["id"],)
        )
    secret, made = await _add_secret(connection, client_id)
    dropped = f", in place of {held[0]['id']}" if len(held) >= MOST_SECRETS else ""
    await record(
        connection, actor, "secret.create",
        subject=client_id, detail=f"{made}{dropped}", esco=client["esco"],
    )  # fmt: skip
    return secret


async def delete_secret(
    connection: Connection, actor: Actor, client_id: str, secret: uuid.UUID
) -> None:
    """Delete a secret; Conflict if it is the last one (disable the client instead)."""
    client = await get_client(connection, actor, client_id)
    await connection.execute("select from gateway.client where id = %s for update", (client_id,))
    held = (await get_client(connection, actor, client_id))["secrets"]
    if str(secret) not in [entry["id"] for entry in held]:
        raise NotFound("There is no such secret.")
    if len(held) == 1:
        raise Conflict(
            "This is the client's only secret; create another first, or disable the client."
        )
    await connection.execute("delete from gateway.client_secret where id = %s", (secret,))
    await record(
        connection, actor, "secret.delete",
        subject=client_id, detail=str(secret), esco=client["esco"],
    )  # fmt: skip


async def _add_secret(connection: Connection, client_id: str) -> tuple[str, uuid.UUID]:
    """Create a secret; return it and its id."""
    secret, secret_id = SECRET_PREFIX + secrets.token_urlsafe(32), uuid.uuid4()
    await connection.execute(
        "insert into gateway.client_secret (id, client, digest, hash) values (%s, %s, %s, %s)",
        (secret_id, client_id, _digest(secret), _hasher.hash(secret)),
    )
    return secret, secret_id


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


@dataclass(frozen=True, slots=True)
class AuthenticatedClient:
    """A client whose secret was verified: its greatest grant and the lifetime of its tokens."""

    grant: Grant
    lifetime_seconds: int


async def find_credentials(connection: Connection, client_id: str) -> DictRow | None:
    """Return the grant of a client and what its secrets are checked against.

    None if the client is unknown, disabled or expired, or its ESCO is disabled.
    """
    cursor = await connection.execute(
        "select c.id, c.role, c.esco, e.code as esco_code, c.scopes, c.lifetime_seconds,"
        " array(select s.digest from gateway.client_secret as s"
        " where s.client = c.id and s.digest is not null) as digests,"
        " array(select array[s.id::text, s.hash] from gateway.client_secret as s"
        " where s.client = c.id and s.digest is null) as hashes"
        " from gateway.client as c left join gateway.escos() as e on e.id = c.esco"
        " where c.id = %s and c.disabled_at is null and e.disabled_at is null"
        " and (c.expires_at is null or c.expires_at > now())",
        (client_id,),
    )
    return await cursor.fetchone()


def verify_secret(client: DictRow | None, secret: str) -> AuthenticatedClient | None:
    """Return the authenticated client, or None if it is unknown or no digest is the secret's.

    As many digests are compared, in constant time, whether the client is known or not.
    """
    found = _digest(secret)
    known = [*(client["digests"] if client else ()), _NO_DIGEST, _NO_DIGEST][:MOST_SECRETS]
    matches = [hmac.compare_digest(found, digest) for digest in known]
    return _authenticated(client) if client and any(matches) else None


async def verify_old_secret(
    client: DictRow | None, secret: str
) -> tuple[AuthenticatedClient, uuid.UUID] | None:
    """Return the client and the secret's id if it matches a secret without a digest.

    This needs 64 MB and tens of milliseconds: call it within `Throttle.hashing`, and without
    holding a database connection. Pass the id to `store_digest`, so that it happens only once.
    """
    for secret_id, known in client["hashes"] if client else ():
        matches = await asyncio.to_thread(_verify_hash, known, secret)
        if client and matches:
            return _authenticated(client), uuid.UUID(secret_id)
    return None


async def store_digest(connection: Connection, secret_id: uuid.UUID, secret: str) -> None:
    """Store the digest of a secret that was verified by its Argon2 hash."""
    await connection.execute(
        "update gateway.client_secret set digest = %s where id = %s", (_digest(secret), secret_id)
    )


def _authenticated(client: DictRow) -> AuthenticatedClient:
    return AuthenticatedClient(
        Grant(
            client_id=client["id"],
            role=client["role"],
            esco=client["esco"],
            esco_code=client["esco_code"],
            scopes=tuple(client["scopes"]),
        ),
        client["lifetime_seconds"],
    )


def _verify_hash(known: str, secret: str) -> bool:
    try:
        return _hasher.verify(known, secret)
    except (VerificationError, InvalidHashError):
        return False


async def record_token(
    connection: Connection,
    actor: Actor,
    kind: Literal["client", "member"],
    action: str,
    token_id: str,
    detail: str,
) -> None:
    """Record that the acting client or member gets a token, and the time in `last_used_at`."""
    # Requests of the same one at the same time need not wait for each other's commits.
    await fetch_rows(
        connection,
        f"with used as (update gateway.{kind} set last_used_at = now() where id ="  # noqa: S608
        f" (select o.id from gateway.{kind} as o where o.id = %(actor)s for update skip locked))"
        " insert into gateway.audit (actor, action, esco, subject, detail, address, outcome)"
        " values (%(actor)s, %(action)s, %(esco)s, %(token)s, %(detail)s, %(address)s, 'done')",
        actor=actor.name, action=action, esco=actor.esco, token=token_id, detail=detail,
        address=actor.address,
    )  # fmt: skip


async def list_escos(connection: Connection) -> list[DictRow]:
    """Return all ESCOs: id, code, name, disabled_at."""
    return await (await connection.execute("select * from gateway.escos()")).fetchall()


async def find_esco(connection: Connection, code: str) -> DictRow:
    """Return the ESCO with this code; NotFound if there is none."""
    cursor = await connection.execute("select * from gateway.escos() where code = %s", (code,))
    esco = await cursor.fetchone()
    if esco is None:
        raise NotFound(f"There is no ESCO {code}.")
    return esco


async def create_esco(connection: Connection, actor: Actor, code: str, name: str) -> DictRow:
    """Create an ESCO and return it; Conflict if the code is taken."""
    if not re.fullmatch("[a-z0-9]{2,32}", code):
        raise Unprocessable("code: must be 2 to 32 lower-case letters and digits")
    name = _checked_name(name)
    try:
        await connection.execute("select gateway.create_esco(%s, %s)", (code, name))
    except psycopg.errors.UniqueViolation:
        raise Conflict(f"An ESCO {code} exists already.") from None
    esco = await find_esco(connection, code)
    await record(connection, actor, "esco.create", subject=code, esco=esco["id"])
    return esco


async def set_esco_disabled(
    connection: Connection, actor: Actor, code: str, *, disabled: bool
) -> DictRow:
    """Disable or enable all clients and tokens of an ESCO; return the ESCO."""
    esco = await find_esco(connection, code)
    await connection.execute(
        "insert into gateway.disabled_esco (esco) values (%s) on conflict do nothing"
        if disabled
        else "delete from gateway.disabled_esco where esco = %s",
        (esco["id"],),
    )
    action = "esco.disable" if disabled else "esco.enable"
    await record(connection, actor, action, subject=code, esco=esco["id"])
    return await find_esco(connection, code)


async def revoke_token(
    connection: Connection, actor: Actor, jti: str, expires_at: float, esco: uuid.UUID | None
) -> None:
    """Revoke a token, at the gateway and at PostgREST; `expires_at` is in seconds since 1970.

    The revocation is kept until the token would have expired.
    """
    # Verifiers read the whole table, so drop tokens that have expired; clocks may differ a little.
    await connection.execute(
        "delete from gateway.revoked_token where expires_at < now() - interval '5 minutes'"
    )
    await connection.execute(
        "insert into gateway.revoked_token (jti, expires_at) values (%s, to_timestamp(%s))"
        " on conflict do nothing",
        (jti, expires_at),
    )
    await record(connection, actor, "token.revoke", subject=jti, esco=esco)


async def list_audit(
    connection: Connection, actor: Actor, *, before: int | None, limit: int
) -> list[DictRow]:
    """Return the audit entries that the actor may read, newest first.

    Their `id` is the microsecond of their time, as a number that counts the entries of all ESCOs
    would tell each how busy the others are. `before` restricts them to smaller ids; entries of the
    same microsecond come together, beyond the `limit` too.
    """
    cursor = await connection.execute(
        "select (extract(epoch from at) * 1000000)::bigint as id, at, actor, action, esco, subject,"
        " detail, address, outcome from gateway.audit"
        " where (%(esco)s::uuid is null or esco = %(esco)s)"
        " and (%(before)s::bigint is null or at < to_timestamp(%(before)s::bigint / 1000000.0))"
        " order by at desc fetch first %(limit)s rows with ties",
        {"esco": actor.esco, "before": before, "limit": limit},
    )
    return await cursor.fetchall()
