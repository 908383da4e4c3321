"""Limits on concurrent requests, so that no ESCO occupies all database connections, or its cores.

An ESCO may run several requests at a time, as a page does that loads. Those that run long would
keep the database's cores from others, so fewer of them run at a time when they go on. So do those
that PostgREST needs much memory for: of a large body, and where an answer repeats what it embeds.
The workers of a gateway divide the places among them: each has its own, which it gives without
asking others.
"""

import math
import re
import time
from collections.abc import Callable

from starlette.types import Scope

from app.db.principal import RESIDENT, Principal
from app.errors import TooManyRequests
from app.request_state import RequestState
from app.settings import LimitsSettings
from app.turns import NoTurn, Places, Turns

# Seconds for which requests may run beyond those that an ESCO may sustain, all of them together.
BURST_SECONDS = 4.0
# The most that is made up for: an hour of slow uploads leaves nobody short of places for another.
MOST_SECONDS = 30.0
MOST_REMEMBERED = 10_000
LARGE_BODY_BYTES = 2**20
EMBEDDING = re.compile(rb"(?:^|[&;])select=[^&;]*(?:\(|%28)")
SMALL_LIMIT = re.compile(rb"(?:^|[&;])limit=[0-9]{1,2}(?:[&;]|$)")


class RunningTime:
    """Seconds for which an ESCO ran more than `sustained` requests, less those it ran fewer."""

    def __init__(self, sustained: int) -> None:
        self._sustained = sustained
        self._running = 0
        self._excess = 0.0
        self._since = time.monotonic()

    def change(self, running: int) -> None:
        """Begin (1) or end (-1) a request."""
        now = time.monotonic()
        beyond = (self._running - self._sustained) * (now - self._since)
        self._excess, self._since = min(max(0.0, self._excess + beyond), MOST_SECONDS), now
        self._running += running

    @property
    def excess(self) -> float:
        """The seconds so far, each for a request."""
        self.change(0)
        return self._excess


class ConcurrencyLimit:
    """An async context manager around a whole request, which holds one of its ESCO's places.

    While the ESCO's requests have run too long, it holds one of the fewer places for those as well.
    It raises TooManyRequests if too many wait already, or if the turn does not come in time.
    """

    def __init__(
        self,
        places: list[Places],
        most: int,
        state: RequestState,
        running: RunningTime,
        on_refusal: Callable[[], None],
    ) -> None:
        self._places = places
        self._held: list[Places] = []
        self._most = most
        self._state = state
        self._running = running
        self._on_refusal = on_refusal

    async def __aenter__(self) -> None:
        try:
            for places in self._places:
                await places.__aenter__()
                self._held.append(places)
        except BaseException as error:
            await self._release()
            if not isinstance(error, NoTurn):
                raise
            self._on_refusal()
            raise TooManyRequests(
                f"{self._most} requests of your ESCO are still running, which is the most at a "
                "time.",
                retry_after=2,
            ) from None
        self._running.change(1)
        # PostgREST has answered before a slow client has read the response.
        self._state.on_answer = self._end

    async def __aexit__(self, *_: object) -> None:
        self._end()
        await self._release()

    def _end(self) -> None:
        if self._state.on_answer:
            self._state.on_answer = None
            self._running.change(-1)

    async def _release(self) -> None:
        for places in self._held:
            await places.__aexit__()


class ConcurrencyLimits:
    """The limits of all callers with current requests; `on_refusal` is called for each 429."""

    def __init__(
        self, settings: LimitsSettings, on_refusal: Callable[[], None], workers: int = 1
    ) -> None:
        self._most = math.ceil(settings.concurrent / workers)
        self._sustained = min(math.ceil(settings.sustained / workers), self._most)
        self._on_refusal = on_refusal
        self._turns = Turns(self._most, settings.waiting, settings.turn_seconds)
        self._slow_turns = Turns(self._sustained, settings.waiting, settings.turn_seconds)
        # A resident leaves half of their common places to its neighbours.
        half = (math.ceil(places / 2) for places in (self._most, self._sustained))
        self._own_turns, self._own_slow_turns = (
            Turns(places, settings.waiting, settings.turn_seconds) for places in half
        )
        self._running: dict[str, RunningTime] = {}

    def of(self, caller: Principal, state: RequestState, scope: Scope) -> ConcurrencyLimit:
        """Return the limit of the caller's ESCO, or its residents; others have their own."""
        key = caller.crowd or caller.client_id
        running = self._running.get(key)
        if running is None:
            if len(self._running) >= MOST_REMEMBERED:
                self._running = {name: own for name, own in self._running.items() if own.excess}
            running = self._running[key] = RunningTime(self._sustained)
        is_slow = running.excess > BURST_SECONDS or needs_memory(scope)
        places, most = [self._turns.of(key)], self._most
        if is_slow:
            # First, so that those who wait for it leave the other places free.
            places, most = [self._slow_turns.of(key), *places], self._sustained
        if caller.role == RESIDENT:
            own = self._own_slow_turns if is_slow else self._own_turns
            places = [own.of(caller.subject), *places]
        return ConcurrencyLimit(places, most, state, running, self._on_refusal)


def needs_memory(scope: Scope) -> bool:
    """Return whether a request has a large body, or asks for many rows with others within them."""
    for name, value in scope["headers"]:
        if name == b"transfer-encoding" or (
            name == b"content-length" and int(value[:20]) > LARGE_BODY_BYTES
        ):
            return True
    query = scope["query_string"]
    return bool(EMBEDDING.search(query)) and not SMALL_LIMIT.search(query)
