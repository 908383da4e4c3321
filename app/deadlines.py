"""Deadlines of which nearly all are met: one timer of the event loop for all that are alike.

A request that is passed through sets several, for its turn, its answer and the one after it; a
timer each would be made and cancelled for nothing.
"""

import asyncio
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Awaited = TypeVar("Awaited", bound=Hashable)


class Deadlines(Generic[Awaited]):
    """Calls `on_miss` with each key that was set and not dropped within so many `seconds`."""

    def __init__(self, seconds: float, on_miss: Callable[[Awaited], None]) -> None:
        self._seconds = seconds
        self._on_miss = on_miss
        self._timer: asyncio.TimerHandle | None = None
        # As all have the same time, the first that was set is the first to end.
        self._ends: dict[Awaited, float] = {}

    def __len__(self) -> int:
        return len(self._ends)

    @property
    def first(self) -> Awaited:
        """The key that was set first; StopIteration if there is none."""
        return next(iter(self._ends))

    def set(self, key: Awaited) -> None:
        """Let the time of a key begin, or begin anew."""
        loop = asyncio.get_running_loop()
        self._ends.pop(key, None)  # so that it becomes the last
        self._ends[key] = end = loop.time() + self._seconds
        if self._timer is None:
            self._timer = loop.call_at(end, self._look)

    def drop(self, key: Awaited) -> None:
        """Forget a key, if it is known."""
        self._ends.pop(key, None)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        while self._ends:
            end = self._ends[key := self.first]
            if end > loop.time():
                self._timer = loop.call_at(end, self._look)
                return
            del self._ends[key]
            self._on_miss(key)
