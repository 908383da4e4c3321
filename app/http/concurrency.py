"""Limits on concurrent requests, so that no ESCO occupies all database connections, or its cores.

An ESCO may run several requests at a time, as a page does that loads. Those that run long would
keep the database's cores from others, so fewer of them run at a time when they go on, and sooner
while other ESCOs ask. So do those that PostgREST needs much memory for: of a large body, and where
an answer repeats what it embeds or selects a column under several names.
A core that one ESCO keeps busy all the time makes every other request wait now and then, so the
place of a long request rests for three times as long as it ran while other ESCOs ask, or for as
long if no other request of its ESCO waits for it.
An ESCO's residents hold places of their ESCO's, half of them at most, so that none has more than
others. The workers of a gateway divide the places among them: each has its own, which it gives
without asking others.
Several ESCOs together could still occupy all connections to the database, so none holds more than
twice as many as it leaves.
"""

import asyncio
import math
import re
import time
from collections.abc import Callable
from urllib.parse import unquote_plus

from starlette.types import Scope

from app.db.principal import RESIDENT, Principal
from app.errors import TooManyRequests
from app.http.request_limits import DATA_PREFIX
from app.request_state import RequestState
from app.settings import LimitsSettings
from app.turns import CommonPlace, CommonPlaces, NoTurn, Places, Turns

# Seconds for which requests may run beyond those that an ESCO may sustain, all of them together.
BURST_SECONDS = 4.0
# The same while others ask, who share the cores with all of these meanwhile.
SHARED_BURST_SECONDS = 2.0
# A request that runs for so long is a long one. While others ask it counts for more: one after the
# other keeps a core busy as well. Of a shorter one a part counts, and its place does not rest, for
# some time after another ESCO ran too long, beside which it takes several times as long.
LONG_SECONDS = 0.03
LONG_SURCHARGE = 0.5
SHORT_FORGIVEN = 0.5
BLAMED_SECONDS = 30.0
# The most that is made up for: an hour of slow uploads leaves nobody short of places for another.
MOST_SECONDS = 30.0
# Seconds of rest for one of running, while others of the ESCO wait for the place: with one, a core
# would still be busy half of the time. That is left to who asks one after the other, as exports do.
RESTING_RATIO = 3
LONE_RESTING_RATIO = 1
# Others are asking if one of them did so within this time.
ASKING_SECONDS = 1.0
MOST_REMEMBERED = 10_000
LARGE_BODY_BYTES = 2**20
SELECT = re.compile(rb"(?:^|[&;])select=([^&;]*)")
EMBEDDED_OR_RENAMED = re.compile(r"\(|(?<!:):(?!:)")
SMALL_LIMIT = re.compile(rb"(?:^|[&;])limit=[0-9]{1,2}(?:[&;]|$)")


class RunningTime:
    """Seconds for which an ESCO ran more than `sustained` requests, less those it ran fewer."""

    def __init__(self, sustained: int) -> None:
        self._sustained = sustained
        self._running = 0
        self._excess = 0.0
        self._since = time.monotonic()

    def begin(self) -> None:
        """Count a request from now on."""
        self._catch_up()
        self._running += 1

    def end(self) -> None:
        """Count it no more."""
        self._catch_up()
        self._running -= 1

    def add(self, seconds: float) -> None:
        """Count so many seconds more, or fewer."""
        self._excess = min(max(0.0, self._excess + seconds), MOST_SECONDS)

    @property
    def excess(self) -> float:
        """The seconds so far, each for a request."""
        self._catch_up()
        return self._excess

    def _catch_up(self) -> None:
        now = time.monotonic()
        beyond = (self._running - self._sustained) * (now - self._since)
        self._excess, self._since = min(max(0.0, self._excess + beyond), MOST_SECONDS), now


