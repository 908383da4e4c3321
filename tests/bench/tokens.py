"""Tokens: latency of one request, rate of sixteen connections, another client beside them."""

import base64
import statistics
from typing import Any

from tests.bench import generator
from tests.bench.generator import Request
from tests.bench.report import Report
from tests.conftest import Stack

FORM = "application/x-www-form-urlencoded"
SECONDS = 4.0


def run(stack: Stack, report: Report) -> None:
    """Measure the demo's client alone, then from sixteen connections at once."""
    flooding, other = (token_request(stack, code) for code in ("wlce", "hmce"))
    single = generator.measure(flooding, connections=1, seconds=SECONDS).require(200)
    report.figure("token, p50 of one connection", single.p50, "ms", limit="<= 8")
    many = generator.measure(flooding, connections=16, seconds=SECONDS).require(200)
    report.figure("tokens from 16 connections", many.rate, "/s", limit=">= 200")
    steady: dict[str, Any] = {"connections": 1, "pause": 0.05, "seconds": SECONDS}
    flood = generator.start(flooding, connections=16, seconds=SECONDS + 2)
    beside = generator.measure(other, **steady).require(200)
    generator.finish(flood).require(200, 429)
    p99 = statistics.quantiles(beside.latencies, n=100)[-1]
    report.figure("another client beside them, p50", beside.p50, "ms")
    report.figure("another client beside them, p99", p99, "ms")


def token_request(stack: Stack, code: str) -> Request:
    """Return the request for a token of an ESCO's demo client."""
    client = stack.contract["escos"][code]
    pair = f"{client['client_id']}:{client['client_secret']}"
    return Request(
        f"{stack.contract['base_url']}/auth/token",
        {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()},
        method="POST",
        body="grant_type=client_credentials",
        content_type=FORM,
    )
