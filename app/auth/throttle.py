"""Guessing secrets is slowed down: wrong ones are counted per client and per address."""

import math
import time

from limits import RateLimitItem, RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import MovingWindowRateLimiter

# A wrong secret counts against the pair first, so that nobody locks a client out from elsewhere.
PER_PAIR = RateLimitItemPerMinute(10)
PER_ADDRESS = RateLimitItemPerMinute(30)
PER_CLIENT = RateLimitItemPerMinute(100)


class Throttle:
    """Counts failures of this process; `retry_after` says how long to wait, 0 when one may try."""

    def __init__(self) -> None:
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    async def retry_after(self, client_id: str, address: str) -> int:
        """Seconds until the next try is looked at."""
        waits = [0.0]
        for item, key in _keys(client_id, address):
            if not await self._limiter.test(item, *key):
                window = await self._limiter.get_window_stats(item, *key)
                waits.append(window.reset_time - time.time())
        return max(0, math.ceil(max(waits)))

    async def failed(self, client_id: str, address: str) -> None:
        """Count a wrong id or secret."""
        for item, key in _keys(client_id, address):
            await self._limiter.hit(item, *key)


def _keys(client_id: str, address: str) -> list[tuple[RateLimitItem, tuple[str, ...]]]:
    return [
        (PER_PAIR, ("pair", client_id, address)),
        (PER_ADDRESS, ("address", address)),
        (PER_CLIENT, ("client", client_id)),
    ]
