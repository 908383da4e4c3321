"""Latency of one tenant's requests while another runs costly queries over sixteen connections."""

import statistics
import time
from typing import Any

from tests.bench import generator
from tests.bench.generator import Request
from tests.bench.report import Report
from tests.conftest import Stack, running_stack

ROUNDS = 3
SECONDS = 4.0
# A query that no index helps and that reads every row.
COSTLY = "register_interval_hh?import_kwh=gt.0&order=import_kwh.desc,export_kwh&limit=1"
STEADY: dict[str, Any] = {"connections": 4, "pause": 0.045, "seconds": SECONDS}
# FLOWS_LIMITS_CONCURRENT, and the limit for the ratio of the other tenant's p99.
SHARES = {"no share": ("1000", None), "a share of 6": ("6", None), "a share of 2": ("2", "<= 1.5")}


def run(stack: Stack, report: Report) -> None:
    """Compare the 99th percentile alone and under load, with and without FLOWS_LIMITS_CONCURRENT.

    Every costly query occupies a core while it runs. With more of them than cores, others wait for
    the machine whatever the gateway does; the gateway can only keep connections free.
    """
    del stack
    for name, (concurrent, limit) in SHARES.items():
        settings = {"FLOWS_LIMITS_CONCURRENT": concurrent, "FLOWS_LIMITS_TURN_SECONDS": "1"}
        with running_stack(**settings) as limited:
            rest, escos = limited.contract["rest_url"], limited.contract["escos"]
            tokens = {
                code: {"Authorization": f"Bearer {escos[code]['read_token']}"} for code in escos
            }
            steady = Request(f"{rest}/meter_registry?limit=3", tokens["hmce"])
            costly = Request(f"{rest}/{COSTLY}", tokens["wlce"] | {"Prefer": "count=exact"})
            alone: list[float] = []
            beside: list[float] = []
            refused: list[float] = []
            for _ in range(ROUNDS):
                alone.append(_p99(steady))
                crowd = generator.start(costly, connections=16, seconds=SECONDS + 2)
                time.sleep(1)
                beside.append(_p99(steady))
                counted = generator.finish(crowd).require(200, 206, 429).statuses
                refused.append(counted.get("429", 0) / sum(counted.values()))
        report.figure(f"{name}: p99 alone", statistics.median(alone), "ms")
        report.figure(f"{name}: p99 beside costly queries", statistics.median(beside), "ms")
        report.figure(
            f"{name}: p99 beside / alone",
            statistics.median(b / a for a, b in zip(alone, beside, strict=True)),
            "×",
            limit=limit,
        )
        report.figure(f"{name}: costly queries refused", statistics.median(refused) * 100, "%")


def _p99(steady: Request) -> float:
    latencies = generator.measure(steady, **STEADY).require(200).latencies
    return statistics.quantiles(latencies, n=100)[-1]
