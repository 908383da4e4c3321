"""Floods without a valid token wait for themselves (SECURITY 55)."""

import asyncio
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest

from app.errors import TooManyRequests
from app.http import strangers
from app.http.strangers import PLACES, StrangerLimits
from app.monitoring import health
from app.monitoring.health import Probe
from app.settings import LimitsSettings
from tests.conftest import Stack, another_gateway

LIMITS = LimitsSettings(waiting=3, turn_seconds=0.01)
FLOODED = {
    "a probe": ("GET /ready", ""), "a document": ("GET /openapi.json", ""),
    "nothing": ("GET /nothing", ""), "data": ("GET /v1/latest", ""),
    "a token": ("POST /auth/token", "grant_type=client_credentials&client_id=x&client_secret=y"),
}  # fmt: skip


def limits(*proxies: str) -> StrangerLimits:
    """Return limits behind trusted proxies."""
    settings: Any = SimpleNamespace(limits=LIMITS, trusted_proxies=proxies)
    return StrangerLimits(settings)


def request(address: str, path: str = "/docs", forwarded: str = "") -> dict[str, Any]:
    """Return the scope of a request."""
    headers = [(b"x-forwarded-for", forwarded.encode())] if forwarded else []
    return {"type": "http", "path": path, "headers": headers, "client": (address, 50_000)}


async def at_a_time(own: StrangerLimits, scope: dict[str, Any]) -> int:
    """Return how many requests run at a time."""
    async with AsyncExitStack() as running:
        for number in range(2 * PLACES):
            try:
                await running.enter_async_context(own.of(scope))
            except TooManyRequests:
                return number
    raise AssertionError("there is no limit")


def test_55_each_address_has_places_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """They rest after use; probes do not wait for documents, nor an ESCO for either."""
    monkeypatch.setattr(strangers, "REST_SECONDS", 60)
    monkeypatch.setattr(strangers, "LONGEST_REST_SECONDS", 60)

    async def tried() -> None:
        own = limits("192.0.2.9")
        for scope in (
            request("192.0.2.1"), request("192.0.2.2"), request("192.0.2.1", "/ready"),
            request("192.0.2.1", "/auth/token"), request("192.0.2.9", forwarded="192.0.2.3"),
            request("2001:db8::1"),
        ):  # fmt: skip
            assert await at_a_time(own, scope) == PLACES
        for scope in (
            request("192.0.2.1", "/nothing", forwarded="192.0.2.77"), request("2001:db8::2"),
            request("192.0.2.9", forwarded="192.0.2.66, 192.0.2.3"),
            request("192.0.2.1", "/live"), request("192.0.2.1", "/auth/nothing"),
        ):  # fmt: skip
            assert await at_a_time(own, scope) == 0

    asyncio.run(tried())


def test_55_a_place_rests_the_longer_the_more_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strangers, "REST_SECONDS", 0.001)

    async def rest(seconds: float) -> float:
        loop = asyncio.get_running_loop()
        now, called = [loop.time()], list[float]()
        monkeypatch.setattr(strangers, "time", SimpleNamespace(monotonic=lambda: now[0]))
        monkeypatch.setattr(loop, "call_later", lambda delay, _: called.append(delay))
        async with limits().of(request("192.0.2.1")):
            now[0] += seconds
        return called[0]

    async def tried() -> None:
        assert await rest(0) == 0.001
        assert await rest(0.01) == pytest.approx(0.01 * strangers.REST_RATIO)
        assert await rest(30) == strangers.LONGEST_REST_SECONDS

    asyncio.run(tried())


def test_55_all_who_ask_whether_it_is_ready_share_a_check(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = []

    async def check(services: Any) -> str:
        checks.append(services)
        await asyncio.sleep(0.01)
        return "well"

    monkeypatch.setattr(health, "_database", check)
    monkeypatch.setattr(health, "_postgrest", check)

    async def tried() -> None:
        services: Any = "services"
        probe: Any = Probe(services)
        assert await asyncio.gather(*(probe.result() for _ in range(50))) == [["well", "well"]] * 50
        left = asyncio.create_task(probe.result())
        left.cancel()  # a client that leaves ends nobody else's check
        assert await probe.result() == ["well", "well"]
        assert checks == ["services"] * 2
        monkeypatch.setattr(health, "KEPT_SECONDS", -1)
        await probe.result()
        assert checks == ["services"] * 4

    asyncio.run(tried())


@pytest.fixture(scope="module")
def own(stack: Stack) -> Iterator[Stack]:
    """A gateway that is flooded."""
    with another_gateway(stack) as own:
        yield own


@pytest.mark.parametrize("what", FLOODED)
def test_55_a_flood_of_strangers_stops_nobody(own: Stack, what: str) -> None:
    url = urlsplit(own.contract["base_url"])
    line, body = FLOODED[what]
    head = f"{line} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n"
    if body:
        head += "Content-Type: application/x-www-form-urlencoded\r\n"
        head += f"Content-Length: {len(body)}\r\n"
    with ExitStack() as held, own.client("hmce") as client:
        sockets = [
            held.enter_context(socket.create_connection((url.hostname, url.port), timeout=30))
            for _ in range(200)
        ]
        for bare in sockets:
            bare.sendall(f"{head}\r\n{body}".encode())
        for _ in range(3):
            assert client.get("/rest/v1/escos?select=code").json() == [{"code": "hmce"}]
        statuses = Counter(bare.recv(12)[9:].decode() for bare in sockets)
    assert statuses["429"] > 10, statuses
