"""Limits on concurrent requests, so that no ESCO occupies all database connections."""

from collections.abc import Callable

from app.db.principal import Principal
from app.errors import TooManyRequests
from app.settings import LimitsSettings
from app.turns import NoTurn, Places, Turns


class ConcurrencyLimit:
    """An async context manager around a whole request, which holds one of its ESCO's places.

    It raises TooManyRequests if too many wait already, or if the turn does not come in time.
    """

    def __init__(self, places: Places, most: int, on_refusal: Callable[[], None]) -> None:
        self._places = places
        self._most = most
        self._on_refusal = on_refusal

    async def __aenter__(self) -> None:
        try:
            await self._places.__aenter__()
        except NoTurn:
            self._on_refusal()
            raise TooManyRequests(
                f"{self._most} requests of your ESCO are still running, which is the most at a "
                "time.",
                retry_after=2,
            ) from None

    async def __aexit__(self, *_: object) -> None:
        await self._places.__aexit__()


class ConcurrencyLimits:
    """The limits of all callers with current requests; `on_refusal` is called for each 429."""

    def __init__(self, settings: LimitsSettings, on_refusal: Callable[[], None]) -> None:
        self._most = settings.concurrent
        self._on_refusal = on_refusal
        self._turns = Turns(settings.concurrent, settings.waiting, settings.turn_seconds)

    def of(self, caller: Principal) -> ConcurrencyLimit:
        """Return the limit of the caller's ESCO; callers without one have their own."""
        places = self._turns.of(caller.tenant or caller.client_id)
        return ConcurrencyLimit(places, self._most, self._on_refusal)
