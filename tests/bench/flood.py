"""Latency of one tenant's requests while another floods over two hundred connections."""

import statistics
import time
from typing import Any

from tests.bench import generator
from tests.bench.generator import Request
from tests.bench.report import Report
from tests.conftest import Stack, running_stack

ROUNDS = 8
SECONDS = 5.0  # about 400 responses in each window
QUOTAS = {"FLOWS_LIMITS_CLIENT": "100/second", "FLOWS_LIMITS_ESCO": "200/second"}
# The caller whose requests are measured: about 80 of them a second, some at the same time.
STEADY: dict[str, Any] = {"connections": 4, "pause": 0.045, "seconds": SECONDS}
# The load of its neighbour: none; as much as its quota allows; as much as it can.
ALONE, WITHIN, FLOOD = "alone", "beside a caller within its quota", "beside the flood"
NEIGHBOURS: dict[str, dict[str, Any]] = {
    WITHIN: {"connections": 4, "pause": 0.04},
    FLOOD: {"connections": 200},
}


def run(stack: Stack, report: Report) -> None:
    """Compare a steady caller's 99th percentiles, each over all of its windows, measured in turn.

    This runs on a separate stack with quotas, which the demo stack does not have. The load
    generators are separate processes on the same machine, so their use of it is included.
    """
    del stack
    with running_stack(**QUOTAS) as limited:
        url = f"{limited.contract['rest_url']}/meter_registry?limit=3"
        escos = limited.contract["escos"]
        steady, neighbour = (
            Request(url, {"Authorization": f"Bearer {escos[code]['read_token']}"})
            for code in ("hmce", "wlce")
        )
        latencies: dict[str, list[float]] = {ALONE: [], WITHIN: [], FLOOD: []}
        served: list[float] = []
        refused: list[float] = []
        for _ in range(ROUNDS):
            for name, measured in latencies.items():
                flood = None
                if name in NEIGHBOURS:
                    flood = generator.start(neighbour, seconds=SECONDS + 2, **NEIGHBOURS[name])
                time.sleep(1)  # until the generator has started and its first burst is over
                measured += generator.measure(steady, **STEADY).require(200).latencies
                if flood:
                    counted = generator.finish(flood).require(200, 429).statuses
                    if name == FLOOD:
                        served.append(counted["200"] / (SECONDS + 2))
                        refused.append(counted["429"] / (SECONDS + 2))
    report.figure("flood: served", statistics.median(served), "req/s")
    report.figure("flood: refused with 429", statistics.median(refused), "req/s")
    p99s = {name: statistics.quantiles(found, n=100)[-1] for name, found in latencies.items()}
    for name, found in latencies.items():
        report.figure(f"p50 {name}", statistics.median(found), "ms")
        report.figure(f"p99 {name}", p99s[name], "ms")
    report.ratio(f"p99 {WITHIN} / alone", p99s[WITHIN], p99s[ALONE])
    report.ratio(f"p99 {FLOOD} / alone", p99s[FLOOD], p99s[ALONE], limit="<= 1.25")