class LatestEscos:
    """The ESCO that did something last, the one before that is another, and when they did."""

    def __init__(self) -> None:
        self._last = self._other = ("", -math.inf)

    def note(self, key: str) -> None:
        """Remember that an ESCO does it now."""
        if key != self._last[0]:
            self._other = self._last
        self._last = key, time.monotonic()

    def another(self, key: str, seconds: float) -> bool:
        """Return whether another than this one did it within so many seconds."""
        _, noted = self._last if self._last[0] != key else self._other
        return time.monotonic() - noted < seconds


class Shares:
    """The places of each ESCO, `most` of them, and what of these its callers may hold.

    Who waits does so among its kind, so that neither programs nor residents queue before the other.
    """

    def __init__(self, most: int, settings: LimitsSettings) -> None:
        half = math.ceil(most / 2)
        self._all, self._programs, self._residents, self._resident = (
            Turns(places, settings.waiting, settings.turn_seconds)
            for places in (most, most, half, math.ceil(half / 2))
        )

    def of(self, caller: Principal) -> list[Places]:
        """Return the places of which a caller takes one each, in this order."""
        key = caller.tenant or caller.client_id
        if caller.role == RESIDENT:
            own = [self._resident.of(caller.subject), self._residents.of(key)]
        else:
            own = [self._programs.of(key)]
        return [*own, self._all.of(key)]


class ConcurrencyLimit:
    """An async context manager around a whole request, which holds one of its ESCO's places.

    While the ESCO's requests have run too long, it holds one of the fewer places for those as well.
    That one rests afterwards, by how long the query ran, if others ask then.
    All rest for as long as the request's state says.
    It holds a `connection` until the query is answered.
    It raises TooManyRequests if too many wait already, or if the turn does not come in time.
    """

    def __init__(
        self,
        places: list[Places],
        long: Callable[[], list[Places]],
        connection: CommonPlace,
        state: RequestState,
        running: RunningTime,
        on_refusal: Callable[[], None],
        *,
        key: str,
        asking: LatestEscos,
        blamed: LatestEscos,
        needs_memory: bool,
    ) -> None:
        self._places = places
        self._long = long
        self._connection = connection
        self._held: list[Places] = []
        self._state = state
        self._running = running
        self._on_refusal = on_refusal
        self._key = key
        self._asking = asking
        self._blamed = blamed
        self._needs_memory = needs_memory
        self._resting: list[Places] = []
        self._began = self._rested = 0.0

    async def __aenter__(self) -> None:
        try:
            await self._take_places()
            await self._connection.take()
        except BaseException as error:
            self._release()
            if not isinstance(error, NoTurn):
                raise
            self._on_refusal()
            raise TooManyRequests(
                "Requests of your ESCO are still running, as many as may at a time: fewer when "
                "they run long, and while others need the connections.",
                retry_after=2,
            ) from None
        self._running.begin()
        self._began = time.monotonic()
        # PostgREST has answered before a slow client has read the response.
        self._state.on_answer = self._end

    async def _take_places(self) -> None:
        """Take the places, again if the ESCO's requests have run too long when the turn comes.

        Else all that wait when that happens would still run, as many at a time as before.
        """
        if not self._needs_memory and not self._runs_long():
            await self._take(self._places)
            if not self._runs_long():
                return
            self._release()
        long = self._long()
        # First, so that those who wait for it leave the other places free.
        await self._take([*long, *self._places])
        if self._runs_long():
            self._resting = long

    def _runs_long(self) -> bool:
        excess = self._running.excess
        if excess > BURST_SECONDS or (excess > SHARED_BURST_SECONDS and self._do_others_ask()):
            self._blamed.note(self._key)
            return True
        return False

    def _do_others_ask(self) -> bool:
        return self._asking.another(self._key, ASKING_SECONDS)

    async def _take(self, places: list[Places]) -> None:
        for each in places:
            await each.take()
            self._held.append(each)

    async def __aexit__(self, *_: object) -> None:
        self._end()
        self._release()

    def _end(self) -> None:
        if self._state.on_answer:
            self._state.on_answer = None
            self._connection.release()
            now = time.monotonic()
            ran = now - self._began
            is_long, do_others_ask = ran >= LONG_SECONDS, self._do_others_ask()
            is_slowed = not is_long and self._blamed.another(self._key, BLAMED_SECONDS)
            if is_long and do_others_ask:
                self._running.add(LONG_SURCHARGE * ran)
            elif is_slowed:
                self._running.add(-SHORT_FORGIVEN * ran)
            if self._resting and do_others_ask and not is_slowed:
                is_awaited = any(places.awaited for places in self._resting)
                ratio = RESTING_RATIO if is_awaited else LONE_RESTING_RATIO
                rest = ratio * min(ran, MOST_SECONDS)
                self._rested = now + rest
                # It counts as running meanwhile, so that a rest makes up for nothing.
                asyncio.get_running_loop().call_later(rest, self._running.end)
            else:
                self._running.end()

    def _release(self) -> None:
        after_query = self._rested - time.monotonic()
        for places in self._held:
            rest = max(
                self._state.rest_seconds, after_query if places in self._resting[-1:] else 0.0
            )
            if rest > 0:
                asyncio.get_running_loop().call_later(rest, places.release)
            else:
                places.release()
        self._held.clear()


