"""Limits on requests that come without a valid token, so that a flood of them waits for itself.

Documents, probes and refusals cost little each, but the gateway answers them in the thread in which
it answers everybody else.
"""

import asyncio
import time

from starlette.requests import Request
from starlette.types import Scope

from app.auth.deps import client_address
from app.auth.throttle import counted_address
from app.errors import TooManyRequests
from app.settings import Settings
from app.turns import NoTurn, Places, Turns

PLACES = 5
# A place rests after each request, and the longer the more it took: a flood gets a hundred answers
# a second, and fewer where each is work, for which the gateway spends a fraction of its time.
REST_SECONDS, LONGEST_REST_SECONDS = 0.05, 1.0
REST_RATIO = 9
# Whoever floods the documents does not keep the balancer at the same address from asking.
PROBES = ("/live", "/ready")
AUTH_PREFIX = "/auth/"


class StrangerLimit:
    """An async context manager around a request, which holds one of its address's places.

    It raises TooManyRequests if too many wait already, or if the turn does not come in time.
    """

    def __init__(self, places: Places) -> None:
        self._places = places
        self._began = 0.0

    async def __aenter__(self) -> None:
        try:
            await self._places.take()
        except NoTurn:
            raise TooManyRequests(
                "Too many requests without a token come from this address.", retry_after=1
            ) from None
        self._began = time.monotonic()

    async def __aexit__(self, *_: object) -> None:
        rest = max(REST_SECONDS, REST_RATIO * (time.monotonic() - self._began))
        loop = asyncio.get_running_loop()
        loop.call_later(min(rest, LONGEST_REST_SECONDS), self._places.release)


class StrangerLimits:
    """The limits of all addresses with current requests."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        limits = settings.limits
        self._turns = Turns(PLACES, limits.waiting, limits.turn_seconds)

    def of(self, scope: Scope) -> StrangerLimit:
        """Return the limit of a request."""
        key = counted_address(client_address(Request(scope), self._settings))
        if scope["path"] in PROBES:
            key += " probes"
        elif scope["path"].startswith(AUTH_PREFIX):
            key += " refused"
        return StrangerLimit(self._turns.of(key))
