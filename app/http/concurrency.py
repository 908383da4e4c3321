"""Limits on concurrent requests, so that no ESCO occupies all database connections."""

import asyncio
from collections.abc import Callable
from weakref import WeakValueDictionary

from app.db.principal import Principal
from app.errors import TooManyRequests
from app.settings import LimitsSettings
from app.turns import acquire_within


class ConcurrencyLimit:
    """An async context manager around a request's work; excess requests wait their turn in order.

    It raises TooManyRequests if the turn does not come in time.
    """

    def __init__(self, settings: LimitsSettings, on_refusal: Callable[[], None]) -> None:
        self._settings = settings
        self._on_refusal = on_refusal
        self._turns = asyncio.Semaphore(settings.concurrent)

    async def __aenter__(self) -> None:
        try:
            await acquire_within(self._turns, self._settings.turn_seconds)
        except TimeoutError:
            self._on_refusal()
            raise TooManyRequests(
                f"{self._settings.concurrent} requests of your ESCO are still running, which is "
                "the most at a time.",
                retry_after=2,
            ) from None

    async def __aexit__(self, *_: object) -> None:
        self._turns.release()


class ConcurrencyLimits:
    """The limits of all callers with current requests; `on_refusal` is called for each 429."""

    def __init__(self, settings: LimitsSettings, on_refusal: Callable[[], None]) -> None:
        self._settings = settings
        self._on_refusal = on_refusal
        self._limits: WeakValueDictionary[str, ConcurrencyLimit] = WeakValueDictionary()

    def of(self, caller: Principal) -> ConcurrencyLimit:
        """Return the limit of the caller's ESCO; callers without one have their own."""
        name = caller.tenant or caller.client_id
        limit = self._limits.get(name)
        if limit is None:
            limit = self._limits[name] = ConcurrencyLimit(self._settings, self._on_refusal)
        return limit