class ConcurrencyLimits:
    """The limits of all callers with current requests; `on_refusal` is called for each 429.

    `of_postgrest` and `of_pool` are numbers of connections to the database.
    """

    def __init__(
        self,
        settings: LimitsSettings,
        on_refusal: Callable[[], None],
        *,
        of_postgrest: int,
        of_pool: int,
        workers: int = 1,
    ) -> None:
        self._most = math.ceil(settings.concurrent / workers)
        self._sustained = min(math.ceil(settings.sustained / workers), self._most)
        # Workers share PostgREST's connections, while each has a pool.
        self._of_postgrest, self._of_pool = (
            CommonPlaces(places, settings.turn_seconds)
            for places in (math.ceil(of_postgrest / workers), of_pool)
        )
        self._on_refusal = on_refusal
        self._shares = Shares(self._most, settings)
        self._slow_shares = Shares(self._sustained, settings)
        self._running: dict[str, RunningTime] = {}
        self._asking = LatestEscos()
        self._blamed = LatestEscos()  # who runs too long

    def of(self, caller: Principal, state: RequestState, scope: Scope) -> ConcurrencyLimit:
        """Return the limit of the caller's ESCO, or its residents; others have their own."""
        key = caller.crowd or caller.client_id
        running = self._running.get(key)
        if running is None:
            if len(self._running) >= MOST_REMEMBERED:
                self._running = {name: own for name, own in self._running.items() if own.excess}
            running = self._running[key] = RunningTime(self._sustained)
        self._asking.note(key)
        is_rest = scope["path"].startswith(DATA_PREFIX)
        connections = self._of_postgrest if is_rest else self._of_pool
        return ConcurrencyLimit(
            self._shares.of(caller), lambda: self._slow_shares.of(caller),
            connections.of(caller.tenant or caller.client_id), state, running, self._on_refusal,
            key=key, asking=self._asking, blamed=self._blamed, needs_memory=needs_memory(scope),
        )  # fmt: skip


def needs_memory(scope: Scope) -> bool:
    """Return whether a request has a large body, or asks for many rows that repeat something."""
    for name, value in scope["headers"]:
        if name == b"transfer-encoding" or (
            name == b"content-length" and int(value[:20]) > LARGE_BODY_BYTES
        ):
            return True
    query = scope["query_string"]
    return _may_repeat(query) and not SMALL_LIMIT.search(query)


def _may_repeat(query: bytes) -> bool:
    """Return whether each row may hold others, or a column more than once."""
    if b"select=" not in query:
        return False
    select = unquote_plus(b",".join(SELECT.findall(query)).decode("latin-1"))
    columns = select.split(",")
    return bool(EMBEDDED_OR_RENAMED.search(select)) or len(set(columns)) < len(columns)
