"""Connections to PostgreSQL: the pool, and sessions that act as a caller or as the gateway.

The gateway's login role has no rights of its own on data. A session takes the caller's role and
claims for the length of one transaction, so a connection that goes back to the pool carries nothing
over, and a statement outside a transaction is refused.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
from psycopg import AsyncConnection
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool

from app.db.principal import Principal
from app.settings import DatabaseSettings

Connection = AsyncConnection[DictRow]
Pool = AsyncConnectionPool[Connection]


def database_url(settings: DatabaseSettings) -> str:
    """The gateway's own login; without one it does not start."""
    if settings.url is None:
        raise SystemExit("FLOWS_DATABASE_URL is not set: the gateway's login, a libpq URL")
    return settings.url.get_secret_value()


def create_pool(settings: DatabaseSettings) -> Pool:
    """Return a pool that is not open yet; its connections log in as the gateway's own role."""
    return AsyncConnectionPool(
        database_url(settings),
        connection_class=AsyncConnection[DictRow],
        kwargs={"row_factory": dict_row, "application_name": "flows-gateway"},
        min_size=settings.pool_min,
        max_size=settings.pool_max,
        timeout=settings.pool_timeout,
        open=False,
    )


# One snapshot: what an answer is tagged with, what it is made of and its rows are of one moment.
ONE_SNAPSHOT = "set transaction isolation level repeatable read, read only"
# SET ROLE does not bring a role's own settings along; its time limit holds here as at PostgREST.
# What a cursor finds is wanted whole, so it must not be planned for its first rows.
AS_CALLER = """
    select
        set_config('statement_timeout', coalesce((
            select split_part(setting, '=', 2)
            from pg_catalog.pg_roles cross join unnest(rolconfig) as setting
            where rolname = %s and setting like 'statement_timeout=%%'
        ), current_setting('statement_timeout')), true),
        set_config('cursor_tuple_fraction', '1', true),
        set_config('work_mem', '16MB', true),
        set_config('request.jwt.claims', %s, true),
        set_config('role', %s, true)
"""


@asynccontextmanager
async def caller_session(pool: Pool, caller: Principal) -> AsyncIterator[Connection]:
    """Yield a connection inside one read-only transaction that runs as the caller.

    `gateway.authorize()` is the function PostgREST runs before each request too: it refuses a
    tenant's role without an ESCO and a revoked token, and sets the ESCO that every policy reads.
    """
    async with pool.connection() as connection:
        claims = orjson.dumps(caller.claims).decode()
        # One trip to the database, BEGIN included; the pool ends what began.
        async with connection.pipeline():
            await connection.execute(ONE_SNAPSHOT)
            await connection.execute(AS_CALLER, (caller.role, claims, caller.role))
            await connection.execute("select gateway.authorize()")
        yield connection
