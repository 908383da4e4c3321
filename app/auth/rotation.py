"""Published keys: which one signs now, a new one in place of it, and the end of a leaked one."""

from pathlib import Path

from psycopg.rows import DictRow

from app.auth.clients import Actor, record
from app.auth.keyring import Keyring, load_state, publish
from app.auth.keys import SigningKey, create_key, load_keys
from app.db.session import Connection
from app.errors import Conflict, NotFound

PUBLISHED = "select kid, created_at, signs_from, verifies_until from gateway.signing_key"


async def lock_keys(connection: Connection) -> None:
    """Let one at a time issue a long-lived token, rotate or retire; gateways read on."""
    await connection.execute("lock table gateway.signing_key in share row exclusive mode")


async def current_key(connection: Connection, keys: list[SigningKey]) -> SigningKey:
    """Publish the keys of this installation and return the one that signs; Unavailable if none."""
    await publish(connection, keys)
    keyring = Keyring(keys)
    keyring.update(await load_state(connection))
    return keyring.current()


async def list_keys(connection: Connection) -> list[DictRow]:
    """Return the published keys: kid, created_at, signs_from, verifies_until."""
    cursor = await connection.execute(PUBLISHED + " order by signs_from")
    return await cursor.fetchall()


async def rotate_key(
    connection: Connection, actor: Actor, folder: Path, *, after: int, token_seconds: int
) -> DictRow:
    """Make a key in `folder` that signs `after` seconds from now, and return it as published.

    The folder's keys before it verify until the last token that they signed has expired;
    `token_seconds` is the longest life of a token that a client asks for.
    """
    before = [held.kid for held in load_keys(folder)]
    key = create_key(folder)
    await lock_keys(connection)
    await publish(connection, [key])
    # A gateway that found the file first has published it to sign sooner.
    await connection.execute(
        "update gateway.signing_key set signs_from = now() + make_interval(secs => %s)"
        " where kid = %s",
        (after, key.kid),
    )
    await connection.execute(
        "update gateway.signing_key as k set verifies_until = greatest("
        " n.signs_from + make_interval(secs => %s),"
        " (select max(t.expires_at) from gateway.token as t where t.kid = k.kid))"
        " from gateway.signing_key as n"
        " where n.kid = %s and k.kid = any(%s) and k.verifies_until is null",
        (token_seconds, key.kid, before),
    )
    await record(connection, actor, "key.rotate", subject=key.kid, detail=f"in {after} seconds")
    return await _published(connection, key.kid)


async def retire_key(connection: Connection, actor: Actor, kid: str) -> DictRow:
    """Stop a key from verifying anything; Conflict for the only one that signs."""
    await lock_keys(connection)
    others = await connection.execute(
        "select from gateway.signing_key where kid <> %s and verifies_until is null", (kid,)
    )
    if not await others.fetchall():
        raise Conflict("this is the only key that signs; `flows keys rotate` first")
    done = await connection.execute(
        "update gateway.signing_key set verifies_until = now() where kid = %s", (kid,)
    )
    if done.rowcount == 0:
        raise NotFound(f"there is no key {kid}; see `flows keys list`")
    await connection.execute(
        "update gateway.signing_key set signs_from = now() where verifies_until is null"
    )
    await record(connection, actor, "key.retire", subject=kid)
    return await _published(connection, kid)


async def _published(connection: Connection, kid: str) -> DictRow:
    cursor = await connection.execute(PUBLISHED + " where kid = %s", (kid,))
    row = await cursor.fetchone()
    assert row is not None  # noqa: S101  (just written)
    return row
