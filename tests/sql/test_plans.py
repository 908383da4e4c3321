"""Query plans of tenants: only chunks (partitions) of the period and rows of the caller's."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import psycopg
import pytest
from psycopg import sql

from app.db.isolation import become
from app.db.principal import RESIDENT
from app.energy.groups import Groups
from app.energy.intervals import Granularity, Intervals, calendar
from app.energy.query import Page, energy
from app.energy.reports import latest
from app.energy.sources import choose
from tests.conftest import Stack
from tests.homes import add_residents
from tests.sql.series import AGGREGATES

Admin = psycopg.Connection[Any]
UTC_ZONE = ZoneInfo("UTC")
MIDNIGHT = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
DAY = (MIDNIGHT - timedelta(days=40), MIDNIGHT - timedelta(days=39))
MONTH = (MIDNIGHT - timedelta(days=50), MIDNIGHT - timedelta(days=20))
EVER = (datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))
# A read as PostgREST writes it, with filters as parameters.
POSTGREST = """
    with pgrst_source as (
        select api.{relation}.* from api.{relation}
        where api.{relation}.{key} = %(key)s
            and api.{relation}."timestamp" >= %(start)s and api.{relation}."timestamp" < %(end)s
        order by api.{relation}."timestamp" desc limit %(limit)s offset 0
    )
    select coalesce(json_agg(_postgrest_t), '[]') from (select * from pgrst_source) as _postgrest_t
"""


@pytest.fixture(scope="module", autouse=True)
def columnstore(stack: Stack, engine: str) -> Iterator[None]:
    """Move the queried day to the columnstore, as the policy will do."""
    if engine == "postgres":
        yield
        return
    with psycopg.connect(stack.contract["database_url"], autocommit=True) as owner:
        chunks = owner.execute(
            "select format('%%I.%%I', chunk_schema, chunk_name)"
            " from timescaledb_information.chunks"
            " where hypertable_name = 'register_interval_hh' and not is_compressed"
            " and range_start < %s and range_end > %s",
            (DAY[1], DAY[0]),
        ).fetchall()
        for chunk in chunks:
            owner.execute("call public.convert_to_columnstore(%s)", chunk)
        yield
        for chunk in chunks:
            owner.execute("call public.convert_to_rowstore(%s)", chunk)


@pytest.fixture
def tenant(stack: Stack, admin: Admin, engine: str) -> Admin:
    """A session of an ESCO, as PostgREST and the gateway open it."""
    # As autovacuum does within a minute.
    for relation in ("register_interval_hh", *(AGGREGATES if engine == "postgres" else ())):
        stored = relation.replace("circuit_interval_", "circuit_sums_")
        admin.execute(f"analyze flows.{stored}".encode())
    become(admin, "flows", stack.contract["escos"]["wlce"]["id"])
    return admin


def nested_plans(session: psycopg.Connection[Any], query: str) -> list[dict[str, Any]]:
    """Return the plans of all statements that a query of plpgsql executes."""
    plans: list[dict[str, Any]] = []
    session.execute("load 'auto_explain'")
    for name, value in {
        "log_min_duration": "0", "log_nested_statements": "on", "log_analyze": "on",
        "log_format": "json", "log_level": "notice",
    }.items():  # fmt: skip
        session.execute("select set_config(%s, %s, true)", (f"auto_explain.{name}", value))

    def note(diagnostic: psycopg.errors.Diagnostic) -> None:
        _, _, plan = (diagnostic.message_primary or "").partition("plan:\n")
        plans.append(json.loads(plan)["Plan"])

    session.add_notice_handler(note)
    session.execute(query.encode())
    session.remove_notice_handler(note)
    return plans


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield every node of a plan that was executed."""
    if plan.get("Actual Loops"):
        yield plan
    for part in plan.get("Plans", ()):
        yield from nodes(part)


