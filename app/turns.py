"""Turns: each key has a number of places, and a bounded queue of those who wait for one."""

import asyncio
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

    def release(self) -> None:
        """Give a place back, to whoever has waited longest."""
        while self._waiting:
            turn = self._waiting.first
            self._waiting.drop(turn)
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1


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
