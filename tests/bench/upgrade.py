"""Ten million half-hours of 0.1, also in the columnstore: upgraded, killed, continued.

FLOWS_BENCH_UPGRADE (default 1095) gives the days of history of 200 registers.
"""

import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import psycopg

from tests.bench.history import History
from tests.bench.report import Report
from tests.conftest import Stack, wait_until
from tests.databases import new_database
from tests.sql.test_upgrade import ask, make_baseline

REGISTERS, ESCOS = 200, 20
DAYS = int(os.environ.get("FLOWS_BENCH_UPGRADE", "1095"))
END = datetime(2026, 1, 1, tzinfo=UTC)
MIGRATE = "import sys; from app.db.migrate import migrate; migrate(sys.argv[1], progress=print)"
SUMS = (
    "select count(*), sum(import_kwh), sum(export_kwh), min(timestamp), max(timestamp)"
    " from flows.register_interval_hh",
    *(
        "select count(*), sum(total_import_kwh), sum(total_export_kwh), sum(register_intervals)"
        f" from flows.circuit_interval_{level}"
        for level in ("hh", "daily", "daily_london", "monthly")
    ),
)
WITHOUT_OWNER = "select count(*) from flows.register_interval_hh where esco is null"
FILLED = "select count(esco)::float / count(*) from flows.register_interval_hh"
HAS_OWNER = """
    select from pg_attribute
    where attrelid = 'flows.register_interval_hh'::regclass and attname = 'esco'
"""


def run(stack: Stack, report: Report) -> None:
    """Upgrade a database of 0.1 twice as one would: once killed in the middle, then to the end."""
    with new_database(stack.contract["database_url"]) as url:
        make_baseline(url, stack.contract["engine"])
        with psycopg.connect(url, autocommit=True) as admin:
            History(admin, "upgrade", ESCOS, REGISTERS).load(END - timedelta(days=DAYS), END)
        before = [ask(url, query) for query in SUMS]
        report.figure("half-hours of 0.1", float(before[0][0][0]), "rows")

        started = time.perf_counter()
        killed = _migrate(url)
        wait_until(lambda: ask(url, HAS_OWNER) and ask(url, FILLED)[0][0] > 0.2, seconds=3600)
        killed.kill()
        killed.wait()
        done = time.perf_counter() - started
        report.figure("filled when it is killed", 100 * ask(url, FILLED)[0][0], "%")

        started = time.perf_counter()
        continued = _migrate(url)
        assert continued.wait() == 0
        seconds = time.perf_counter() - started
        report.figure("upgraded after that", seconds, "s")
        report.figure("in all, with what was killed", done + seconds, "s")
        assert [ask(url, query) for query in SUMS] == before
        assert ask(url, WITHOUT_OWNER) == [(0,)]


def _migrate(url: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", MIGRATE, url], stdout=sys.stderr)
