"""Clients: machines that prove who they are with an id and a secret. Secrets are kept as hashes."""

import asyncio
import secrets
from typing import Any

import psycopg
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from app.auth.tokens import Grant
from app.database import Pool

_hasher = PasswordHasher()
# Checked when the client is unknown, so that both refusals take the same time.
_NOBODY = _hasher.hash(secrets.token_urlsafe(32))


def create_client(
    connection: psycopg.Connection[Any],
    *,
    client_id: str,
    esco: str | None,
    name: str,
    role: str,
    scopes: list[str],
) -> str:
    """Insert a client, or give the one of that id a new secret; return the secret, once."""
    secret = "fls_" + secrets.token_urlsafe(32)
    connection.execute(
        "insert into gateway.client (id, esco, name, role, scopes, secret_hash)"
        " values (%s, %s, %s, %s, %s, %s)"
        " on conflict (id) do update set secret_hash = excluded.secret_hash",
        (client_id, esco, name, role, scopes, _hasher.hash(secret)),
    )
    return secret


async def authenticate(pool: Pool, client_id: str, secret: str) -> Grant | None:
    """Return what the client may be granted, or None when id or secret is wrong."""
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "select c.id, c.role, c.esco, gateway.esco_code(c.esco) as esco_code, c.scopes,"
            " c.secret_hash from gateway.client as c where c.id = %s and c.disabled_at is null",
            (client_id,),
        )
        client = await cursor.fetchone()
    matches = await asyncio.to_thread(
        _matches, client["secret_hash"] if client else _NOBODY, secret
    )
    if client is None or not matches:
        return None
    return Grant(
        client_id=client["id"],
        role=client["role"],
        esco=client["esco"],
        esco_code=client["esco_code"],
        scopes=tuple(client["scopes"]),
    )


def _matches(secret_hash: str, secret: str) -> bool:
    try:
        return _hasher.verify(secret_hash, secret)
    except (VerificationError, InvalidHashError):
        return False
