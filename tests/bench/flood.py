"""One tenant floods with sixteen connections; what another one's requests then take."""

import statistics
import time

from tests.bench import load
from tests.bench.load import Request
from tests.bench.report import Report
from tests.conftest import Stack, running_stack

ROUNDS = 3
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
        alone, beside, refused = [], [], []
        for _ in range(ROUNDS):
            steady = {"connections": 1, "seconds": SECONDS, "pause": 0.06}
            alone.append(load.run(victim, **steady).require(200))
            flood = load.start(flooder, connections=16, seconds=SECONDS + 2)
            time.sleep(1)
            beside.append(load.run(victim, **steady).require(200))
            answered = load.finish(flood).require(200, 429)
            refused.append(answered.statuses["429"])
    for name, results in (("alone", alone), ("beside the flood", beside)):
        report.figure(f"p50 {name}", statistics.median(r.p50 for r in results), "ms")
        report.figure(f"p99 {name}", statistics.median(r.p99 for r in results), "ms")
    report.figure("refused with 429 in a flood", statistics.median(refused), "")
    report.ratio(
        "p99 beside the flood / alone",
        statistics.median(r.p99 for r in beside),
        statistics.median(r.p99 for r in alone),
        limit="<= 1.25",
    )
