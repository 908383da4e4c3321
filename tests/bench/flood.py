"""One tenant floods over two hundred connections; what another one's requests then take."""

import statistics
import time

from tests.bench import load
from tests.bench.load import Request
from tests.bench.report import Report
from tests.conftest import Stack, running_stack

ROUNDS = 7
SECONDS = 5.0
QUOTAS = {"FLOWS_LIMITS_CLIENT": "100/second", "FLOWS_LIMITS_ESCO": "200/second"}
# The caller whose requests are measured: about 80 of them a second, some at the same time.
STEADY = {"connections": 4, "pause": 0.045, "seconds": SECONDS}
# What its neighbour does meanwhile: nothing; as much as it may; as much as it can.
ALONE, WITHIN, FLOOD = "alone", "beside a caller within its quota", "beside the flood"
NEIGHBOURS = {WITHIN: {"connections": 4, "pause": 0.04}, FLOOD: {"connections": 200}}


def run(stack: Stack, report: Report) -> None:
    """Compare a steady caller's 99th percentiles, window by window in turn, and their medians.

    Quotas are production's concern, so this runs on a stack of its own that has them. The load
    generators are processes of their own on the same machine: their share of it is counted too.
    """
    del stack
    with running_stack(**QUOTAS) as limited:
        url = f"{limited.contract['rest_url']}/meter_registry?limit=3"
        escos = limited.contract["escos"]
        steady, neighbour = (
            Request(url, {"Authorization": f"Bearer {escos[code]['read_token']}"})
            for code in ("hmce", "wlce")
        )
        p50s: dict[str, list[float]] = {ALONE: [], WITHIN: [], FLOOD: []}
        p99s: dict[str, list[float]] = {ALONE: [], WITHIN: [], FLOOD: []}
        served: list[float] = []
        refused: list[float] = []
        for _ in range(ROUNDS):
            for name in p99s:
                flood = None
                if name in NEIGHBOURS:
                    flood = load.start(neighbour, seconds=SECONDS + 2, **NEIGHBOURS[name])
                time.sleep(1)  # the generator starts, and a first burst is over
                latencies = load.measure(steady, **STEADY).require(200).latencies
                p50s[name].append(statistics.median(latencies))
                p99s[name].append(statistics.quantiles(latencies, n=100)[-1])
                if flood:
                    counted = load.finish(flood).require(200, 429).statuses
                    if name == FLOOD:
                        served.append(counted["200"] / (SECONDS + 2))
                        refused.append(counted["429"] / (SECONDS + 2))
    report.figure("flood: served", statistics.median(served), "req/s")
    report.figure("flood: refused with 429", statistics.median(refused), "req/s")
    for name in p99s:
        report.figure(f"p50 {name}", statistics.median(p50s[name]), "ms")
        report.figure(f"p99 {name}", statistics.median(p99s[name]), "ms")
    for name, limit in ((WITHIN, None), (FLOOD, "<= 1.25")):
        ratios = [there / alone for there, alone in zip(p99s[name], p99s[ALONE], strict=True)]
        report.figure(f"p99 {name} / alone", statistics.median(ratios), "×", limit=limit)
