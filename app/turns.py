"""Turns: each key has a number of places, and a bounded queue of those who wait for one."""

import asyncio
from collections import Counter
from dataclasses import dataclass
from weakref import WeakValueDictionary

from app.deadlines import Deadlines


class NoTurn(Exception):  # noqa: N818  (callers turn it into a response)
    """The queue is full, or the turn did not come in time."""


class Places:
    """The places of one key: `take` one and `release` it; first come, first served."""

    def __init__(self, places: int, most_waiting: float, seconds: float) -> None:
        self._free = places
        self._most_waiting = most_waiting
        self._waiting = Deadlines[asyncio.Future[None]](seconds, _give_up)

    async def take(self) -> None:
        """Take a place; NoTurn if too many wait already, or if the turn does not come in time."""
        if self._free:
            self._free -= 1
            return
        if len(self._waiting) >= self._most_waiting:
            raise NoTurn
        turn = asyncio.get_running_loop().create_future()
        self._waiting.set(turn)
        try:
            await turn
        except asyncio.CancelledError:
            self._waiting.drop(turn)
            if not turn.cancelled() and turn.exception() is None:
                self.release()  # the turn came just before
            raise

    @property
    def awaited(self) -> bool:
        """True while somebody waits for a place."""
        return bool(self._waiting)

    def release(self) -> None:
        """Give a place back, to whoever has waited longest."""
        while self._waiting:
            turn = self._waiting.first
            self._waiting.drop(turn)
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1


@dataclass(frozen=True, slots=True)
class CommonPlace:
    """A place that a key may take of those that all keys have in common."""

    common: "CommonPlaces"
    key: str

    async def take(self) -> None:
        """Take it; NoTurn if none is left to the key in time."""
        await self.common.take(self.key)

    def release(self) -> None:
        """Give it back, to those who have waited longest and may take one."""
        self.common.release(self.key)


class CommonPlaces:
    """Places that all keys have in common, and a key holds at most twice as many as it leaves.

    So those who come find some, and one who holds many waits before others do. Who holds none
    takes one at once, even beyond the last.
    """

    def __init__(self, places: int, seconds: float) -> None:
        self._free = places
        self._held: Counter[str] = Counter()
        self._waiting: dict[asyncio.Future[None], str] = {}
        self._deadlines = Deadlines[asyncio.Future[None]](seconds, _give_up)

    def of(self, key: str) -> CommonPlace:
        """Return a place for a key."""
        return CommonPlace(self, key)

    async def take(self, key: str) -> None:
        """Take a place for a key; NoTurn if none is left to it in time."""
        if self._may_take(key):
            self._give(key)
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting[turn] = key
        self._deadlines.set(turn)
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.release(key)  # the turn came just before
            raise
        finally:
            self._waiting.pop(turn, None)
            self._deadlines.drop(turn)

    def release(self, key: str) -> None:
        """Give back a place of a key, to those who have waited longest and may take one."""
        self._free += 1
        self._held[key] -= 1
        if not self._held[key]:
            del self._held[key]
        for turn, waiting in list(self._waiting.items()):
            if not turn.done() and self._may_take(waiting):
                del self._waiting[turn]
                self._give(waiting)
                turn.set_result(None)

    def _may_take(self, key: str) -> bool:
        held = self._held[key]
        return not held or held + 1 <= 2 * (self._free - 1)

    def _give(self, key: str) -> None:
        self._free -= 1
        self._held[key] += 1


def _give_up(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_exception(NoTurn())


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
