"""Loading of half-hours, or readings, into registers: all or none, and safe to repeat."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import polars as pl
import psycopg
from psycopg import sql

from app.ingest.bounds import LIMITS, describe_energy
from app.ingest.faults import Refusals
from app.ingest.summary import ImportSummary, RegisterSummary
from app.ingest.values import ENERGY_COLUMNS

HALF_HOUR = timedelta(minutes=30)
MINUTE = timedelta(minutes=1)
# A tick is 0.0000001 kWh; see app.ingest.values.
STAGE = """
    create temporary table staged (
        line integer, key integer, "timestamp" timestamptz,
        import_ticks bigint, export_ticks bigint, minutes smallint, estimated boolean
    ) on commit drop;
    create temporary table targets (key integer primary key, register_id uuid) on commit drop;
"""
CALLER = "select current_user"
GRANT = sql.SQL("grant select, insert, update, delete on staged, targets to {}")
COPY = """
    copy staged (line, key, "timestamp", import_ticks, export_ticks, minutes, estimated)
    from stdin (format csv)
"""
# `parts` if rows of one half-hour stand for its parts or for its directions.
DUPLICATES = """
    select s.line, f.first
    from staged as s
    join (
        select key, "timestamp", min(line) as first from staged
        group by 1, 2
        having case when %(parts)s then greatest(count(import_ticks), count(export_ticks))
            else count(*) end > 1
    ) as f using (key, "timestamp")
    where s.line <> f.first
    order by 1
"""
GATHER = """
    create temporary table gathered on commit drop as
    select
        min(line) as line, key, date_bin('30 minutes', "timestamp", '2000-01-01Z') as "timestamp",
        case when sum(minutes) filter (where import_ticks is not null) = 30
            then sum(import_ticks) end as import_ticks,
        case when sum(minutes) filter (where export_ticks is not null) = 30
            then sum(export_ticks) end as export_ticks,
        bool_or(estimated) as estimated
    from staged group by key, 3;
    drop table staged;
    alter table gathered rename to staged;
"""
INCOMPLETE = "delete from staged where import_ticks is null and export_ticks is null"
OUTSIDE = """
    select s.line
    from staged as s
    join targets as t using (key)
    join flows.meter_registers as r using (register_id)
    where s."timestamp" < r.start_time or s."timestamp" >= r.end_time
    order by 1
"""
# Materialized, or the limit would be looked up for each staged row.
TOO_MUCH = (
    f"with limits as materialized ({LIMITS})"
    + """
    select s.line, greatest(s.import_ticks, s.export_ticks) * 0.0000001, l.largest_kwh, l.amps
    from staged as s join limits as l using (key)
    where greatest(s.import_ticks, s.export_ticks) * 0.0000001 > l.largest_kwh
    order by 1
"""
)
WITHOUT_CIRCUIT = """
    select count(*)
    from staged as s
    join (
        select
            t.key,
            range_agg(tstzrange(cr.start_time, cr.end_time))
                filter (where cr.register is not null) as mapped
        from targets as t left join flows.circuit_register as cr on cr.register = t.register_id
        group by t.key
    ) as m using (key)
    where m.mapped is null or not m.mapped @> s."timestamp"
"""
REGISTERS = """
    select
        t.register_id, t.key, count(s.line), trim_scale(sum(s.import_ticks) * 0.0000001),
        trim_scale(sum(s.export_ticks) * 0.0000001),
        min(s."timestamp"), max(s."timestamp") + interval '30 minutes'
    from targets as t left join staged as s using (key) group by 1, 2 order by 2
"""
KEPT = """
    select count(*)
    from staged as s
    join targets as t using (key)
    join {0}.register_interval_hh as kept using (register_id, "timestamp")
    where s.estimated and not kept.derived
"""
# An empty cell says nothing about a value, so it does not overwrite one; an estimate does not
# replace a measurement. A week's rows of one register follow one another: they go into one chunk,
# and have one owner, which the database looks for once.
UPSERT = """
    insert into {0}.register_interval_hh as kept
        (register_id, "timestamp", import_kwh, export_kwh, kwh, derived)
    select t.register_id, s."timestamp", trim_scale(s.import_ticks * 0.0000001),
        trim_scale(s.export_ticks * 0.0000001),
        trim_scale(
            coalesce(s.import_ticks + s.export_ticks, s.import_ticks, s.export_ticks) * 0.0000001
        ), s.estimated
    from staged as s join targets as t using (key)
    order by date_bin('7 days', s."timestamp", '2000-01-01Z'), t.register_id, s."timestamp"
    on conflict (register_id, "timestamp") do update set
        import_kwh = coalesce(excluded.import_kwh, kept.import_kwh),
        export_kwh = coalesce(excluded.export_kwh, kept.export_kwh),
        derived = excluded.derived
    where (kept.derived or not excluded.derived)
        and (coalesce(excluded.import_kwh, kept.import_kwh),
             coalesce(excluded.export_kwh, kept.export_kwh), excluded.derived)
        is distinct from (kept.import_kwh, kept.export_kwh, kept.derived)
"""
NOTE_ESTIMATES = """
    insert into flows.derived_register (register_id)
    select t.register_id from targets as t
    where exists (select from staged as s where s.key = t.key and s.estimated)
    on conflict do nothing
"""
# A caller has no right on that table; this function takes registers of the caller's ESCO alone.
NOTE_CALLERS_ESTIMATES = """
    select gateway.note_estimates(array(
        select t.register_id from targets as t
        where exists (select from staged as s where s.key = t.key and s.estimated)
    ))
