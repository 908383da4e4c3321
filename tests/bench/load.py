"""Loading half-hours: every door beside COPY into a copy of the table without our triggers.

FLOWS_BENCH_LOADS (default "10000 100000") lists how many half-hours a load has; add 1000000 for an
hour's worth. Two copies are the measure: one with the table's indexes and checks, and one with its
foreign key too, which PostgreSQL checks row by row.
"""

import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import Any

import httpx
import psycopg
from psycopg.conninfo import make_conninfo

from app.db.copy import copy_database
from app.db.migrate import migrate
from app.ingest.options import ImportOptions
from app.ingest.pipeline import import_data
from tests.bench.history import History
from tests.bench.report import Report
from tests.conftest import Stack

LOADS = [int(rows) for rows in os.environ.get("FLOWS_BENCH_LOADS", "10000 100000").split()]
REGISTERS = 50
FILE = 20_000  # half-hours of one import, a little over a year
REQUEST = 10_000  # rows of one request
LIMIT = ">= 0.5"
START = datetime(2022, 1, 1, tzinfo=UTC)
HALF_HOUR = timedelta(minutes=30)
COLUMNS = '(register_id, "timestamp", import_kwh, export_kwh)'
AGGREGATES = ("circuit_sums_hh", "circuit_sums_daily", "circuit_sums_daily_london",
              "circuit_sums_monthly")  # fmt: skip
PLAIN_COPY = """
    drop table if exists flows.{name};
    create table flows.{name} (like flows.register_interval_hh including all);
"""
HYPERTABLE = """
    select public.create_hypertable('flows.{name}', public.by_range('timestamp', interval '7 days'),
        create_default_indexes => false);
    alter table flows.{name} set (timescaledb.enable_columnstore,
        timescaledb.segmentby = 'register_id', timescaledb.orderby = '"timestamp" desc');
"""
PARTITIONED = "select flows.make_time_series('{name}')"
FOREIGN_KEY = """
    alter table flows.{name} add foreign key (register_id) references flows.meter_registers
"""
JOBS_REST = "select public.alter_job(job_id, scheduled => false) from timescaledb_information.jobs"

Admin = psycopg.Connection[Any]
Row = tuple[Any, datetime, float]


def run(stack: Stack, report: Report) -> None:
    """Measure each door in a database never analysed, and in one that was."""
    with psycopg.connect(stack.contract["database_url"], autocommit=True) as admin:
        # No analyze comes in between.
        admin.execute("alter system set autovacuum = off")
        admin.execute("select pg_reload_conf()")
        try:
            for state in ("never analysed", "analysed"):
                for rows in LOADS:
                    _compare(stack, admin, report, state, rows)
        finally:
            admin.execute("alter system reset autovacuum")
            admin.execute("select pg_reload_conf()")


def _compare(stack: Stack, admin: Admin, report: Report, state: str, rows: int) -> None:
    url = make_conninfo(stack.contract["database_url"], dbname="bench_load")
    source_url = make_conninfo(stack.contract["database_url"], dbname="bench_load_source")
    try:
        for name, address in (("bench_load", url), ("bench_load_source", source_url)):
            admin.execute(f"create database {name}".encode())
            migrate(address)
        with (
            psycopg.connect(url, autocommit=True) as target,
            psycopg.connect(source_url, autocommit=True) as source,
        ):
            times = _times(stack, target, source, state, rows)
    finally:
        for name in ("bench_load", "bench_load_source"):
            admin.execute(f"drop database if exists {name} with (force)".encode())
    bare, keyed = times.pop("COPY, copy"), times.pop("COPY, copy with foreign key")
    named = f"{rows:,} rows, {state}"
    report.figure(f"{named}: COPY into the copy", bare / rows * 1e6, "µs/row")
    report.ratio(f"{named}: foreign key, COPY without / with", bare, keyed)
    for door, seconds in times.items():
        report.ratio(f"{named}: {door}, of COPY with the key", keyed, seconds, limit=LIMIT)
        report.ratio(f"{named}: {door}, of COPY without", bare, seconds)


def _times(stack: Stack, target: Admin, source: Admin, state: str, rows: int) -> dict[str, float]:
    """Return door → seconds, the best of two turns (one for a million rows)."""
    history = History(target, "load", 1, REGISTERS)
    timescale = stack.contract["engine"] == "timescale"
    if timescale:
        target.execute(JOBS_REST)
    for name, key in (("load_copy", ""), ("load_copy_keyed", FOREIGN_KEY)):
        ddl = PLAIN_COPY + (HYPERTABLE if timescale else PARTITIONED) + ";" + key
        for statement in ddl.format(name=name).split(";\n"):
            if statement.strip():
                target.execute(statement.encode())
    if state == "analysed":
        _copy(target, "register_interval_hh", _lines(_made(history, 50_000, 2010)))
        target.execute("analyze")
    made = _made(history, rows)
    lines, files = _lines(made), _files(made)
    _source(source, lines, timescale)
    doors: dict[str, Callable[[], object]] = {
        "COPY, copy": lambda: _copy(target, "load_copy", lines),
        "COPY, copy with foreign key": lambda: _copy(target, "load_copy_keyed", lines),
        "COPY": lambda: _copy(target, "register_interval_hh", lines),
        "INSERT of a set": lambda: target.execute(
            f"insert into flows.register_interval_hh {COLUMNS}"
            ' select register_id, "timestamp", import_kwh, export_kwh from flows.load_copy'.encode()
        ),
        "flows import": lambda: _import(target, files),
        "flows db copy": lambda: copy_database(
            source.info.dsn + f" password={source.info.password}",
            target.info.dsn + f" password={target.info.password}",
            lambda table, done: None,
        ),
    }
    times: dict[str, float] = {}
    for _ in range(1 if rows >= 1_000_000 else 2):
        for table in ("load_copy", "load_copy_keyed"):
            target.execute(f"truncate flows.{table}".encode())
        for door, work in doors.items():
            _empty(target, timescale, door == "flows db copy")
            seconds = _seconds(work)
            times[door] = min(seconds, times.get(door, seconds))
    times["bulk insert by /rest"] = _rest(stack, rows)
    return times


