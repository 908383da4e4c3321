"""Apps: public clients, pages in browsers that exchange the tokens of people."""

import re
import secrets
from collections.abc import Sequence

from psycopg.rows import DictRow

from app.auth.clients import Actor, check_room, find_esco, record
from app.db.batch import fetch_rows
from app.db.session import Connection
from app.errors import NotFound, Unprocessable
from app.settings import LimitsSettings

APP_PREFIX = "fla_"
ORIGIN = re.compile(r"https?://[a-z0-9.\-\[\]:]+")

APP = """
    select a.id, a.name, a.origins, a.esco, e.code as esco_code, a.created_at, a.disabled_at,
        e.disabled_at as esco_disabled_at
    from gateway.app as a left join gateway.escos() as e on e.id = a.esco
"""


async def list_apps(connection: Connection) -> list[DictRow]:
    """Return all apps, ordered by name."""
    return await (await connection.execute(f"{APP} order by a.name, a.id")).fetchall()


async def find_app(connection: Connection, app: str) -> DictRow | None:
    """Return an app that can be used, or None."""
    rows = await fetch_rows(
        connection,
        f"{APP} where a.id = %(id)s and a.disabled_at is null and e.disabled_at is null",
        id=app,
    )
    return rows[0] if rows else None


async def create_app_client(
    connection: Connection,
    actor: Actor,
    name: str,
    origins: Sequence[str],
    esco_code: str | None = None,
    *,
    limits: LimitsSettings,
) -> DictRow:
    """Register an app with the origins of its pages, and return it.

    NotFound if the ESCO does not exist, Conflict if it has the most apps.
    """
    name = name.strip()
    if not 1 <= len(name) <= 200:
        raise Unprocessable("name: 1 to 200 characters")
    for origin in origins:
        if not ORIGIN.fullmatch(origin):
            raise Unprocessable(f"origins: {origin} is not like https://app.example.org")
    if not origins:
        raise Unprocessable("origins: name at least one")
    esco = (await find_esco(connection, esco_code))["id"] if esco_code else None
    if esco is not None:
        await check_room(connection, "app", esco, limits)
    app = f"{APP_PREFIX}{secrets.token_hex(8)}"
    await connection.execute(
        "insert into gateway.app (id, name, origins, esco) values (%s, %s, %s, %s)",
        (app, name, list(origins), esco),
    )
    told = f"origins: {' '.join(origins)}"
    await record(connection, actor, "app.create", subject=app, detail=told, esco=esco)
    return next(row for row in await list_apps(connection) if row["id"] == app)


async def set_app_disabled(
    connection: Connection, actor: Actor, app: str, *, disabled: bool
) -> DictRow:
    """Disable or enable an app and the tokens it got; return it, or NotFound."""
    await connection.execute(
        "update gateway.app set disabled_at = case when %s then now() end where id = %s",
        (disabled, app),
    )
    row = next((row for row in await list_apps(connection) if row["id"] == app), None)
    if row is None:
        raise NotFound("There is no such app.")
    action = "app.disable" if disabled else "app.enable"
    await record(connection, actor, action, subject=app, esco=row["esco"])
    return row