"""
# Readings of one counter; {1} is import or export.
UPSERT_READS = """
    insert into {0}.register_{1} as kept (register_id, "timestamp", read)
    select t.register_id, s."timestamp", trim_scale(s.{1}_ticks * 0.0000001)
    from staged as s join targets as t using (key)
    where s.{1}_ticks is not null
    order by s."timestamp"
    on conflict (register_id, "timestamp") do update set read = excluded.read
    where kept.read is distinct from excluded.read
"""


class Loader:
    """Stages the half-hours of a file within a transaction, judges them together, and writes them.

    In the transaction of a caller (`as_caller`) it reads and writes through the views of schema
    api.
    """

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        refusals: Refusals,
        *,
        reads: bool = False,
        parts: bool = False,
        as_caller: bool = False,
    ) -> None:
        self._connection = connection
        self._refusals = refusals
        self._reads = reads
        self._parts = parts
        self._as_caller = as_caller
        self._schema = "api" if as_caller else "flows"
        self._keys: dict[str | None, int] = {}
        self.staged = 0
        with self._as_login():
            connection.execute(STAGE)

    @contextmanager
    def _as_login(self) -> Iterator[None]:
        """Own the temporary tables as the login, which may make them, and let the caller use them.

        A caller's role may not. An administrator is its own login.
        """
        run = self._connection.execute
        if not self._as_caller:
            yield
            return
        (caller,) = run(CALLER).fetchone() or ("",)
        run("set local role none")
        yield
        role = sql.Identifier(caller)
        run(GRANT.format(role))
        run(sql.SQL("set local role {}").format(role))

    @property
    def keys(self) -> list[str | None]:
        """The keys that were staged."""
        return list(self._keys)

    def stage(self, half_hours: pl.DataFrame) -> None:
        """Copy half-hours with `key`, `line`, `timestamp`, values, `minutes` and `estimated`."""
        if not half_hours.height:
            return
        self._parts |= bool((half_hours["minutes"] < HALF_HOUR // MINUTE).any())
        for key in half_hours["key"].unique():
            self._keys.setdefault(key, len(self._keys))
        numbered = half_hours.with_columns(
            number=pl.col("key").replace_strict(self._keys, return_dtype=pl.Int32)
        )
        rows = numbered.select(
            "line", "number", "timestamp", *ENERGY_COLUMNS,
            "minutes", "estimated",
        )  # fmt: skip
        self.staged += rows.height
        with self._connection.cursor().copy(COPY) as copy:
            copy.write(rows.write_csv(include_header=False))

    def judge(self, registers: dict[str | None, UUID], summary: ImportSummary) -> None:
        """Refuse what only shows when all rows and their registers are known; count the rest."""
        run = self._connection.execute
        # Several keys may be one register: its import and its export, say.
        numbers: dict[UUID, int] = {}
        for key, register in registers.items():
            number = numbers.setdefault(register, self._keys[key])
            if number != self._keys[key]:
                run("update staged set key = %s where key = %s", (number, self._keys[key]))
                self._parts = True
        with self._connection.cursor() as cursor:
            cursor.executemany(
                "insert into targets values (%s, %s)",
                [(number, register) for register, number in numbers.items()],
            )
        with self._as_login():
            run("analyze staged")
        for line, first in run(DUPLICATES, {"parts": self._parts}):
            unit = "time" if self._reads or self._parts else "half-hour"
            self._refusals.add(line, f"is the same {unit} as line {first}")
        if self._parts and not self._reads:
            with self._as_login():
                run(GATHER)
            summary.incomplete = run(INCOMPLETE).rowcount
        for (line,) in run(OUTSIDE):
            self._refusals.add(line, "is outside the time the register counted")
        if not self._reads:
            for line, kwh, largest, amps in run(TOO_MUCH):
                self._refusals.add(
                    line, describe_energy(float(kwh), float(largest), amps and float(amps))
                )
            summary.without_circuit = self._count(WITHOUT_CIRCUIT)
            summary.estimated = self._count("select count(*) from staged where estimated")
            summary.kept = self._count(KEPT.format(self._schema)) if summary.estimated else 0
        names = {number: key for key, number in self._keys.items()}
        for register, number, count, imported, exported, first, last in run(REGISTERS):
            found = RegisterSummary(
                register, names[number], count, period_from=first, period_to=last
            )
            if not self._reads:
                found.import_kwh, found.export_kwh = imported, exported
            summary.registers.append(found)
            summary.half_hours += count
            if count and not self._reads:
                # Of rows that repeat a half-hour, which are refused, there may be more than due.
                summary.missing += max((last - first) // HALF_HOUR - count, 0)
        starts = [r.period_from for r in summary.registers if r.period_from]
        stops = [r.period_to for r in summary.registers if r.period_to]
        summary.period_from = min(starts, default=None)
        summary.period_to = max(stops, default=None)

    def write(self, summary: ImportSummary) -> None:
        """Write what was staged; only what is new or different."""
        if self._reads:
            for name in ENERGY_COLUMNS:
                summary.written += self._connection.execute(
                    UPSERT_READS.format(self._schema, name)
                ).rowcount
            values = self._count("select count(import_ticks) + count(export_ticks) from staged")
            summary.unchanged = values - summary.written
            return
        if summary.estimated:
            self._connection.execute(NOTE_CALLERS_ESTIMATES if self._as_caller else NOTE_ESTIMATES)
        summary.written = self._connection.execute(UPSERT.format(self._schema)).rowcount
        summary.unchanged = summary.half_hours - summary.written

    def _count(self, query: str, parameters: dict[str, Any] | None = None) -> int:
        (count,) = self._connection.execute(query, parameters).fetchone() or (0,)
        return int(count)