def _made(history: History, rows: int, year: int = START.year) -> list[Row]:
    """Return rows by register and time."""
    registers = min(REGISTERS, max(1, rows // FILE))
    start = START.replace(year=year)
    return [
        (history.id("register", 1 + number), start + n * HALF_HOUR, n % 400 / 1000)
        for number in range(registers)
        for n in range(rows // registers)
    ]


def _lines(rows: list[Row]) -> bytes:
    return "".join(
        f"{register}\t{start}\t{energy}\t0\n" for register, start, energy in rows
    ).encode()


def _copy(connection: Admin, table: str, lines: bytes) -> None:
    with connection.cursor().copy(f"copy flows.{table} {COLUMNS} from stdin".encode()) as copy:
        for begin in range(0, len(lines), 65536):
            copy.write(lines[begin : begin + 65536])


def _source(source: Admin, lines: bytes, timescale: bool) -> None:
    """Fill the database that `flows db copy` reads."""
    History(source, "load", 1, REGISTERS)
    if timescale:
        source.execute(JOBS_REST)
    source.execute("set session_replication_role = replica")
    _copy(source, "register_interval_hh", lines)


def _empty(target: Admin, timescale: bool, configuration: bool) -> None:
    """Take every half-hour away; for a copy of a whole database the communities too."""
    emptied = ["register_interval_hh", "register_extent", "change"]
    if not timescale:
        emptied += AGGREGATES
    for table in emptied:
        target.execute(f"truncate flows.{table}".encode())
    if configuration:
        target.execute("truncate flows.load_copy_keyed")
        for table in ("circuit_register", "circuits", "meter_shadows", "meter_registers",
                      "meter_registry", "escos"):  # fmt: skip
            target.execute(f"delete from flows.{table}".encode())


def _files(rows: list[Row]) -> list[tuple[Any, str]]:
    """Return files with the rows of one register each, and their registers."""
    return [
        (file[0][0], "time,use\n" + "".join(f"{at.isoformat()},{kwh}\n" for _, at, kwh in file))
        for file in (rows[begin : begin + FILE] for begin in range(0, len(rows), FILE))
    ]


def _import(target: Admin, files: list[tuple[Any, str]]) -> None:
    for register, text in files:
        options = ImportOptions(register_id=register, import_column="use")
        summary = import_data(target, BytesIO(text.encode()), options)
        assert summary.written == summary.read


def _rest(stack: Stack, rows: int) -> float:
    """Return the seconds that requests of REQUEST rows each take through the gateway."""
    esco = stack.contract["escos"]["wlce"]
    with psycopg.connect(stack.contract["database_url"], autocommit=True) as admin:
        registers = [
            str(register)
            for (register,) in admin.execute(
                "select r.register_id from flows.meter_registers as r"
                " join flows.meter_registry as m on m.id = r.meter_id where m.esco = %s",
                (esco["id"],),
            )
        ]
        start, seconds = datetime(2001, 1, 1, tzinfo=UTC), 0.0
        headers = {
            "Authorization": f"Bearer {esco['write_token']}",
            "Prefer": "resolution=merge-duplicates,return=minimal",
        }
        try:
            with httpx.Client(timeout=120, headers=headers) as client:
                for body in _bodies(registers, start, rows):
                    request = client.build_request(
                        "POST", f"{stack.contract['rest_url']}/register_interval_hh", json=body
                    )
                    began = time.perf_counter()
                    answer = client.send(request)
                    seconds += time.perf_counter() - began
                    assert answer.status_code in (200, 201), answer.text
        finally:
            admin.execute(
                'delete from flows.register_interval_hh where "timestamp" < %s',
                (datetime(2010, 1, 1, tzinfo=UTC),),
            )
    return seconds


def _bodies(registers: list[str], start: datetime, rows: int) -> Iterator[list[dict[str, Any]]]:
    for begin in range(0, rows, REQUEST):
        register = registers[begin // REQUEST % len(registers)]
        first = start + begin // REQUEST // len(registers) * REQUEST * HALF_HOUR
        yield [
            {"register_id": register, "timestamp": (first + n * HALF_HOUR).isoformat(),
             "import_kwh": n % 400 / 1000, "export_kwh": 0}
            for n in range(min(REQUEST, rows - begin))
        ]  # fmt: skip


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
