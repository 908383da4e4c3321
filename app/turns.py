"""Turns: each key has a number of places, and a bounded queue of those who wait for one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary


class NoTurn(Exception):  # noqa: N818  (callers turn it into a response)
    """The queue is full, or the turn did not come in time."""


async def acquire_within(semaphore: asyncio.Semaphore, seconds: float) -> None:
    """Acquire the semaphore, first come, first served; TimeoutError after `seconds`."""
    if not semaphore.locked():
        await semaphore.acquire()  # does not wait, so it needs no timer
        return
    async with asyncio.timeout(seconds):
        await semaphore.acquire()


class _Queue:
    def __init__(self, places: int) -> None:
        self.places = asyncio.Semaphore(places)
        self.waiting = 0


class Turns:
    """Places per key; a key is forgotten when nobody holds or awaits one of its places."""

    def __init__(self, places: int, most_waiting: int, seconds: float) -> None:
        self._places = places
        self._most_waiting = most_waiting
        self._seconds = seconds
        self._queues: WeakValueDictionary[str, _Queue] = WeakValueDictionary()

    @asynccontextmanager
    async def of(self, key: str) -> AsyncIterator[None]:
        """Hold one of the key's places; NoTurn if too many wait, or after `seconds` of waiting."""
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = _Queue(self._places)
        if queue.places.locked() and queue.waiting >= self._most_waiting:
            raise NoTurn
        queue.waiting += 1
        try:
            await acquire_within(queue.places, self._seconds)
        except TimeoutError:
            raise NoTurn from None
        finally:
            queue.waiting -= 1
        try:
            yield
        finally:
            queue.places.release()
