"""Counts of one quota in a window that slides: in this process alone, or in Redis for several."""

import asyncio
import time
from dataclasses import dataclass
from typing import Protocol

from limits import RateLimitItem
from limits.aio.storage import Storage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from limits.storage import storage_from_string

STORE_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Hit:
    """Whether one more was allowed, how many are left, and the seconds until more come back."""

    allowed: bool
    remaining: int
    seconds: float


class SlidingWindow(Protocol):
    """Counts the requests of each identity against a quota."""

    async def hit(self, identity: str) -> Hit:
        """Count one request, unless the quota is used up."""
        ...


class LocalWindow:
    """This process's counts: of the window of now, and of the one before, weighted by what is left.

    The library's storage in memory reckons the same, but starts a task for each request that looks
    at every count there is.
    """

    def __init__(self, quota: RateLimitItem) -> None:
        self._amount = quota.amount
        self._seconds = quota.get_expiry()
        self._number = 0.0
        self._before: dict[str, int] = {}
        self._counts: dict[str, int] = {}

    async def hit(self, identity: str) -> Hit:
        """Count one request."""
        number, passed = divmod(time.time(), self._seconds)
        if number != self._number:
            self._before = self._counts if number == self._number + 1 else {}
            self._number, self._counts = number, {}
        left = self._seconds - passed
        before, count = self._before.get(identity, 0), self._counts.get(identity, 0)
        weighted = int(before * left / self._seconds + count)
        allowed = weighted < self._amount
        if allowed:
            self._counts[identity] = count + 1
            weighted += 1
        # The earlier window's requests come back one by one, this one's all when it is over.
        seconds = left % (self._seconds / before) if before else left
        return Hit(allowed, max(0, self._amount - weighted), seconds)


class SharedWindow:
    """Counts in Redis, of all gateways; StorageError or TimeoutError when it does not answer."""

    def __init__(self, quota: RateLimitItem, name: str, url: str) -> None:
        storage = storage_from_string(
            f"async+{url}",
            wrap_exceptions=True,
            connect_timeout=STORE_SECONDS,
            stream_timeout=STORE_SECONDS,
        )
        assert isinstance(storage, Storage)  # noqa: S101  (async+redis is asynchronous)
        self._limiter = SlidingWindowCounterRateLimiter(storage)
        self._quota = quota
        self._name = name

    async def hit(self, identity: str) -> Hit:
        """Count one request."""
        async with asyncio.timeout(STORE_SECONDS):
            allowed = await self._limiter.hit(self._quota, self._name, identity)
            window = await self._limiter.get_window_stats(self._quota, self._name, identity)
        return Hit(allowed, window.remaining, window.reset_time - time.time())
