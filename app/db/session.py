"""Connections to PostgreSQL: the pool, and sessions that act as a caller or as the gateway.

The gateway's login role itself has no rights on data. A session takes the caller's role and claims
only for a transaction, so that a connection returned to the pool keeps nothing of the caller, and a
statement outside a transaction is refused.
"""

import asyncio
import select
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import orjson
from psycopg import AsyncConnection, OperationalError
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool

from app.db.batch import Query, QueryRows, never_prepare, run_batch
from app.db.principal import Principal
from app.settings import DatabaseSettings, ReplicaSettings
from app.tracing import child_span

Connection = AsyncConnection[DictRow]


class Pool(AsyncConnectionPool[Connection]):
    """A pool that gives out no connection which the server ended, and loses none to a cancellation.

    A server that restarts and an operator who ends sessions leave an error or an end of file on the
    socket. Only a connection with something to read is checked, so that nothing is asked of the
    server otherwise. The pool's own `check` would wait a second for each connection that has ended.
    """

    async def getconn(self, timeout: float | None = None) -> Connection:  # noqa: ASYNC109
        """Return a connection; PoolTimeout if there is none within `timeout` seconds."""
        while True:
            connection = await super().getconn(timeout)
            if not _readable(connection):
                return connection
            try:
                await self.check_connection(connection)
            except BaseException as error:
                await self.putconn(connection)  # dropped and replaced if it has ended
                if not isinstance(error, OperationalError):
                    raise
            else:
                return connection

    async def putconn(self, connection: Connection) -> None:
        """Return a connection, to the end even if the caller is cancelled meanwhile.

        The pool takes a waiting caller from its queue and then waits to hand the connection over:
        cancelled in between, it would lose both.
        """
        await asyncio.shield(super().putconn(connection))


def _readable(connection: Connection) -> bool:
    """Return whether the server has sent something, or closed the connection."""
    socket = select.poll()
    socket.register(connection.fileno(), select.POLLIN)
    return bool(socket.poll(0))


def database_url(settings: DatabaseSettings) -> str:
    """Return the URL with the gateway's login; SystemExit if it is not set."""
    if settings.url is None:
        raise SystemExit("set FLOWS_DATABASE_URL to a libpq URL with the gateway's login")
    return settings.url.get_secret_value()


def direct_url(settings: DatabaseSettings) -> str:
    """Return the URL past a PgBouncer, with the gateway's login."""
    return settings.direct_url.get_secret_value() if settings.direct_url else database_url(settings)


def replica_url(settings: ReplicaSettings) -> str:
    """Return the URL of the replica, which is set."""
    assert settings.database_url is not None  # noqa: S101  (the caller has looked)
    return settings.database_url.get_secret_value()


def create_pool(
    settings: DatabaseSettings,
    most: int | None = None,
    url: str | None = None,
    patience: float | None = None,
) -> Pool:
    """Return a pool, not yet open, whose connections log in as the gateway's own role.

    `most` is the greatest number of connections, by default that of the settings, as are `url` and
    `patience`, the seconds that a caller waits for one.
    """
    most = most or settings.pool_max
    patience = patience or settings.pool_timeout
    return Pool(
        url or database_url(settings),
        # Another URL leads past a PgBouncer.
        configure=None if settings.prepared or url else never_prepare,
        connection_class=AsyncConnection[DictRow],
        # Psycopg prepares no statement by itself: a plan that is kept is made without values, and
        # among a thousand ESCOs may read the rows of all. Batches say which of theirs are kept.
        kwargs={
            "row_factory": dict_row,
            "application_name": "flows-gateway",
            "prepare_threshold": None,
        },
        min_size=min(settings.pool_min, most),
        max_size=most,
        timeout=patience,
        # An attempt to connect is repeated as long as a caller waits, and the next caller begins
        # anew. The pool's own five minutes let its pauses grow to as much: a server that is back
        # after one minute would be missed for another.
        reconnect_timeout=patience,
        open=False,
    )


# One snapshot, so that the ETag, the groups and the rows of a response belong together.
ONE_SNAPSHOT = (Query("begin isolation level repeatable read, read only"),)
# SET ROLE does not apply a role's settings, so its time limit is set here, as in PostgREST. All
# rows of a cursor are read, so it must not be planned for its first rows.
AS_CALLER = """
    select
        set_config('statement_timeout', coalesce((
            select split_part(setting, '=', 2)
            from pg_catalog.pg_roles cross join unnest(rolconfig) as setting
            where rolname = %(role)s and setting like 'statement_timeout=%%'
        ), current_setting('statement_timeout')), true),
        set_config('cursor_tuple_fraction', '1', true),
        set_config('work_mem', '16MB', true),
        set_config('request.jwt.claims', %(claims)s, true),
        set_config('role', %(role)s, true)
"""
# Seen in pg_stat_activity, and in a log whose log_line_prefix has %a.
TRACED = "select set_config('application_name', %(name)s, true)"
AUTHORIZE = Query("select gateway.authorize()")

# A caller who only adds data needs no scope `read`: `gateway.authorize()` asks for none then.
AS_INSERT = "select set_config('request.method', 'POST', true)"


@asynccontextmanager
async def caller_session(
    pool: Pool, caller: Principal, seconds: float | None = None
) -> AsyncIterator[Connection]:
    """Yield a connection within a read-only transaction that runs as the caller.

    PoolTimeout if none is free within `seconds`, by default the pool's own patience.
    """
    async with _session(pool, caller, ONE_SNAPSHOT, seconds=seconds) as (connection, _):
        yield connection


def asking_session(
    pool: Pool, caller: Principal, queries: Sequence[Query]
) -> AbstractAsyncContextManager[tuple[Connection, list[QueryRows]]]:
    """Yield the connection of a `caller_session`, and the rows of first queries.

    They are sent with the beginning of the transaction. PoolTimeout as of `caller_session`.
    """
    return _session(pool, caller, ONE_SNAPSHOT, queries)


@asynccontextmanager
async def inserting_session(pool: Pool, caller: Principal) -> AsyncIterator[Connection]:
    """Yield a connection within a transaction that runs as the caller and may write.

    It is for callers who add data, so that the scope `read` is not needed; it is committed at the
    end.
    """
    async with _session(pool, caller, (Query("begin"), Query(AS_INSERT))) as (connection, _):
        yield connection


@asynccontextmanager
async def _session(
    pool: Pool,
    caller: Principal,
    kind: Sequence[Query],
    queries: Sequence[Query] = (),
    seconds: float | None = None,
) -> AsyncIterator[tuple[Connection, list[QueryRows]]]:
    """Yield a connection within a transaction of a kind that runs as the caller.

    `gateway.authorize()`, which PostgREST runs before each request as well, refuses a tenant's role
    without an ESCO and a revoked token, and sets the ESCO that the policies read.
    """
    with child_span("database", {"db.system.name": "postgresql"}) as parent:
        async with pool.connection(timeout=seconds) as connection:
            claims = orjson.dumps(caller.claims).decode()
            as_caller = Query(AS_CALLER, {"role": caller.role, "claims": claims})
            before = [*kind, as_caller, AUTHORIZE]
            if parent is not None:
                before.append(Query(TRACED, {"name": f"flows {parent}"}))
            # The pool ends the transaction.
            rows = await run_batch(connection, [*before, *queries])
            yield connection, rows[len(before) :]
