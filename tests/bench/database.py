"""The database with years of history: cost of isolation, of history, and of loading.

FLOWS_BENCH_REGISTERS (default 200) registers in ten ESCOs with FLOWS_BENCH_YEARS (default 1) years
of half-hours; 2,000 and 2 make 70 million rows.
"""

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import Any
from uuid import UUID

import httpx
import psycopg

from app.ingest.options import ImportOptions
from app.ingest.pipeline import import_data
from tests.bench.history import History
from tests.bench.report import Report
from tests.conftest import Stack

REGISTERS = int(os.environ.get("FLOWS_BENCH_REGISTERS", "200"))
YEARS = float(os.environ.get("FLOWS_BENCH_YEARS", "1"))
ESCOS = 10
REPEATS = 40
BULK = 10_000
END = datetime(2025, 1, 1, tzinfo=UTC)
START = END - timedelta(days=round(365 * YEARS))
RECENT = END - timedelta(days=round(36.5 * YEARS))

Admin = psycopg.Connection[Any]

# A read as PostgREST writes it.
READ = """
    with pgrst_source as (
        select * from {{schema}}.{series}
        where {key} = %({kind})s and "timestamp" >= %(start)s and "timestamp" < %(end)s
        order by "timestamp"
    )
    select count(*), coalesce(json_agg(_postgrest_t), '[]')::text
    from (select * from pgrst_source) as _postgrest_t
"""
ONE_REGISTER = READ.format(series="register_interval_hh", key="register_id", kind="register")
ONE_CIRCUIT = READ.format(series="circuit_interval_hh", key="circuit_id", kind="circuit")
WHOLE_ESCO = """
    select circuit_id, sum(total_import_kwh) from {schema}.circuit_interval_hh
    where "timestamp" >= %(start)s and "timestamp" < %(end)s {whose}
    group by circuit_id
"""
# Touches no table: measures the speed of the machine, which others may be using.
YARDSTICK = "select count(*), sum(n % 7) from generate_series(1, 20000) as n"
QUERIES = {
    "a month of one register": (ONE_REGISTER, ""),
    "a month of one circuit": (ONE_CIRCUIT, ""),
    "a month of an ESCO's circuits": (WHOLE_ESCO, "and circuit_id = any(%(own)s)"),
}


def run(stack: Stack, report: Report) -> None:
    """Measure reads of a window before and after the history grows, and loading."""
    with psycopg.connect(stack.contract["database_url"], autocommit=True) as admin:
        history = History(admin, "database", ESCOS, REGISTERS)
        history.load(RECENT, END)
        recent = _measure(history)
        loading = _seconds(lambda: history.load(START, RECENT))
        grown = _measure(history)
        rows = REGISTERS * round((END - START) / timedelta(minutes=30))
        report.figure("half-hours", rows, "rows")
        report.figure("older half-hours and their aggregates loaded in", loading, "s")
        for name, (isolated, bare, yardstick) in grown.items():
            report.figure(f"{name}, through the tenant's view", isolated * 1000, "ms")
            report.ratio(f"{name}: view / no isolation", isolated, bare, limit="<= 1.3")
            before, _, yardstick_before = recent[name]
            report.ratio(
                f"{name}: ten times the history",
                isolated / yardstick,
                before / yardstick_before,
                limit="<= 1.2",
            )
        if stack.contract["engine"] == "timescale":
            _columnstore(admin, report)
        _loading(stack, admin, report)


def _measure(history: History) -> dict[str, tuple[float, float, float]]:
    """Return seconds per query: through the tenant's view, without isolation, and of YARDSTICK.

    Each is the lower quartile of many runs, because other load only ever adds to a time.
    """
    admin, esco = history.admin, history.id("esco", 1)
    own = range(ESCOS, REGISTERS + 1, ESCOS)
    params: dict[str, Any] = {
        "register": history.id("register", ESCOS),
        "circuit": history.id("circuit", ESCOS),
        "start": END - timedelta(days=28),
        "end": END,
        "own": [history.id("circuit", number) for number in own],
    }
    found = {}
    for name, (query, whose) in QUERIES.items():
        isolated = query.format(schema="api", whose="")
        bare = query.format(schema="flows", whose=whose)
        with _as("flows", esco, admin):
            rows = admin.execute(isolated, params).fetchall()
        with _as("flows_owner", None, admin):
            assert sorted(rows) == sorted(admin.execute(bare, params).fetchall())
            assert rows
        # Alternate, so that all meet the same load on the machine.
        times: tuple[list[float], list[float], list[float]] = ([], [], [])
        for _ in range(REPEATS):
            with _as("flows", esco, admin):
                times[0].append(_seconds(lambda: admin.execute(isolated, params).fetchall()))  # noqa: B023
            with _as("flows_owner", None, admin):
                times[1].append(_seconds(lambda: admin.execute(bare, params).fetchall()))  # noqa: B023
            times[2].append(_seconds(lambda: admin.execute(YARDSTICK).fetchall()))
        found[name] = (_quartile(times[0]), _quartile(times[1]), _quartile(times[2]))
    return found