class Explained:
    """The relations, chunks and rows that the execution of a statement touched."""

    def __init__(self, session: Admin, statement: str, parameters: dict[str, Any]) -> None:
        """Execute the statement with EXPLAIN ANALYZE."""
        explain = "explain (analyze, buffers, format json) " + statement
        ((found,),) = session.execute(explain.encode(), parameters).fetchall()
        root = found[0]["Plan"]
        scans = [
            node
            for node in nodes(root)
            if "Relation Name" in node and node.get("Custom Plan Provider") != "ChunkAppend"
        ]
        self.relations = {scan["Relation Name"].removesuffix("_compressed") for scan in scans}
        self.examined = sum(
            (scan["Actual Rows"] + scan.get("Rows Removed by Filter", 0)) * scan["Actual Loops"]
            for scan in scans
        )
        self.buffers = root["Shared Hit Blocks"] + root["Shared Read Blocks"]
        self.planning, self.execution = found[0]["Planning Time"], found[0]["Execution Time"]
        print(
            f"{len(self.relations)} relations, {self.examined:.0f} rows, {self.buffers} buffers,"
            f" {self.planning:.2f} + {self.execution:.2f} ms"
        )


def parts(admin: Admin, engine: str, series: str, start: datetime, end: datetime) -> set[str]:
    """Return the chunks or partitions of a series (or aggregate) with rows of a period."""
    admin.execute("reset role")
    if engine == "timescale":
        query = (
            "select c.chunk_name from timescaledb_information.chunks as c"
            " left join timescaledb_information.continuous_aggregates as a"
            " on a.materialization_hypertable_name = c.hypertable_name"
            " where coalesce(a.view_name, c.hypertable_name) = %s"
            " and c.range_start < %s and c.range_end > %s"
        )
        return {row[0] for row in admin.execute(query, (series, end, start))}
    query = "select inhrelid::regclass::text from pg_inherits where inhparent = %s::regclass"
    names = {row[0].split(".")[-1] for row in admin.execute(query, (f"flows.{series}",))}
    return {name for name in names if start.year <= int(name[-4:]) <= end.year} or {series}


def one(session: Admin, query: str) -> UUID:
    """Return the single value of a query."""
    (found,) = session.execute(query.encode()).fetchone() or (None,)
    assert isinstance(found, UUID)
    return found


