"""Counters of a quota over a sliding window, together for the workers of one gateway.

Each worker counts in tables of its own, in memory that all share, and adds up those of all: no
worker waits for another, and a request that two count at the same moment is at worst admitted
beyond the quota.
"""

import mmap
import time
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

from limits import RateLimitItem

from app.http.sliding_window import Hit, judge

# Identities of a window in one worker; more are counted by that worker alone.
SLOTS = 8192
MOST_PROBES = 64
# Of a table: its window's number, then each slot's key and count.
TABLE_CELLS = 1 + 2 * SLOTS
TABLE_BYTES = 8 * TABLE_CELLS
QUOTAS = ("client", "esco")
# Of each quota the present window and the one before.
WORKER_BYTES = len(QUOTAS) * 2 * TABLE_BYTES


@dataclass(frozen=True)
class WorkerCounts:
    """The memory with the counts of all workers, and the place of this one."""

    memory: mmap.mmap
    places: int
    place: int = 0

    @classmethod
    def share(cls, places: int) -> "WorkerCounts":
        """Return memory that processes share which are forked afterwards."""
        return cls(mmap.mmap(-1, places * WORKER_BYTES), places)

    def of(self, place: int) -> "WorkerCounts":
        """Return the same counts, for the worker at a place."""
        return WorkerCounts(self.memory, self.places, place)

    def window(self, quota: RateLimitItem, name: str) -> "WorkerWindow":
        """Return the window of one of `QUOTAS`."""
        tables = []
        for place in range(self.places):
            first = place * WORKER_BYTES + QUOTAS.index(name) * 2 * TABLE_BYTES
            starts = first, first + TABLE_BYTES
            tables.append(
                [CountTable(memoryview(self.memory)[at : at + TABLE_BYTES]) for at in starts]
            )
        return WorkerWindow(quota, tables, self.place)


class CountTable:
    """The counts of one window in one worker, which alone writes them."""

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory
        self._cells = memory.cast("Q")

    def count(self, number: int, key: int) -> int:
        """Return the count of a key if the table is of the window `number`, else 0."""
        if self._cells[0] != number:
            return 0
        at = self._slot(key)
        return self._cells[at + 1] if at and self._cells[at] == key else 0

    def add(self, number: int, key: int) -> bool:
        """Count once more, in a table that becomes the window's; return False if it is full."""
        cells = self._cells
        if cells[0] != number:
            cells[0] = 0
            self._memory[8:] = bytes(TABLE_BYTES - 8)
            cells[0] = number
        at = self._slot(key)
        if not at:
            return False
        cells[at + 1] += 1
        cells[at] = key
        return True

    def _slot(self, key: int) -> int:
        """Return the cell of the key, or of the free slot for it; 0 if there is none."""
        cells = self._cells
        for probe in range(MOST_PROBES):
            at = 1 + 2 * ((key + probe) % SLOTS)
            if cells[at] in (key, 0):
                return at
        return 0


class WorkerWindow:
    """Counts as `LocalWindow` does, with the counts of all workers."""

    def __init__(self, quota: RateLimitItem, tables: list[list[CountTable]], place: int) -> None:
        self._amount = quota.amount
        self._seconds = quota.get_expiry()
        self._tables = tables
        self._own = tables[place]
        self._beyond: dict[tuple[int, int], int] = {}

    async def hit(self, identity: str) -> Hit:
        """Count one request."""
        window, passed = divmod(time.time(), self._seconds)
        number, key = int(window), _key(identity)
        count = sum(tables[number % 2].count(number, key) for tables in self._tables)
        before = sum(tables[(number - 1) % 2].count(number - 1, key) for tables in self._tables)
        count += self._beyond.get((number, key), 0)
        hit = judge(self._amount, self._seconds, before, count, self._seconds - passed)
        if hit.allowed and not self._own[number % 2].add(number, key):
            if len(self._beyond) > SLOTS:
                self._beyond = {}
            self._beyond[number, key] = self._beyond.get((number, key), 0) + 1
        return hit


@lru_cache(maxsize=SLOTS)
def _key(identity: str) -> int:
    """Return a number other than 0 that stands for an identity."""
    return int.from_bytes(blake2b(identity.encode(), digest_size=8).digest()) | 1
