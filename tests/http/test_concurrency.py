"""An ESCO runs several requests at a time, and fewer when they go on (SECURITY 50 and 54)."""

import asyncio
from contextlib import AsyncExitStack
from types import SimpleNamespace
from uuid import UUID

import pytest
from starlette.types import Message, Receive, Scope, Send

from app.db.principal import RESIDENT, Principal
from app.errors import TooLarge, TooManyRequests
from app.http import concurrency
from app.http.concurrency import (
    ASKING_SECONDS,
    BURST_SECONDS,
    LONE_RESTING_RATIO,
    LONG_SECONDS,
    LONG_SURCHARGE,
    MOST_SECONDS,
    RESTING_RATIO,
    SHARED_BURST_SECONDS,
    SHORT_FORGIVEN,
    ConcurrencyLimit,
    ConcurrencyLimits,
)
from app.http.protocol import Frames
from app.http.request_limits import FRAMING_REST_SECONDS, BodyLimits
from app.request_state import RequestState, begin_request
from app.settings import HttpSettings, LimitsSettings

SMALL: Scope = {
    "path": "/rest/v1/meter_registry", "headers": [], "query_string": b"select=name&limit=9",
}  # fmt: skip
W, H = (
    Principal("flows", UUID(int=number), "esco", "flc_1", frozenset(), "jti", 0, {})
    for number in (1, 2)
)


class Limits:
    """Limits of four requests at a time, of which one may go on; `now` is their time in seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.refusals = 1000.0, 0
        clock = SimpleNamespace(monotonic=lambda: self.now)
        monkeypatch.setattr(concurrency, "time", clock)
        settings = LimitsSettings(concurrent=4, sustained=1, waiting=9, turn_seconds=0.01)
        self._limits = ConcurrencyLimits(settings, self._refuse, of_postgrest=10, of_pool=10)

    def _refuse(self) -> None:
        self.refusals += 1

    def of(
        self, caller: Principal, scope: Scope = SMALL, state: RequestState | None = None
    ) -> ConcurrencyLimit:
        """Return the limit of a new request."""
        return self._limits.of(caller, state or RequestState("id"), scope)

    async def run(self, caller: Principal, number: int, seconds: float, answer: float = 0) -> None:
        """Run requests side by side for so long, after `answer` seconds with PostgREST's answer."""
        async with AsyncExitStack() as running:
            states = [RequestState("id") for _ in range(number)]
            for state in states:
                await running.enter_async_context(self._limits.of(caller, state, SMALL))
            self.now += answer
            for state in states:
                if answer and state.on_answer:
                    state.on_answer()
            self.now += seconds

    async def at_a_time(self, caller: Principal, scope: Scope = SMALL) -> int:
        """Return how many requests run at a time, that take no time."""
        async with AsyncExitStack() as running:
            for number in range(9):
                try:
                    await running.enter_async_context(self.of(caller, scope))
                except TooManyRequests:
                    return number
        raise AssertionError("there is no limit")


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Limits:
    return Limits(monkeypatch)


def test_50_long_requests_leave_an_esco_fewer_places_for_a_while(limits: Limits) -> None:
    async def run() -> None:
        assert await limits.at_a_time(W) == 4
        await limits.run(W, 4, seconds=BURST_SECONDS)
        assert await limits.at_a_time(W) == 1
        assert await limits.at_a_time(H) == 4
        assert limits.refusals == 3
        limits.now += 2 * BURST_SECONDS
        assert await limits.at_a_time(W) == 4

    asyncio.run(run())


def test_50_an_hour_of_long_requests_is_soon_made_up_for(limits: Limits) -> None:
    async def run() -> None:
        await limits.run(W, 4, seconds=3600)
        assert await limits.at_a_time(W) == 1
        limits.now += MOST_SECONDS
        assert await limits.at_a_time(W) == 4

    asyncio.run(run())


def test_50_what_an_esco_sustains_is_no_burst(limits: Limits) -> None:
    async def run() -> None:
        for _ in range(5):
            await limits.run(W, 1, seconds=BURST_SECONDS * 2)
            assert await limits.at_a_time(W) == 4
        await limits.run(W, 4, seconds=BURST_SECONDS / 4)
        assert await limits.at_a_time(W) == 4

    asyncio.run(run())


def test_50_who_waits_when_a_burst_ends_does_not_prolong_it(limits: Limits) -> None:
    async def run() -> None:
        waiting = AsyncExitStack()
        async with AsyncExitStack() as running:
            for _ in range(4):
                await running.enter_async_context(limits.of(W))
            turns = [
                asyncio.create_task(waiting.enter_async_context(limits.of(W))) for _ in range(4)
            ]
            await asyncio.sleep(0)
            limits.now += BURST_SECONDS
        admitted = await asyncio.gather(*turns, return_exceptions=True)
        assert [isinstance(each, TooManyRequests) for each in admitted].count(False) == 1
        await waiting.aclose()
        assert await limits.at_a_time(W) == 1

    asyncio.run(run())


