"""Years of half-hours in separate ESCOs, for the benchmarks that need them."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from hashlib import md5
from typing import Any
from uuid import UUID

import psycopg
from psycopg.conninfo import make_conninfo

Admin = psycopg.Connection[Any]

# The uuid of the n-th object of a kind; registers and circuits are mapped one to one.
IDS = """
    create or replace function pg_temp.bench(bench text, kind text, n integer) returns uuid
    language sql immutable return md5(bench || '/' || kind || '/' || n)::uuid
"""
COMMUNITIES = """
    insert into flows.escos (id, code, name)
    select pg_temp.bench(%(name)s, 'esco', n), %(name)s || n, 'Bench'
    from generate_series(1, %(escos)s) as n;
    insert into flows.meter_registry (id, serial, name, esco)
    select pg_temp.bench(%(name)s, 'meter', n), %(name)s || n, 'Bench',
        pg_temp.bench(%(name)s, 'esco', 1 + n %% %(escos)s)
    from generate_series(1, %(registers)s) as n;
    insert into flows.meter_registers (register_id, meter_id)
    select pg_temp.bench(%(name)s, 'register', n), pg_temp.bench(%(name)s, 'meter', n)
    from generate_series(1, %(registers)s) as n;
    insert into flows.circuits (id, type)
    select pg_temp.bench(%(name)s, 'circuit', n), 'power'
    from generate_series(1, %(registers)s) as n;
    insert into flows.circuit_register (circuit, register, start_time)
    select pg_temp.bench(%(name)s, 'circuit', n), pg_temp.bench(%(name)s, 'register', n),
        '2000-01-01Z'
    from generate_series(1, %(registers)s) as n
"""
OWN = """
    select mapping.circuit, register.register_id, meter.id as meter, meter.esco
    from flows.meter_registry as meter
    join flows.meter_registers as register on register.meter_id = meter.id
    join flows.circuit_register as mapping on mapping.register = register.register_id
    where meter.name = 'Bench' and meter.serial ~ ('^' || %(name)s || '[0-9]+$')
"""
# {{owner}} is the column of the owner, which 0.1 did not have.
HALF_HOURS = f"""
    insert into flows.register_interval_hh
        (register_id, "timestamp", import_kwh, export_kwh{{owner}})
    select own.register_id, t, round((random() * 0.4)::numeric, 3), 0{{owner}}
    from ({OWN}) as own
    cross join generate_series(
        %(start)s::timestamptz, %(end)s::timestamptz - interval '1 minute', '30 minutes'
    ) as t
    order by 1, 2
"""
# Each circuit has one register, so its sums are that register's half-hours.
CIRCUITS_HALF_HOURS = f"""
    insert into {{kept}} (
        circuit_id, "timestamp", total_import_kwh, total_export_kwh, register_intervals, meters,
        updated_at{{owned}}
    )
    select own.circuit, r."timestamp", r.import_kwh, r.export_kwh, 1, array[own.meter], now()
        {{owner}}
    from flows.register_interval_hh as r join ({OWN}) as own using (register_id)
    where r."timestamp" >= %(start)s and r."timestamp" < %(end)s
    order by 1, 2
"""
REMOVE_HALF_HOURS = f"""
    delete from {{kept}} where "timestamp" >= %(start)s and "timestamp" < %(end)s
        and circuit_id in (select own.circuit from ({OWN}) as own)
"""
# Whole days and months, also if an earlier load ended in the middle of one.
REMOVE = """
    delete from {kept}
    where {unit} >= date_trunc('{unit}', %(start)s::timestamptz, '{zone}') and {unit} < %(end)s
        and circuit_id in (select own.circuit from ({own}) as own)
