"""Tokens: one request, sixteen connections, another client beside them, and token exchange."""

import base64
import json
import statistics
from typing import Any
from urllib.parse import urlencode

from app.auth.exchange import ID_TOKEN_TYPE, TOKEN_EXCHANGE
from tests.auth.issuer_server import AUDIENCE, TestIssuer, running_issuer
from tests.bench import generator
from tests.bench.generator import Request
from tests.bench.report import Report
from tests.conftest import Stack, flows

ORIGIN = "https://app.example.org"
SUBJECT = "bench"
# A turn at /auth is held for 9 ms at least: without a pause a single connection waits for its own.
PAUSE = 0.02
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
    with running_issuer() as issuer:
        _exchange(stack, report, issuer)


def _exchange(stack: Stack, report: Report, issuer: TestIssuer) -> None:
    """Measure a person's exchange and a client's token in turn; secrets have digests here."""
    requests = {"client": token_request(stack, "wlce"), "person": exchange_request(stack, issuer)}
    results = generator.alternate(requests, connections=1, seconds=SECONDS, pause=PAUSE)
    pairs = list(zip(results["person"], results["client"], strict=True))
    report.figure("exchange, p50", statistics.median(one.p50 for one, _ in pairs), "ms")
    ratio = statistics.median(one.p50 / other.p50 for one, other in pairs)
    report.figure("exchange, p50 / that of a client's token", ratio, "×", limit="<= 1.3")


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


def exchange_request(stack: Stack, issuer: TestIssuer) -> Request:
    """Return the request of an app for the token of a member of Water Lilies."""
    flows(stack, "issuer", "add", issuer.url, "--audience", AUDIENCE)
    flows(stack, "member", "add", "Bench", "--issuer", issuer.url, "--esco", "wlce",
          "--subject", SUBJECT)  # fmt: skip
    app = json.loads(flows(stack, "app", "create", "Bench", "--origin", ORIGIN, "--json").stdout)[0]
    form = {
        "grant_type": TOKEN_EXCHANGE,
        "client_id": app["id"],
        "subject_token": issuer.token(SUBJECT),
        "subject_token_type": ID_TOKEN_TYPE,
    }
    return Request(
        f"{stack.contract['base_url']}/auth/token",
        {"Origin": ORIGIN},
        method="POST",
        body=urlencode(form),
        content_type=FORM,
    )
