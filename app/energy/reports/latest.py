"""The last reading of each meter, with its counters and its prepayment balance."""

from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl

from app.db.batch import Query
from app.db.session import Connection
from app.energy.formats import Format
from app.energy.frames import Clock
from app.energy.intervals import HALF_HOUR
from app.energy.query import Statement
from app.energy.reading import Schema, read_frame, read_parts
from app.energy.response import DataVersion, RenderedReport, Report, ReportRequest
from app.energy.scope import Selection, among, resolve
from app.energy.sql_files import read_sql

# Column → its SQL, over a meter, its ESCO, its shadow and its newest half-hour.
TEXTS = {
    "meter": "meter.serial",
    "meter_name": "meter.name",
    "name": "meter.name",
    "esco": "esco.code",
    "health": "shadow.health",
}
TIMES = {
    "interval_start": "newest.start",
    "interval_end": f"newest.start + interval '{HALF_HOUR} seconds'",
    "balance_updated_at": "shadow.balance_updated_at",
    "last_healthy_at": "shadow.last_healthy_at",
    "state_updated_at": "shadow.updated_at",
}
NUMBERS = {
    "import_kwh": "newest.import_kwh",
    "export_kwh": "newest.export_kwh",
    "registers_reporting": "coalesce(newest.registers, 0)",
    "balance": "shadow.balance",
    "emergency_credit": "shadow.emergency_credit",
    "import_a_kwh": "shadow.import_a",
    "import_b_kwh": "shadow.import_b",
    "export_a_kwh": "shadow.export_a",
    "export_b_kwh": "shadow.export_b",
}
# Null is what no calendar of a client has, in any time zone: infinity, and years beyond 1 to 9999.
TIME_IN_MICROSECONDS = (
    "case when {0} between '0001-01-02Z' and '9999-12-30Z'"
    " then (extract(epoch from {0}) * 1000000)::bigint end"
)
SCHEMA: Schema = (
    dict.fromkeys(TEXTS, pl.String)
    | dict.fromkeys(TIMES, pl.Int64)
    | dict.fromkeys(NUMBERS, pl.Float64)
    | {"registers_reporting": pl.Int32}
)

BY_SERIAL = 'meter collate "C" nulls first'

# The conditions of the filters: on the meter itself, on its service heads, or on the circuits that
# its registers are mapped to now.
ON_HEAD = """meter.id in (
    select on_head.meter from flows.service_head_meter as on_head
    inner join flows.service_head_registry as head on on_head.service_head = head.id
    left join flows.properties_service_head as at_head on head.id = at_head.service_head
    where {column} = {values})"""
ON_CIRCUIT = """meter.id in (
    select register.meter_id from flows.circuit_register as mapping
    inner join flows.meter_registers as register on mapping.register = register.register_id
    inner join flows.circuits as circuit on mapping.circuit = circuit.id
    where mapping.start_time <= now() and (mapping.end_time is null or mapping.end_time > now())
        and {column} = {values})"""
CONDITIONS = {
    "esco": ("meter.esco", "{column} = {values}"),
    "serial": ("meter.serial", "{column} = {values}"),
    "meter": ("meter.id", "{column} = {values}"),
    "property": ("at_head.property", ON_HEAD),
    "feeder": ("head.feeder", ON_HEAD),
    "circuit": ("circuit.id", ON_CIRCUIT),
    "site": ("circuit.site", f"(meter.site = {{values}} or {ON_CIRCUIT})"),
    "circuit_type": ("circuit.type", ON_CIRCUIT),
}
# Of these conditions, the values are no ids.
TEXTUAL = {"serial", "circuit_type"}
METERS = read_sql("latest")
METER_VERSION = read_sql("latest_version")


