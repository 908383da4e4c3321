"""Years of half-hours in communities of their own, for the benchmarks that need them."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg

Admin = psycopg.Connection[Any]

# uuid of the n-th of a kind; registers and circuits of an ESCO are mapped one to one.
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
HALF_HOURS = """
    insert into flows.register_interval_hh (register_id, "timestamp", import_kwh, export_kwh)
    select pg_temp.bench(%s, 'register', n), t, round((random() * 0.4)::numeric, 3), 0
    from generate_series(%s::timestamptz, %s::timestamptz - interval '1 minute', '30 minutes') as t
    cross join generate_series(1, %s) as n
"""
RECOMPUTE = """
    select flows.recompute(array(
        select (pg_temp.bench(%s, 'circuit', n), t)::flows.circuit_half_hour
        from generate_series(1, %s) as n
        cross join generate_series(%s::timestamptz, %s::timestamptz - interval '30 minutes',
            '30 minutes') as t
    ))
"""


@dataclass(frozen=True)
class History:
    """ESCOs with as many registers, circuits and meters each; without half-hours at first."""

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

    def id(self, kind: str, number: int) -> UUID:
        """Id of the n-th of a kind; register and circuit n belong to ESCO 1 + n % escos."""
        row = self.admin.execute(
            "select pg_temp.bench(%s, %s, %s)", (self.name, kind, number)
        ).fetchone()
        assert row is not None
        identity: UUID = row[0]
        return identity

    def load(self, start: datetime, end: datetime) -> None:
        """Load half-hours a month at a time, past the triggers, and the aggregates behind them."""
        self.admin.execute("alter table flows.register_interval_hh disable trigger user")
        for at, until in _steps(start, end, timedelta(days=30)):
            self.admin.execute(HALF_HOURS, (self.name, at, until, self.registers))
        self.admin.execute("alter table flows.register_interval_hh enable trigger user")
        if self.admin.execute("select flows.engine() = 'timescale'").fetchone() == (True,):
            self._refresh(start, end)
        else:
            for at, until in _steps(start, end, timedelta(days=7)):
                self.admin.execute(RECOMPUTE, (self.name, self.registers, at, until))
            self.admin.execute("analyze flows.circuit_interval_hh")
        self.admin.execute("select flows.mend_extents()")
        self.admin.execute("analyze flows.register_interval_hh")

    def _refresh(self, start: datetime, end: datetime) -> None:
        for at, until in _steps(start, end, timedelta(days=7)):
            for level in ("hh", "daily_london"):
                self.admin.execute(
                    "call public.refresh_continuous_aggregate(%s::regclass, %s, %s, force => true)",
                    (f"flows.circuit_interval_{level}", at - timedelta(days=1), until),
                )
        chunks = self.admin.execute(
            "select c::text from public.show_chunks('flows.register_interval_hh', %s) as c", (end,)
        ).fetchall()
        for (chunk,) in chunks:
            self.admin.execute(
                "call public.convert_to_columnstore(%s, if_not_columnstore => true)", (chunk,)
            )


def _steps(start: datetime, end: datetime, step: timedelta) -> list[tuple[datetime, datetime]]:
    steps = []
    while start < end:
        steps.append((start, min(start + step, end)))
        start += step
    return steps
