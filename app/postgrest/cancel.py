"""Cancellation of queries whose clients disconnected; PostgREST would run them to their timeout.

Each request passes a random name to PostgREST, whose pre-request sets it in the database session
until the end of the transaction (`gateway.authorize` in sql/). The canceller finds sessions by
these names, on a separate connection, so that it works while the pool is exhausted.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress

import psycopg

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.1
# A request may wait for one of PostgREST's connections before its query starts
# (db-pool-acquisition-timeout, 10 s); shortly after that, it must have ended by itself.
KEEP_LOOKING_SECONDS = 12.0


class QueryCanceller:
    """Cancels queries of a server; it is connected only while it looks for one.

    `url` returns the libpq URL of the server, with the gateway's login.
    """

    def __init__(self, url: Callable[[], str]) -> None:
        self._url = url
        self._until: dict[str, float] = {}
        self._seen: set[str] = set()
        self._task: asyncio.Task[None] | None = None

    def cancel(self, query: str) -> None:
        """Cancel the query with this name, now or as soon as it starts; return at once."""
        self._until[query] = time.monotonic() + KEEP_LOOKING_SECONDS
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop the background task."""
        if self._task:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while self._until:
            try:
                async with await psycopg.AsyncConnection.connect(
                    self._url(),
                    autocommit=True,
                    application_name="flows-gateway cancel",
                    connect_timeout=3,
                ) as connection:
                    while self._until:
                        await self._look(connection)
                        await asyncio.sleep(LOOK_SECONDS)
            except (psycopg.Error, OSError) as error:
                logger.warning("cannot cancel abandoned queries: %s", str(error).strip())
                self._forget(set())
                await asyncio.sleep(1)

    async def _look(self, connection: psycopg.AsyncConnection) -> None:
        cursor = await connection.execute("select gateway.cancel_queries(%s)", (list(self._until),))
        row = await cursor.fetchone()
        assert row is not None  # noqa: S101  (the query returns exactly one row)
        self._forget(set(row[0]))

    def _forget(self, found: set[str]) -> None:
        """Forget queries that ended or never came; look for the others again.

        A signal between two statements has no effect, so one is not enough.
        """
        now = time.monotonic()
        for query, until in list(self._until.items()):
            if query not in found and (query in self._seen or now > until):
                del self._until[query]
        self._seen = (self._seen | found) & self._until.keys()