def prepared(session: Admin, statement: str, values: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Prepare a statement with a generic plan; return its EXECUTE."""
    types = {UUID: "uuid", datetime: "timestamptz", int: "bigint"}
    numbered = {name: f"${number}" for number, name in enumerate(values, start=1)}
    session.execute(
        f"prepare asked ({', '.join(types[type(value)] for value in values.values())})"
        f" as {statement % numbered}".encode()
    )
    session.execute("set local plan_cache_mode = force_generic_plan")
    literals = sql.SQL(", ").join(map(sql.Literal, values.values())).as_string(session)
    return f"execute asked ({literals})", {}


def asked_of_v1(
    granularity: Granularity, circuits: list[UUID], start: datetime, end: datetime
) -> tuple[str, dict[str, Any]]:
    """Return the statement of /v1/energy by circuit."""
    first, last = int(start.timestamp()), int(end.timestamp())
    bounds = (
        range(first, last + 1, 1800)
        if granularity == "PT30M"
        else list(calendar(granularity, UTC_ZONE, first, last))
    )
    intervals = Intervals(bounds, first, last)
    keys = [(str(circuit),) for circuit in circuits]
    groups = Groups(keys, [], [(key[0], group) for group, key in enumerate(keys)])
    pieces = choose(granularity, UTC_ZONE, intervals)
    page = Page(0, len(groups) * len(intervals))
    statement = energy(groups, intervals, granularity, pieces, page)
    return statement.sql, statement.parameters


@pytest.mark.parametrize("generic", [False, True])
def test_a_day_of_a_register_reads_its_day(tenant: Admin, engine: str, generic: bool) -> None:
    """The query is PostgREST's, whose prepared statements get a generic plan after some calls."""
    register = one(tenant, "select register_id from api.meter_registers order by 1 limit 1")
    statement = POSTGREST.format(relation="register_interval_hh", key="register_id")
    values = {"key": register, "start": DAY[0], "end": DAY[1], "limit": 1000}
    if generic:
        statement, values = prepared(tenant, statement, values)
    found = Explained(tenant, statement, values)
    outside = parts(tenant, engine, "register_interval_hh", *EVER) - parts(
        tenant, engine, "register_interval_hh", *DAY
    )
    assert outside
    assert not found.relations & outside
    # The columnstore reads a whole week of a register, after looking up its position.
    assert found.examined < 2 * 336
    assert found.relations & parts(tenant, engine, "register_interval_hh", *DAY)


CASES: dict[str, tuple[Granularity, bool, tuple[datetime, datetime], str]] = {
    "a day of half-hours of a circuit": ("PT30M", False, DAY, "circuit_sums_hh"),
    "a month of days of the ESCO": ("P1D", True, MONTH, "circuit_sums_daily"),
    "a month of half-hours of the ESCO": ("PT30M", True, MONTH, "circuit_sums_hh"),
}


@pytest.mark.parametrize("case", CASES)
def test_energy_reads_its_window(tenant: Admin, engine: str, case: str) -> None:
    # The demo's rows are so few that reading all of a partition may cost least.
    tenant.execute("set local enable_seqscan = off")
    granularity, whole, window, series = CASES[case]
    circuits = [
        row[0] for row in tenant.execute("select id from api.circuits order by id").fetchall()
    ][: None if whole else 1]
    statement, parameters = asked_of_v1(granularity, circuits, *window)
    rows = len(tenant.execute(statement.encode(), parameters).fetchall())
    found = Explained(tenant, statement, parameters)
    assert rows > 0
    # A small chunk is read completely, because that costs less than its index.
    assert rows <= found.examined <= 2 * rows
    inside = parts(tenant, engine, series, *window)
    assert found.relations & inside
    assert not found.relations & (parts(tenant, engine, series, *EVER) - inside)
    # Stored sums are used instead of half-hours.
    assert not found.relations & parts(tenant, engine, "register_interval_hh", *EVER)


def test_half_hours_are_counted_in_the_window_alone(tenant: Admin, engine: str) -> None:
    """Those of several circuits are looked up unit by unit, at times that no planner knows."""
    circuits = [str(row[0]) for row in tenant.execute("select id from api.circuits limit 2")]
    first, last = (int(moment.timestamp()) for moment in MONTH)
    intervals = Intervals(list(calendar("P1D", UTC_ZONE, first, last)), first, last)
    groups = Groups([("both",)], [], [(",".join(circuits), 0)])
    pieces = choose("P1D", UTC_ZONE, intervals)
    asked = energy(groups, intervals, "P1D", pieces, Page(0, len(intervals)))
    explain = f"explain (format json) {asked.sql}"
    plan = json.dumps(tenant.execute(explain.encode(), asked.parameters).fetchone())
    planned = set(re.findall('"Relation Name": "([^"]*)"', plan))
    inside = parts(tenant, engine, "circuit_sums_hh", *MONTH)
    assert planned & inside
    assert not planned & (parts(tenant, engine, "circuit_sums_hh", *EVER) - inside)


def test_the_newest_of_a_register_reads_no_history(tenant: Admin, engine: str) -> None:
    register = one(tenant, "select register_id from api.meter_registers order by 1 limit 1")
    asked = {"register": register}
    newest = "select * from api.register_interval_hh_latest where register_id = %(register)s"
    found = Explained(tenant, newest, asked)
    rows = tenant.execute(
        'select register_id, "timestamp", import_kwh, export_kwh from api.register_interval_hh'
        ' where register_id = %(register)s order by "timestamp" desc limit 1',
        asked,
    ).fetchall()
    assert [row[:4] for row in tenant.execute(newest, asked).fetchall()] == rows
    inside = parts(tenant, engine, "register_interval_hh", rows[0][1], EVER[1])
    assert not found.relations & (parts(tenant, engine, "register_interval_hh", *EVER) - inside)
    assert len(found.relations & inside) >= 1


def test_the_newest_of_a_register_that_stopped_reporting_reads_nobody_elses(
    stack: Stack, tenant: Admin
) -> None:
    tenant.execute("reset role")
    register = one(
        tenant,
        "insert into flows.meter_registers (meter_id) select meter_id from flows.meter_registers"
        " order by register_id limit 1 returning register_id",
    )
    (esco,) = tenant.execute(
        "select m.esco from flows.meter_registry as m join flows.meter_registers as r"
        " on r.meter_id = m.id where r.register_id = %s",
        (register,),
    ).fetchone() or (None,)
    tenant.execute(
        'insert into flows.register_interval_hh (register_id, "timestamp", import_kwh)'
        " values (%s, %s, 1)",
        (register, MIDNIGHT - timedelta(days=500)),
    )
    become(tenant, "flows", str(esco))
    newest = "select * from api.register_interval_hh_latest where register_id = %(register)s"
    assert len(tenant.execute(newest, {"register": register}).fetchall()) == 1
    found = Explained(tenant, newest, {"register": register})
    # The newest rows, and the small tables of registers and meters.
    assert found.examined < 1000


def test_the_latest_of_every_meter_reads_no_history(tenant: Admin, engine: str) -> None:
    """The newest rows are in far fewer than half of the chunks."""
    asked = latest.statement([])
    found = Explained(tenant, asked.sql, asked.parameters)
    half = (MIDNIGHT - timedelta(days=40), EVER[1])
    inside = parts(tenant, engine, "register_interval_hh", *half)
    assert found.relations & inside
    assert not found.relations & (parts(tenant, engine, "register_interval_hh", *EVER) - inside)


def test_parallel_workers_lose_no_row(admin: Admin, engine: str) -> None:
    """TimescaleDB's parallel append skipped all chunks in two of a hundred reads (#10503)."""
    if engine == "postgres":
        pytest.skip("plain PostgreSQL shares partitions among workers itself")
    for cost in ("min_parallel_table_scan_size", "min_parallel_index_scan_size",
                 "parallel_setup_cost", "parallel_tuple_cost"):  # fmt: skip
        admin.execute(f"set local {cost} = 0".encode())
    admin.execute("set local max_parallel_workers_per_gather = 4")
    admin.execute("set local enable_indexonlyscan = off")
    read = (
        "select count(*) from flows.circuit_interval_hh"
        " where esco = (select id from flows.escos where code = 'wlce')"
    )
    row = admin.execute(f"explain (analyze, format json) {read}".encode()).fetchone()
    assert row
    shared = [node for node in nodes(row[0][0]["Plan"]) if node["Parallel Aware"]]
    assert shared
    assert not [node for node in shared if node.get("Custom Plan Provider") == "ChunkAppend"]
    counts = {(admin.execute(read.encode()).fetchone() or (0,))[0] for _ in range(200)}
    assert len(counts) == 1
    assert counts.pop() > 1000


@pytest.mark.parametrize("query", [
    "select * from api.newest_own_register_interval_hh(9, false)",
    "select version from flows.own_data_state(tstzrange(date_trunc('day', now(), 'UTC'), null))",
])  # fmt: skip
def test_a_resident_begins_with_the_newest_parts(admin: Admin, engine: str, query: str) -> None:
    """To begin with a part takes longer than to read the few rows that are asked for."""
    if engine == "timescale" and "newest_own" not in query:
        pytest.skip("to compare the times of chunks takes longer than to look into each")
    resident = add_residents(admin)["settled"]
    old = parts(admin, engine, "register_interval_hh", *EVER) - parts(
        admin, engine, "register_interval_hh", MIDNIGHT - timedelta(days=30), EVER[1]
    )
    assert old
    become(admin, RESIDENT, resident.esco, resident.member)
    admin.execute("reset role")  # the resident's settings stay
    plans = json.dumps(nested_plans(admin, query))
    planned = set(re.findall('"Relation Name": "([^"]*)"', plans))
    assert planned & parts(admin, engine, "register_interval_hh", MIDNIGHT, EVER[1])
    assert not planned & old
