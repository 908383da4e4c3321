"""Trusted issuers: the OpenID providers whose tokens people exchange."""

import json
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from app.auth.clients import Actor, find_esco, record
from app.db.batch import fetch_rows
from app.db.session import Connection
from app.errors import Conflict, NotFound, Unprocessable

ISSUER = """
    select i.id, i.url, i.audiences, i.esco, e.code as esco_code, i.claims, i.jwks_uri,
        i.secret_name, i.created_at
    from gateway.issuer as i left join gateway.escos() as e on e.id = i.esco
    where i.removed_at is null
"""
ISSUER_URL = re.compile(r"https?://[^\s?#@]{1,490}")


@dataclass(frozen=True, slots=True)
class Issuer:
    """A trusted issuer: where its keys are, and the tokens of it that are accepted."""

    id: uuid.UUID
    url: str
    audiences: tuple[str, ...]
    esco: uuid.UUID | None
    claims: dict[str, Any]
    jwks_uri: str | None
    secret_name: str | None


async def list_issuers(connection: Connection, actor: Actor) -> list[DictRow]:
    """Return the issuers that the actor's members may come from, ordered by URL."""
    cursor = await connection.execute(
        f"{ISSUER} and (%(esco)s::uuid is null or i.esco is null or i.esco = %(esco)s)"
        " order by i.url",
        {"esco": actor.esco},
    )
    return await cursor.fetchall()


async def find_issuer(connection: Connection, url: str) -> Issuer | None:
    """Return the trusted issuer with exactly this URL."""
    rows = await fetch_rows(connection, f"{ISSUER} and i.url = %(url)s", url=url)
    if not rows:
        return None
    (row,) = rows
    return Issuer(row["id"], row["url"], tuple(row["audiences"]), row["esco"], row["claims"],
                  row["jwks_uri"], row["secret_name"])  # fmt: skip


async def add_issuer(
    connection: Connection,
    actor: Actor,
    url: str,
    *,
    audiences: Sequence[str],
    esco_code: str | None = None,
    claims: dict[str, Any] | None = None,
    jwks_uri: str | None = None,
    secret_name: str | None = None,
) -> DictRow:
    """Trust an issuer and return it; Conflict if it is trusted already.

    One that was removed is trusted again, but its former members stay disabled.
    """
    for name, text in (("url", url), ("jwks_uri", jwks_uri)):
        if text is not None and not ISSUER_URL.fullmatch(text):
            raise Unprocessable(f"{name}: must be a URL like https://login.example.org")
    _check_audiences(audiences)
    if jwks_uri and secret_name:
        raise Unprocessable("jwks_uri: an issuer has keys or a secret, not both")
    esco = (await find_esco(connection, esco_code))["id"] if esco_code else None
    cursor = await connection.execute(
        "insert into gateway.issuer as known"
        " (url, audiences, esco, claims, jwks_uri, secret_name)"
        " values (%(url)s, %(audiences)s, %(esco)s, %(claims)s, %(jwks_uri)s, %(secret_name)s)"
        " on conflict (url) do update set audiences = excluded.audiences, esco = excluded.esco,"
        " claims = excluded.claims, jwks_uri = excluded.jwks_uri,"
        " secret_name = excluded.secret_name, created_at = now(), removed_at = null"
        " where known.removed_at is not null returning id",
        {"url": url, "audiences": list(audiences), "esco": esco, "claims": Jsonb(claims or {}),
         "jwks_uri": jwks_uri, "secret_name": secret_name},
    )  # fmt: skip
    if await cursor.fetchone() is None:
        raise Conflict(f"The issuer {url} is trusted already; change it, or remove it first.")
    await record(
        connection, actor, "issuer.add",
        subject=url, detail=describe_tokens(audiences, claims or {}), esco=esco,
    )  # fmt: skip
    return next(row for row in await list_issuers(connection, actor) if row["url"] == url)


async def change_issuer(
    connection: Connection,
    actor: Actor,
    url: str,
    *,
    audiences: Sequence[str] | None = None,
    claims: dict[str, Any] | None = None,
) -> DictRow:
    """Replace the audiences of an issuer's tokens, or the claims that these must have; return it.

    It holds for exchanges that follow: members stay, and tokens issued before end in minutes by
    themselves. NotFound if the issuer is not trusted.
    """
    issuer = await find_issuer(connection, url)
    if issuer is None:
        raise NotFound(f"There is no issuer {url}.")
    audiences = issuer.audiences if audiences is None else audiences
    claims = issuer.claims if claims is None else claims
    _check_audiences(audiences)
    await connection.execute(
        "update gateway.issuer set audiences = %s, claims = %s where id = %s",
        (list(audiences), Jsonb(claims), issuer.id),
    )
    await record(
        connection, actor, "issuer.change",
        subject=url, detail=describe_tokens(audiences, claims), esco=issuer.esco,
    )  # fmt: skip
    return next(row for row in await list_issuers(connection, actor) if row["url"] == url)


def _check_audiences(audiences: Sequence[str]) -> None:
    if not audiences or not all(audiences):
        raise Unprocessable("audiences: name at least one audience")


def describe_tokens(audiences: Sequence[str], claims: dict[str, Any]) -> str:
    """Return what an issuer's tokens must have, for the audit log."""
    named = ", ".join(f"{name}={json.dumps(value)}" for name, value in claims.items())
    return f"audiences: {' '.join(audiences)}; claims: {named or 'none'}"


async def remove_issuer(connection: Connection, actor: Actor, url: str) -> None:
    """Trust an issuer no longer, and disable its members; NotFound if it is not trusted."""
    issuer = await find_issuer(connection, url)
    if issuer is None:
        raise NotFound(f"There is no issuer {url}.")
    await connection.execute(
        "update gateway.issuer set removed_at = now() where id = %s", (issuer.id,)
    )
    await connection.execute(
        "update gateway.member set disabled_at = now() where issuer = %s and disabled_at is null",
        (issuer.id,),
    )
    await record(connection, actor, "issuer.remove", subject=url, esco=issuer.esco)