@contextmanager
def _as(role: str, esco: UUID | None, admin: Admin) -> Iterator[None]:
    """Act as a role and ESCO for one transaction."""
    with admin.transaction():
        admin.execute(
            "select set_config('app.current_esco', %s, true), set_config('role', %s, true)",
            (str(esco or ""), role),
        )
        yield


def _quartile(times: list[float]) -> float:
    return statistics.quantiles(times, n=4)[0]


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _columnstore(admin: Admin, report: Report) -> None:
    sizes = admin.execute(
        "select sum(before_compression_total_bytes), sum(after_compression_total_bytes)"
        " from public.hypertable_columnstore_stats('flows.register_interval_hh')"
    ).fetchone()
    if sizes and sizes[0]:
        report.figure("half-hours as rows", float(sizes[0]) / 2**20, "MiB")
        report.ratio("rows / columnstore", float(sizes[0]), float(sizes[1]), limit=">= 3")


def _loading(stack: Stack, admin: Admin, report: Report) -> None:
    """Compare 10,000 half-hours by import, PostgREST and gateway with COPY into the same table."""
    esco = stack.contract["escos"]["wlce"]
    (register,) = admin.execute(
        "select register_id from flows.meter_registers as r join flows.meter_registry as m"
        " on m.id = r.meter_id where m.esco = %s limit 1",
        (esco["id"],),
    ).fetchone() or (None,)
    works: dict[str, Callable[[list[Any]], object]] = {
        "COPY": lambda rows: _copy(stack, rows),
        "flows import": lambda rows: _import(stack, rows),
        "PostgREST upsert": lambda rows: _post(
            stack.contract["postgrest_url"], esco["write_token"], rows
        ),
        "gateway upsert": lambda rows: _post(stack.contract["rest_url"], esco["write_token"], rows),
    }
    times: dict[str, list[float]] = {}
    for turn in range(3):
        for position, (name, work) in enumerate(works.items()):
            start = datetime(2002 + turn * 4 + position, 1, 1, tzinfo=UTC)
            rows = [(register, start + n * timedelta(minutes=30), 0.25) for n in range(BULK)]
            times.setdefault(name, []).append(_seconds(lambda: work(rows)))  # noqa: B023
            admin.execute(
                "delete from flows.register_interval_hh where register_id = %s"
                ' and "timestamp" < %s',
                (register, datetime(2015, 1, 1, tzinfo=UTC)),
            )
    medians = {name: statistics.median(values) for name, values in times.items()}
    report.figure("10,000 half-hours by COPY", medians["COPY"], "s")
    for name in ("flows import", "PostgREST upsert", "gateway upsert"):
        report.ratio(f"{name} / COPY", medians[name], medians["COPY"])
    report.ratio(
        "gateway upsert / PostgREST", medians["gateway upsert"], medians["PostgREST upsert"]
    )


def _copy(stack: Stack, rows: list[tuple[Any, datetime, float]]) -> None:
    columns = 'flows.register_interval_hh (register_id, "timestamp", import_kwh)'
    with (
        psycopg.connect(stack.contract["database_url"]) as connection,
        connection.cursor().copy(f"copy {columns} from stdin") as copy,
    ):
        for row in rows:
            copy.write_row(row)


def _import(stack: Stack, rows: list[tuple[Any, datetime, float]]) -> None:
    with psycopg.connect(stack.contract["database_url"]) as connection:
        text = "time,use\n" + "".join(f"{at.isoformat()},{kwh}\n" for _, at, kwh in rows)
        options = ImportOptions(register_id=rows[0][0], import_column="use")
        summary = import_data(connection, BytesIO(text.encode()), options)
        assert summary.written == BULK


def _post(url: str, token: str, rows: list[tuple[Any, datetime, float]]) -> None:
    answer = httpx.post(
        f"{url}/register_interval_hh",
        json=[
            {"register_id": str(register), "timestamp": at.isoformat(), "import_kwh": energy}
            for register, at, energy in rows
        ],
        headers={
            "Authorization": f"Bearer {token}",
            "Prefer": "resolution=merge-duplicates,return=minimal",
        },
        timeout=60,
    )
    assert answer.status_code in (200, 201), answer.text
