"""Long-lived tokens, which an administrator issues for a job: recorded by id, listed, revoked."""

import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from psycopg.rows import DictRow

from app.auth.clients import Actor, find_esco, record, revoke_token
from app.auth.keys import SigningKey
from app.auth.rotation import current_key, lock_keys
from app.auth.tokens import Grant, issue
from app.db.session import Connection
from app.errors import NotFound


async def issue_long_lived(
    connection: Connection,
    actor: Actor,
    load: Callable[[], list[SigningKey]],
    issuer: str,
    *,
    esco_code: str,
    role: str,
    name: str,
    days: int,
) -> dict[str, Any]:
    """Issue a token of `role` for an ESCO; return jti, esco_code, role, name, expires_at and it.

    `load` reads the keys of this installation, once no rotation can come between.
    """
    owner = await find_esco(connection, esco_code)
    await lock_keys(connection)
    key = await current_key(connection, load())
    token_id = str(uuid.uuid4())
    expires_at = datetime.now(UTC) + timedelta(days=days)
    scopes = ("read", "write") if role == "flows" else ("read",)
    await connection.execute(
        "insert into gateway.token (jti, kid, esco, role, name, expires_at)"
        " values (%s, %s, %s, %s, %s, %s)",
        (token_id, key.kid, owner["id"], role, name, expires_at),
    )
    # A key that a rotation is about to replace still signs: it verifies for as long as this.
    await connection.execute(
        "update gateway.signing_key set verifies_until = greatest(verifies_until, %s)"
        " where kid = %s and verifies_until is not null",
        (expires_at, key.kid),
    )
    await record(
        connection, actor, "token.issue",
        subject=token_id, detail=f"{' '.join(scopes)}; {name}", esco=owner["id"],
    )  # fmt: skip
    grant = Grant(f"token:{token_id}", role, owner["id"], owner["code"], scopes)
    text = issue(key, issuer, grant, seconds=days * 86_400, token_id=token_id)
    return {"jti": token_id, "esco_code": owner["code"], "role": role, "name": name,
            "expires_at": expires_at, "access_token": text}  # fmt: skip


async def list_long_lived(connection: Connection) -> list[DictRow]:
    """Return the tokens that have not expired, and when each was revoked."""
    cursor = await connection.execute(
        "select t.jti, e.code as esco_code, t.role, t.name, t.created_at, t.expires_at,"
        " r.revoked_at from gateway.token as t left join gateway.escos() as e on e.id = t.esco"
        " left join gateway.revoked_token as r using (jti)"
        " where t.expires_at > now() order by t.created_at"
    )
    return await cursor.fetchall()


async def revoke_long_lived(connection: Connection, actor: Actor, jti: str) -> DictRow:
    """Revoke a token and return its record; NotFound for an id that was never issued."""
    cursor = await connection.execute(
        "select jti, esco, role, name, expires_at from gateway.token where jti = %s", (jti,)
    )
    row = await cursor.fetchone()
    if row is None:
        raise NotFound(f"no long-lived token {jti} was issued; see `flows token list`")
    await revoke_token(connection, actor, jti, row["expires_at"].timestamp(), row["esco"])
    return row
