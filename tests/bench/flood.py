"""One tenant floods with sixteen connections; what another one's requests then take."""

import statistics
import time

from tests.bench import load
from tests.bench.load import Request
from tests.bench.report import Report
from tests.conftest import Stack, running_stack

ROUNDS = 4
SECONDS = 10.0
QUOTA = "20/second"


def run(stack: Stack, report: Report) -> None:
    """Compare the 99th percentile of a steady caller alone and beside a flood, turn about.

    Quotas are production's concern, so this runs on a stack of its own that has them.
    """
    quotas = {"FLOWS_LIMITS_CLIENT": QUOTA, "FLOWS_LIMITS_ESCO": "400/second"}
    del stack
    with running_stack(**quotas) as limited:
        url = f"{limited.contract['rest_url']}/meter_registry?limit=3"
        escos = limited.contract["escos"]
        victim, flooder = (
            Request(url, {"Authorization": f"Bearer {escos[code]['read_token']}"})
            for code in ("hmce", "wlce")
        )
        alone: list[float] = []
        beside: list[float] = []
        refused = 0
        for _ in range(ROUNDS):
            steady = {"connections": 1, "seconds": SECONDS, "pause": 0.06}
            alone += load.measure(victim, **steady).require(200).latencies
            flood = load.start(flooder, connections=16, seconds=SECONDS + 2)
            time.sleep(1)
            beside += load.measure(victim, **steady).require(200).latencies
            refused += load.finish(flood).require(200, 429).statuses["429"]
    for name, latencies in (("alone", alone), ("beside the flood", beside)):
        report.figure(f"p50 {name}", statistics.median(latencies), "ms")
        report.figure(f"p99 {name}", percentile_99(latencies), "ms")
    report.figure("refused with 429", refused, "")
    report.ratio(
        "p99 beside the flood / alone",
        percentile_99(beside),
        percentile_99(alone),
        limit="<= 1.25",
    )


def percentile_99(latencies: list[float]) -> float:
    """The latency that one request in a hundred exceeds."""
    return statistics.quantiles(latencies, n=100)[-1]