"""
SUM_UP = """
    insert into {kept} (
        circuit_id, {unit}, total_import_kwh, total_export_kwh, register_intervals,
        present_intervals, meters, updated_at{owned}
    )
    select summed.circuit_id, summed.label, summed.import, summed.export, summed.present,
        summed.present, array[own.meter], now(){owner}
    from (
        select below.circuit_id, date_trunc('{unit}', below.{label}, '{zone}') as label,
            sum(below.total_import_kwh) as import, sum(below.total_export_kwh) as export,
            sum({present}) as present
        from flows.{below} as below
        where below.{label} >= date_trunc('{unit}', %(start)s::timestamptz, '{zone}')
            and below.{label} < date_add(
                date_trunc('{unit}', %(end)s::timestamptz - interval '1 minute', '{zone}'),
                '1 {unit}', '{zone}'
            )
        group by 1, 2
    ) as summed
    join ({own}) as own on own.circuit = summed.circuit_id
"""
LEVELS = {
    "circuit_interval_daily": ("day", "UTC", "circuit_interval_hh", '"timestamp"', "1"),
    "circuit_interval_daily_london": (
        "day", "Europe/London", "circuit_interval_hh", '"timestamp"', "1"),
    "circuit_interval_monthly": (
        "month", "UTC", "circuit_interval_daily", "day", "below.present_intervals"),
}  # fmt: skip
# The relation that stores an aggregate, which had the aggregate's own name in 0.1.
STORED = """
    select c.relname from pg_class as c
    where c.relnamespace = 'flows'::regnamespace
        and c.relname::text in (
            %(name)s::text, replace(%(name)s::text, 'circuit_interval_', 'circuit_sums_')
        )
    order by c.relname desc limit 1
"""
# The tables in which TimescaleDB stores the rows of aggregates.
KEPT = """
    select format('%%I.%%I', materialization_hypertable_schema, materialization_hypertable_name)
    from timescaledb_information.continuous_aggregates where view_name = %s
"""
POLICIES_REST = """
    select public.alter_job(job_id, scheduled => false) from timescaledb_information.jobs
    where proc_name like 'policy_%%'
"""
OWNED = """
    select exists (
        select from pg_attribute
        where attrelid = 'flows.register_interval_hh'::regclass and attname = 'esco'
    )
"""
# The length of TimescaleDB's chunks; weeks begin where chunks do.
WEEK = timedelta(days=7)
CHUNKS = """
    select format('%%I.%%I', c.chunk_schema, c.chunk_name)
    from timescaledb_information.chunks as c
    left join timescaledb_information.continuous_aggregates as a
        on a.materialization_hypertable_name = c.hypertable_name
    where coalesce(a.view_name, c.hypertable_name) = %s
        and c.range_start < %s and c.range_end > %s
