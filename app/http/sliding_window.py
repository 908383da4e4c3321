"""Counters of a quota over a sliding window: in this process, or in Redis for several gateways."""

import asyncio
import time
from typing import NamedTuple, Protocol

from limits import RateLimitItem
from limits.aio.storage import Storage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from limits.storage import storage_from_string

STORE_SECONDS = 0.25


class Hit(NamedTuple):
    """The result of a count: allowed or not, requests left, seconds until more are available."""

    allowed: bool
    remaining: int
    seconds: float


class SlidingWindow(Protocol):
    """Counts the requests of each identity against a quota."""

    async def hit(self, identity: str) -> Hit:
        """Count a request, unless the quota is used up."""
        ...


class LocalWindow:
    """Counts in this process: of the current window, and of the previous one weighted by its rest.

    The library's memory storage calculates the same, but starts a task per request that checks all
    counts.
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
        before, count = self._before.get(identity, 0), self._counts.get(identity, 0)
        hit = judge(self._amount, self._seconds, before, count, self._seconds - passed)
        if hit.allowed:
            self._counts[identity] = count + 1
        return hit


def judge(amount: int, window: int, before: int, count: int, left: float) -> Hit:
    """Return the result of a request after `count` others, in a window that ends in `left` seconds.

    In the window before there were `before`; both are `window` seconds long.
    """
    weighted = int(before * left / window + count)
    allowed = weighted < amount
    # Requests of the previous window free up one by one, those of this one when it is over.
    seconds = left % (window / before) if before else left
    return Hit(allowed, max(0, amount - weighted - allowed), seconds)


class SharedWindow:
    """Counts of all gateways in Redis; StorageError or OSError if it does not answer."""

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
