"""Ends the queries of clients that left: PostgREST would let them run to the statement timeout.

Each request carries a random name to PostgREST, whose pre-request gives it to the database session
for the length of the transaction (`gateway.authorize` in sql/). Here the names of those that left
are looked for, on a connection of its own so that no exhausted pool keeps them running.
"""

import asyncio
import logging
import time
from contextlib import suppress

import psycopg

from app.db.session import database_url
from app.settings import DatabaseSettings

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.1
# A request may wait for one of PostgREST's connections before its query begins
# (db-pool-acquisition-timeout, 10 s); a little later it is known to have ended by itself.
KEEP_LOOKING_SECONDS = 12.0


class QueryCanceller:
    """One per gateway process; it has a connection only while it looks for somebody's query."""

    def __init__(self, settings: DatabaseSettings) -> None:
        self._settings = settings
        self._until: dict[str, float] = {}
        self._seen: set[str] = set()
        self._task: asyncio.Task[None] | None = None

    def cancel(self, query: str) -> None:
        """End the query of this name, now or as soon as it begins; returns at once."""
        self._until[query] = time.monotonic() + KEEP_LOOKING_SECONDS
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop looking."""
        if self._task:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while self._until:
            try:
                async with await psycopg.AsyncConnection.connect(
                    database_url(self._settings),
                    autocommit=True,
                    application_name="flows-gateway cancel",
                    connect_timeout=3,
                ) as connection:
                    while self._until:
                        await self._look(connection)
                        await asyncio.sleep(LOOK_SECONDS)
            except (psycopg.Error, OSError) as error:
                logger.warning("queries of clients that left run on: %s", str(error).strip())
                self._forget(set())
                await asyncio.sleep(1)

    async def _look(self, connection: psycopg.AsyncConnection) -> None:
        cursor = await connection.execute("select gateway.cancel_queries(%s)", (list(self._until),))
        row = await cursor.fetchone()
        assert row is not None  # noqa: S101  (an array, always)
        self._forget(set(row[0]))

    def _forget(self, found: set[str]) -> None:
        """Drop what ended, or never came; a signal between two statements is lost: look again."""
        now = time.monotonic()
        for query, until in list(self._until.items()):
            if query not in found and (query in self._seen or now > until):
                del self._until[query]
        self._seen = (self._seen | found) & self._until.keys()