"""


@dataclass
class History:
    """ESCOs with equal numbers of registers, circuits and meters; without half-hours at first."""

    admin: Admin
    name: str
    escos: int
    registers: int

    def __post_init__(self) -> None:
        self.admin.execute(IDS)
        numbers = {"name": self.name, "escos": self.escos, "registers": self.registers}
        with self.admin.transaction():
            for statement in COMMUNITIES.split(";\n"):
                self.admin.execute(statement, numbers)
        # Apply the mappings to the aggregates: until then /v1 sums registers.
        self.admin.execute("call flows.follow()")

    def id(self, kind: str, number: int) -> UUID:
        """Return the id of the n-th object; register and circuit n belong to ESCO 1 + n % escos."""
        digest = md5(f"{self.name}/{kind}/{number}".encode(), usedforsecurity=False)
        return UUID(digest.hexdigest())

    def load(self, start: datetime, end: datetime) -> None:
        """Load half-hours without triggers, and their aggregates directly; weeks run in parallel.

        On TimescaleDB all past chunks end up in the columnstore, as the policies would do it. To
        refresh the aggregates instead would take ten times as long.
        """
        timescale = self.admin.execute("select flows.engine() = 'timescale'").fetchone() == (True,)
        if timescale:
            self.admin.execute(POLICIES_REST)
        self._each_week(start, end, self._half_hours, timescale)
        if timescale:
            self._refresh_last(end)
        self._each_week(start, end, self._circuits_half_hours, timescale)
        if timescale:
            self._compress(self.admin, self._stored("circuit_interval_hh"), start, end)
        for level, (unit, zone, below, label, present) in LEVELS.items():
            for statement in (REMOVE, SUM_UP):
                query = statement.format(
                    kept=self._kept(level, timescale),
                    unit=unit, zone=zone, below=below, label=label, present=present, own=OWN,
                    owner=self._owner, owned=self._owned,
                )  # fmt: skip
                self.admin.execute(query.encode(), self._span(start, end))
        self.admin.execute("select flows.mend_extents()")
        for series in ("register_interval_hh", "circuit_interval_hh", *LEVELS):
            self.admin.execute(f"analyze {self._kept(series, timescale)}".encode())

    def _each_week(
        self,
        start: datetime,
        end: datetime,
        work: Callable[[Admin, datetime, datetime, bool], None],
        timescale: bool,
    ) -> None:
        url = make_conninfo(self.admin.info.dsn, password=self.admin.info.password)
        # Sessions in replica mode run no triggers and check no foreign keys.
        options = "-c session_replication_role=replica -c synchronous_commit=off"

        def run(week: tuple[datetime, datetime]) -> None:
            with psycopg.connect(url, autocommit=True, options=options) as connection:
                connection.execute("set work_mem = '256MB'")
                work(connection, *week, timescale)

        with ThreadPoolExecutor(2) as workers:
            list(workers.map(run, _weeks(start, end)))

    def _half_hours(
        self, connection: Admin, start: datetime, end: datetime, timescale: bool
    ) -> None:
        query = HALF_HOURS.format(owner=self._owned)
        connection.execute(query.encode(), self._span(start, end))
        if timescale:
            self._compress(connection, "register_interval_hh", start, end)

    def _circuits_half_hours(
        self, connection: Admin, start: datetime, end: datetime, timescale: bool
    ) -> None:
        kept = self._kept("circuit_interval_hh", timescale)
        if timescale:
            connection.execute(REMOVE_HALF_HOURS.format(kept=kept).encode(), self._span(start, end))
        query = CIRCUITS_HALF_HOURS.format(kept=kept, owner=self._owner, owned=self._owned)
        connection.execute(query.encode(), self._span(start, end))

    @cached_property
    def _owner(self) -> str:
        owned = self.admin.execute(OWNED).fetchone() == (True,)
        return ", own.esco" if owned else ""

    @property
    def _owned(self) -> str:
        return self._owner.replace("own.", "")

    def _refresh_last(self, end: datetime) -> None:
        """Refresh the last buckets, so that everything before them counts as materialized."""
        for level in ("circuit_interval_hh", *LEVELS):
            first = end - timedelta(days=62 if level == "circuit_interval_monthly" else 2)
            self.admin.execute(
                "call public.refresh_continuous_aggregate(%s::regclass, %s, %s, force => true)",
                (f"flows.{self._stored(level)}", first, end),
            )

    def _compress(self, connection: Admin, series: str, start: datetime, end: datetime) -> None:
        for (chunk,) in connection.execute(CHUNKS, (series, end, start)).fetchall():
            connection.execute(
                "call public.convert_to_columnstore(%s, if_not_columnstore => true)", (chunk,)
            )

    def _kept(self, series: str, timescale: bool) -> str:
        stored = self._stored(series)
        found = self.admin.execute(KEPT, (stored,)).fetchone() if timescale else None
        return found[0] if found else f"flows.{stored}"

    def _stored(self, series: str) -> str:
        (name,) = self.admin.execute(STORED, {"name": series}).fetchone() or (series,)
        return str(name)

    def _span(self, start: datetime, end: datetime) -> dict[str, object]:
        return {"name": self.name, "start": start, "end": end}


def _weeks(start: datetime, end: datetime) -> list[tuple[datetime, datetime]]:
    """Return consecutive spans that begin where chunks begin."""
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    weeks = []
    while start < end:
        until = min(epoch + ((start - epoch) // WEEK + 1) * WEEK, end)
        weeks.append((start, until))
        start = until
    return weeks