@dataclass(frozen=True, slots=True)
class LatestReport(Report):
    """A validated request for the last readings."""

    zone: ZoneInfo
    scope: Selection

    async def render(
        self, request: ReportRequest, connection: Connection, version: DataVersion
    ) -> RenderedReport:
        """Look up the filters and return the rows."""
        resolved = await resolve(connection, self.scope, version.early)
        found = self._filters(resolved)
        (rows,) = await version.early.rows(connection, [version_query(self._by_serial(found))])
        ((state,),) = rows.tuples()
        as_of = version.as_of.isoformat() if version.as_of else None
        members = {"timezone": self.zone.key, "data_as_of": as_of}
        asked = statement(found)
        frames = self._frames(request.format, connection, asked, is_narrow=self.scope.narrow)
        return RenderedReport(frames, members, version=state)

    def early_queries(self) -> list[Query]:
        """Return the lookups, and the query for the version if it needs none of their answers."""
        queries = [*self.scope.plan(), *self.scope.lookups()]
        if all(name == "meter" for named in self.scope.named() for name in named):
            queries.append(version_query(self._by_serial(self._filters([]))))
        return queries

    def _filters(self, resolved: Iterable[tuple[str, list[Any]]]) -> list[tuple[str, list[Any]]]:
        """Return the filters with their ids, and the one for types of circuits."""
        types = list(self.scope.query.circuit_type)
        return [*resolved, *([("circuit_type", types)] if types else [])]

    def _by_serial(self, found: list[tuple[str, list[Any]]]) -> list[tuple[str, list[Any]]]:
        """Return filters with meters by serial number, for which no id must be known."""
        others = [own for own in found if own[0] != "meter"]
        named = self.scope.named()
        return others + [("serial", own["meter"]) for own in named if "meter" in own]

    async def _frames(
        self, form: Format, connection: Connection, asked: Statement, *, is_narrow: bool
    ) -> AsyncGenerator[pl.DataFrame, None]:
        clock = Clock(self.zone, form)
        async with aclosing(_parts(connection, asked, is_narrow=is_narrow)) as parts:
            async for part in parts:
                found = part.sort("meter")
                texts = [
                    pl.Series(name, map(form.text, found[name]), dtype=pl.String) for name in TEXTS
                ]
                times = [clock.times(found[name]) for name in TIMES]
                yield pl.DataFrame([*texts, *times, *(found[name] for name in NUMBERS)])


async def _parts(
    connection: Connection, asked: Statement, *, is_narrow: bool
) -> AsyncGenerator[pl.DataFrame, None]:
    """Yield the meters in the order of their serial numbers; one frame at least."""
    if is_narrow:
        yield await read_frame(connection, asked, SCHEMA, keep=True)
        return
    is_empty = True
    async with aclosing(read_parts(connection, asked, SCHEMA, BY_SERIAL)) as parts:
        async for part in parts:
            is_empty = False
            yield part
    if is_empty:
        yield pl.DataFrame(schema=SCHEMA)


def statement(filters: list[tuple[str, list[Any]]]) -> Statement:
    """Build the SQL for filters given as (name, ids); its columns are those of `SCHEMA`.

    Times are microseconds since 1970.
    """
    conditions = meter_conditions(filters)
    columns = ", ".join(
        [
            *(f"{sql} as {name}" for name, sql in (TEXTS | NUMBERS).items()),
            *(f"{TIME_IN_MICROSECONDS.format(sql)} as {name}" for name, sql in TIMES.items()),
        ]
    )
    return Statement(
        METERS.format(columns=columns, conditions=conditions.sql), conditions.parameters
    )


def meter_conditions(filters: list[tuple[str, list[Any]]]) -> Statement:
    """Return the conditions on `meter` of filters given as (name, ids), and their parameters."""
    conditions, parameters = [], {}
    for number, (name, values) in enumerate(filters):
        column, condition = CONDITIONS[name]
        parameters[f"values_{number}"] = values
        array = f"%(values_{number})s::{'text' if name in TEXTUAL else 'uuid'}[]"
        conditions.append(condition.format(column=column, values=among(array, values)))
    return Statement(" and ".join(conditions) or "true", parameters)


def version_query(filters: list[tuple[str, list[Any]]]) -> Query:
    """Return the query for what changes with the meters' state, or with their mapping in time."""
    conditions = meter_conditions(filters)
    which = "md5(string_agg(meter.id::text, '' order by meter.id))" if filters else "null"
    return Query(
        METER_VERSION.format(which=which, conditions=conditions.sql), conditions.parameters
    )
