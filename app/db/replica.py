"""A streaming replica that answers reads, and how far it is behind the primary.

What a replica itself can tell of its lag is wrong once it is cut off. So the primary's position in
its log is noted with the time at which it was asked: a replica that has replayed it has all that
was committed until then. The lag is the age of the newest such note, an upper bound that needs no
clock but this process's, and grows while either of the two does not answer.
"""

import asyncio
import logging
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field

import psycopg

from app.db.session import Pool, create_pool, direct_url, replica_url
from app.settings import Settings

logger = logging.getLogger(__name__)

POSITION_SECONDS = 0.5
POSITION_PATIENCE_SECONDS = 2.0
# A connection is waited for so long before the primary is asked.
CONNECTION_SECONDS = 0.5
# Notes of the primary that are kept: those of four minutes.
MOST_NOTES = 500

WRITTEN = "select pg_current_wal_flush_lsn() - '0/0'::pg_lsn"
REPLAYED = """
    select case when pg_is_in_recovery() then pg_last_wal_replay_lsn() - '0/0'::pg_lsn end
"""


@dataclass
class Lag:
    """Notes of the primary's position, and the time of the newest that is replayed."""

    notes: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=MOST_NOTES))
    current_at: float = float("-inf")

    def note(self, at: float, written: int) -> None:
        """Note that all that was committed until `at` is before a position."""
        self.notes.append((at, written))

    def replayed(self, position: int) -> None:
        """Note how far the replica is."""
        while self.notes and self.notes[0][1] <= position:
            self.current_at, _ = self.notes.popleft()


class Replica:
    """The replica of the settings; `usable` while it is behind by less than they allow."""

    def __init__(self, settings: Settings) -> None:
        self._primary_url = direct_url(settings.database)
        self._url = replica_url(settings.replica)
        self._most = settings.replica.max_lag_seconds
        self.pool: Pool = create_pool(settings.database, url=self._url, patience=CONNECTION_SECONDS)
        self._lag = Lag()
        self._connections: dict[str, psycopg.AsyncConnection] = {}
        self._was_usable = False

    @property
    def behind(self) -> float | None:
        """The seconds that it is behind at most; None while that is not known."""
        behind = time.monotonic() - self._lag.current_at
        return behind if behind < float("inf") else None

    @property
    def usable(self) -> bool:
        """True if reads may go to it."""
        return time.monotonic() - self._lag.current_at <= self._most

    def leave_out(self, error: object) -> None:
        """Send it no more reads until it is measured again."""
        logger.warning("the replica is left out: %s", str(error).strip())
        self._lag.current_at = float("-inf")

    async def follow(self) -> None:
        """Measure the lag until cancelled."""
        try:
            while True:
                await asyncio.gather(self._ask_primary(), self._ask_replica())
                if self.usable != self._was_usable:
                    self._was_usable = self.usable
                    words = "reads go to" if self.usable else "reads go to the primary, not to"
                    logger.warning("%s the replica", words)
                await asyncio.sleep(POSITION_SECONDS)
        finally:
            for connection in self._connections.values():
                await connection.close()

    async def _ask_primary(self) -> None:
        asked_at = time.monotonic()
        written = await self._ask(self._primary_url, WRITTEN)
        if written is not None:
            self._lag.note(asked_at, written)

    async def _ask_replica(self) -> None:
        replayed = await self._ask(self._url, REPLAYED)
        if replayed is None:  # gone, or promoted: then it is no replica of this primary
            self._lag.current_at = float("-inf")
        elif self.usable or await self._connects():
            self._lag.replayed(replayed)

    async def _connects(self) -> bool:
        """Return whether the pool can connect; after a restart it may wait before it tries."""
        try:
            async with self.pool.connection():
                return True
        except psycopg.OperationalError:
            return False

    async def _ask(self, url: str, query: str) -> int | None:
        """Return a position, or None if the server does not answer or has none."""
        try:
            async with asyncio.timeout(POSITION_PATIENCE_SECONDS):
                connection = self._connections.get(query)
                if connection is None or connection.closed:
                    connection = await psycopg.AsyncConnection.connect(
                        url, autocommit=True, application_name="flows-gateway replica"
                    )
                    self._connections[query] = connection
                row = await (await connection.execute(query)).fetchone()
        except (psycopg.Error, TimeoutError, OSError):
            if broken := self._connections.pop(query, None):
                with suppress(psycopg.Error):
                    await broken.close()
            return None
        return None if row is None or row[0] is None else int(row[0])