@pytest.mark.parametrize(("others_ask", "most"), [(False, 4), (True, 1)])
def test_50_a_burst_is_shorter_while_others_ask(
    limits: Limits, others_ask: bool, most: int
) -> None:
    async def run() -> None:
        if others_ask:
            await limits.run(H, 1, seconds=0)
        await limits.run(W, 4, seconds=SHARED_BURST_SECONDS / 3 + 0.01)
        assert await limits.at_a_time(W) == most

    asyncio.run(run())


@pytest.mark.parametrize(
    ("blamed", "seconds", "most"),
    [(H, LONG_SECONDS * 0.99, 4), (H, LONG_SECONDS * 1.01, 1), (W, LONG_SECONDS * 0.99, 1)],
)
def test_50_short_requests_beside_a_burst_are_none(
    limits: Limits, blamed: Principal, seconds: float, most: int
) -> None:
    """One that others slow down is not slowed down further for it."""

    async def run() -> None:
        await limits.run(blamed, 4, seconds=BURST_SECONDS)
        assert await limits.at_a_time(blamed) == 1
        limits.now += MOST_SECONDS / 2
        for _ in range(int(BURST_SECONDS / seconds) + 1):
            await limits.run(W, 2, seconds=seconds)
        assert await limits.at_a_time(W) == most

    asyncio.run(run())


def test_50_short_requests_end_what_long_ones_have_begun(limits: Limits) -> None:
    """Who was slowed down by others is fast again when these are, and asks all the time."""
    short = LONG_SECONDS / 2

    async def run() -> None:
        await limits.run(H, 4, seconds=BURST_SECONDS)
        assert await limits.at_a_time(H) == 1
        await limits.run(W, 4, seconds=ASKING_SECONDS * 0.9)
        assert await limits.at_a_time(W) == 1
        for _ in range(round(4 * SHARED_BURST_SECONDS / SHORT_FORGIVEN / short)):
            await limits.run(W, 1, seconds=short)
        await limits.run(H, 1, seconds=0)
        assert await limits.at_a_time(W) == 4

    asyncio.run(run())


@pytest.mark.parametrize(("others_ask", "most"), [(False, 4), (True, 1)])
def test_50_one_long_request_after_the_other_is_a_burst_too_while_others_ask(
    limits: Limits, others_ask: bool, most: int
) -> None:
    async def run() -> None:
        seconds = 0.11
        for _ in range(int(SHARED_BURST_SECONDS / LONG_SURCHARGE / seconds) + 1):
            if others_ask:
                await limits.run(H, 1, seconds=0)
            await limits.run(W, 1, seconds=seconds)
        assert await limits.at_a_time(W) == most

    asyncio.run(run())


def test_50_they_are_counted_while_they_run(limits: Limits) -> None:
    async def run() -> None:
        async with AsyncExitStack() as held:
            for _ in range(3):
                await held.enter_async_context(limits.of(W))
            limits.now += BURST_SECONDS
            assert await limits.at_a_time(W) == 1

    asyncio.run(run())


def test_56_slow_readers_of_an_answer_run_no_query(limits: Limits) -> None:
    async def run() -> None:
        await limits.run(W, 4, seconds=60, answer=0.1)
        assert await limits.at_a_time(W) == 4

    asyncio.run(run())


def test_50_who_waits_for_long_requests_keeps_nobody_from_short_ones(limits: Limits) -> None:
    """A refusal gives back whatever places it held, also when the client leaves."""

    async def run() -> None:
        await limits.run(W, 4, seconds=2 * BURST_SECONDS)
        for _ in range(9):
            assert await limits.at_a_time(W) == 1
        waiting = asyncio.create_task(limits.at_a_time(W))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await limits.at_a_time(W) == 1

    asyncio.run(run())


@pytest.mark.parametrize(
    ("is_awaited", "ratio"), [(True, RESTING_RATIO), (False, LONE_RESTING_RATIO)]
)
def test_50_a_long_request_rests_while_others_ask(
    limits: Limits, is_awaited: bool, ratio: float
) -> None:
    """A core that is always busy makes others wait, even if they have another."""
    ran = 0.1

    async def run() -> None:
        await limits.run(W, 4, seconds=BURST_SECONDS)
        await limits.run(H, 1, seconds=0)
        async with limits.of(W):
            waiting = asyncio.create_task(limits.at_a_time(W)) if is_awaited else None
            await asyncio.sleep(0)
            limits.now += ran
        await asyncio.sleep((ratio - 0.5) * ran)
        assert waiting is None or waiting.result() == 0
        assert await limits.at_a_time(W) == 0
        assert await limits.at_a_time(H) == 4
        await asyncio.sleep(ran)
        assert await limits.at_a_time(W) == 1
        limits.now += ASKING_SECONDS
        await limits.run(W, 1, seconds=ran)
        assert await limits.at_a_time(W) == 1

    asyncio.run(run())


def test_50_a_rest_makes_up_for_no_burst(limits: Limits) -> None:
    async def run() -> None:
        await limits.run(W, 4, seconds=BURST_SECONDS / 3 + 0.02)
        await limits.run(H, 1, seconds=0)
        await limits.run(W, 1, seconds=0.1)
        limits.now += RESTING_RATIO * 0.1
        await asyncio.sleep(RESTING_RATIO * 0.1 + 0.02)
        assert await limits.at_a_time(W) == 1

    asyncio.run(run())


