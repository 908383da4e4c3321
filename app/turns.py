"""Turns: each key has a number of places, and a bounded queue of those who wait for one."""

import asyncio
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


class Places:
    """The places of one key: an async context manager that holds one of them.

    NoTurn if too many wait already, or if the turn does not come in time.
    """

    def __init__(self, places: int, most_waiting: int, seconds: float) -> None:
        self._free = asyncio.Semaphore(places)
        self._most_waiting = most_waiting
        self._seconds = seconds
        self._waiting = 0

    async def __aenter__(self) -> None:
        if self._free.locked() and self._waiting >= self._most_waiting:
            raise NoTurn
        self._waiting += 1
        try:
            await acquire_within(self._free, self._seconds)
        except TimeoutError:
            raise NoTurn from None
        finally:
            self._waiting -= 1

    async def __aexit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Give a place back."""
        self._free.release()


class Turns:
    """The places of all keys; a key is forgotten when nobody holds or awaits one of its places."""

    def __init__(self, places: int, most_waiting: int, seconds: float) -> None:
        self._settings = places, most_waiting, seconds
        self._known: WeakValueDictionary[str, Places] = WeakValueDictionary()

    def of(self, key: str) -> Places:
        """Return the places of a key."""
        places = self._known.get(key)
        if places is None:
            places = self._known[key] = Places(*self._settings)
        return places