def test_76_all_places_of_a_request_rest_if_its_state_says_so(limits: Limits) -> None:
    async def run() -> None:
        state = RequestState("id")
        async with limits.of(W, state=state):
            state.rest_seconds = 0.05
        assert await limits.at_a_time(W) == 3
        await asyncio.sleep(0.06)
        assert await limits.at_a_time(W) == 4

    asyncio.run(run())


def test_76_the_places_of_endless_extensions_rest() -> None:
    scope: Scope = {
        "type": "http", "method": "POST", "path": "/rest/v1/sites_new",
        "headers": [(b"transfer-encoding", b"chunked")], "state": {"frames": Frames(0, 200_000)},
    }  # fmt: skip
    state = begin_request(scope, "id")

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": True}

    async def read(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()

    async def send(message: Message) -> None:
        raise AssertionError(message)

    with pytest.raises(TooLarge):
        asyncio.run(BodyLimits(read, HttpSettings(), 1)(scope, receive, send))
    assert state.rest_seconds == FRAMING_REST_SECONDS


LARGE_BODY = [(b"content-length", b"1048577")]


@pytest.mark.parametrize(
    ("headers", "query", "most"),
    [
        ([], b"", 4), ([], b"select=name", 4), ([], b"id=in.(1,2)", 4),
        ([(b"content-length", b"1048576")], b"", 4), (LARGE_BODY, b"", 1),
        ([(b"transfer-encoding", b"chunked")], b"", 1), ([], b"select=*,escos(code)", 1),
        ([], b"limit=1000&select=*%2Cescos%28code)", 1), ([], b"select=b%3Anotes", 1),
        ([], b"select=notes,a,notes", 1), ([], b"select=id::text,name::text", 4),
        ([], b"select=*,escos(code)&limit=99", 4),
    ],
)  # fmt: skip
def test_52_what_needs_memory_runs_alone(
    limits: Limits, headers: list[tuple[bytes, bytes]], query: bytes, most: int
) -> None:
    scope: Scope = {**SMALL, "headers": headers, "query_string": query}
    assert asyncio.run(limits.at_a_time(W, scope)) == most


@pytest.mark.parametrize("is_slow", [False, True])
def test_82_residents_hold_places_of_their_esco(is_slow: bool) -> None:
    """With places of their own, an ESCO's programs and residents held all that PostgREST has.

    They hold half of them, and one resident half of that: they are strangers to each other.
    """

    def caller(role: str, **claims: str) -> Principal:
        return Principal(role, UUID(int=1), "esco", "fla_1", frozenset(), "jti", 0, claims)

    one, other, third = (caller(RESIDENT, sub=f"flm_{number}") for number in range(3))
    program = caller("flows")
    settings = LimitsSettings(concurrent=4, sustained=4, waiting=9, turn_seconds=0.01)
    limits = ConcurrencyLimits(settings, lambda: None, of_postgrest=10, of_pool=10)
    headers = [(b"transfer-encoding", b"chunked")] if is_slow else []
    scope: Scope = {**SMALL, "headers": headers}

    async def run() -> list[bool]:
        admitted = []
        async with AsyncExitStack() as running:
            for who in (one, one, other, third, program, program, program):
                limit = limits.of(who, RequestState("id"), scope)
                try:
                    await running.enter_async_context(limit)
                except TooManyRequests:
                    admitted.append(False)
                else:
                    admitted.append(True)
        return admitted

    assert asyncio.run(run()) == [True, False, True, False, True, True, False]


@pytest.mark.parametrize("path", ["/rest/v1/meter_registry", "/v1/energy"])
def test_84_escos_together_leave_connections_to_another(path: str) -> None:
    escos = [
        Principal("flows", UUID(int=number), "esco", f"flc_{number}", frozenset(), "jti", 0, {})
        for number in range(1, 6)
    ]
    settings = LimitsSettings(concurrent=6, sustained=6, waiting=9, turn_seconds=0.01)
    limits = ConcurrencyLimits(settings, lambda: None, of_postgrest=10, of_pool=10)
    scope: Scope = {**SMALL, "path": path}

    async def run() -> list[int]:
        held = []
        async with AsyncExitStack() as running:
            for esco in escos:
                for number in range(9):
                    limit = limits.of(esco, RequestState("id"), scope)
                    try:
                        await running.enter_async_context(limit)
                    except TooManyRequests:
                        held.append(number)
                        break
        return held

    assert asyncio.run(run()) == [6, 2, 1, 1, 1]


def test_84_an_answered_request_holds_no_connection_of_postgrests() -> None:
    settings = LimitsSettings(concurrent=6, sustained=6, waiting=9, turn_seconds=0.01)
    limits = ConcurrencyLimits(settings, lambda: None, of_postgrest=2, of_pool=1)

    async def run() -> None:
        async with AsyncExitStack() as running:
            for _ in range(3):
                state = RequestState("id")
                await running.enter_async_context(limits.of(W, state, SMALL))
                assert state.on_answer
                state.on_answer()

    asyncio.run(run())
