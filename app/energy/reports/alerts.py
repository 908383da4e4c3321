"""Alerts: low balances, silent meters, wrong clocks, missing readings and stuck registers."""

import hashlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar
from zoneinfo import ZoneInfo

import polars as pl

from app.db.batch import Query
from app.db.session import Connection
from app.energy.formats import Format
from app.energy.frames import MICROSECONDS, Clock
from app.energy.groups import OF_TENANT, Sources
from app.energy.parameters import Alert, AlertsQuery
from app.energy.query import Statement, array
from app.energy.reading import Schema, read_frame
from app.energy.reports.latest import TIME_IN_MICROSECONDS, meter_conditions
from app.energy.response import DataVersion, RenderedReport, Report, ReportRequest
from app.energy.scope import Selection, resolve
from app.energy.sql_files import read_sql

# The start of a state is looked for this far back, and for as many registers.
LOOK_BACK = timedelta(days=31)
MOST_TRACED = 1000
# Nothing moves in a register that is stuck, so that a day shows most of those that are not.
LAST_DAY = timedelta(days=1)

WHERE = ("meter", "meter_name", "register", "esco")
OF_WHERE: Schema = dict.fromkeys(WHERE, pl.String)
STATES: Schema = {
    **OF_WHERE, "since": pl.Int64, "balance": pl.Float64, "clock_seconds": pl.Float64
}  # fmt: skip
READINGS: Schema = {**OF_WHERE, "available_from": pl.Int64, "since": pl.Int64}
MOVED: Schema = {"register": pl.String, "moved": pl.Int64}
# Alerts of a meter's own state, each with its statement.
OF_STATE: tuple[Alert, ...] = ("low_balance", "offline", "clock_drift")
OF_READINGS: tuple[Alert, ...] = ("missing_readings", "stuck_register")


@dataclass(frozen=True, slots=True)
class AlertsReport(Report):
    """A validated request for alerts."""

    query: AlertsQuery
    scope: Selection

    COLUMNS: ClassVar[Schema] = {"alert": pl.String, **STATES}

    async def render(
        self, request: ReportRequest, connection: Connection, version: DataVersion
    ) -> RenderedReport:
        """Find the alerts, whose content is their version."""
        resolved = await resolve(connection, self.scope, version.early)
        filters: list[tuple[str, list[Any]]] = list(resolved)
        if types := list(self.query.circuit_type):
            filters.append(("circuit_type", types))
        found = await find_alerts(connection, self.query, filters, self.scope.sources)
        content = hashlib.sha256(found.write_json().encode()).hexdigest()
        zone = self.query.zone()
        frames = _frames(request.format, zone, found)
        return RenderedReport(frames, {"timezone": zone.key}, version=content)

    def early_queries(self) -> list[Query]:
        """Return the lookups of the filters."""
        return [*self.scope.plan(), *self.scope.lookups()]


async def find_alerts(
    connection: Connection,
    query: AlertsQuery,
    filters: list[tuple[str, list[Any]]],
    sources: Sources = OF_TENANT,
) -> pl.DataFrame:
    """Return the alerts that a session may see, by kind, meter and register.

    `filters` are (name, ids), `sources` what the caller reads. The columns are those of
    `AlertsReport.COLUMNS`; `since` is in microseconds since 1970.
    """
    now = datetime.now(UTC)
    asked = query.alert or [*OF_STATE, *OF_READINGS]
    conditions = meter_conditions(filters)
    parameters = conditions.parameters | {
        "balance_below": query.balance_below,
        "clock_seconds": query.clock_seconds,
        "offline_from": now - timedelta(hours=query.offline_hours),
        "traced_from": now - LOOK_BACK,
    }
    parts = [pl.DataFrame(schema=AlertsReport.COLUMNS)]
    for alert in OF_STATE:
        if alert in asked:
            sql = read_sql(f"alerts_{alert}").format(conditions=conditions.sql)
            states = await _read(connection, sql, parameters, STATES)
            parts.append(states.select(pl.lit(alert).alias("alert"), *STATES))
    if set(asked) & set(OF_READINGS):
        sql = read_sql("alerts_readings").format(
            mappings=sources.mappings, conditions=conditions.sql
        )
        expected = await _read(connection, sql, conditions.parameters, READINGS)
        silent_from = _microseconds(now - timedelta(hours=query.silent_hours))
        is_silent = pl.col("since") < silent_from
        if "missing_readings" in asked:
            parts.append(_as_alerts("missing_readings", expected.filter(is_silent)))
        if "stuck_register" in asked:
            reporting = expected.filter(~is_silent)
            stuck = await _stuck(
                connection, reporting, now, days=query.stuck_days, is_narrow=bool(filters)
            )
            parts.append(_as_alerts("stuck_register", stuck))
    return pl.concat(parts).sort("alert", "meter", "register")


async def _stuck(
    connection: Connection, reporting: pl.DataFrame, now: datetime, *, days: int, is_narrow: bool
) -> pl.DataFrame:
    """Return the registers that report, but no energy, and the time since which they do.

    Most are ruled out by their last day; only the others' half-hours are read.
    """
    first = now - timedelta(days=days)
    left = reporting.filter(pl.col("available_from") <= _microseconds(first))
    for start in (max(first, now - LAST_DAY), first):
        named = left["register"] if is_narrow or start == first else None
        moved = await _last_moved(connection, start, named)
        left = left.join(moved.drop_nulls(), on="register", how="anti")
    traced = left.head(MOST_TRACED)
    moved = await _last_moved(connection, now - LOOK_BACK, traced["register"])
    began = pl.coalesce(
        "moved",
        pl.when(
            pl.col("available_from") >= _microseconds(now - LOOK_BACK),
            pl.col("register").is_in(traced["register"].implode()),
        ).then("available_from"),
    )
    return left.join(moved, on="register", how="left").with_columns(since=began)


async def _last_moved(
    connection: Connection, start: datetime, registers: pl.Series | None
) -> pl.DataFrame:
    """Return the end of each register's last half-hour with energy; null if none since `start`."""
    if registers is not None and registers.is_empty():
        return pl.DataFrame(schema=MOVED)
    condition = "true"
    parameters: dict[str, Any] = {"first": start}
    if registers is not None:
        condition = "r.register_id = any(%(registers)s::uuid[])"
        parameters |= {"registers": array(registers)}
    sql = read_sql("alerts_moved").format(registers=condition)
    return await _read(connection, sql, parameters, MOVED)


async def _read(
    connection: Connection, sql: str, parameters: dict[str, Any], schema: Schema
) -> pl.DataFrame:
    """Return the rows of a statement; times as microseconds since 1970."""
    columns = ", ".join(
        f"{TIME_IN_MICROSECONDS.format(name)} as {name}" if kind == pl.Int64 else name
        for name, kind in schema.items()
    )
    return await read_frame(
        connection, Statement(f"select {columns} from ({sql}) as found", parameters), schema
    )


def _as_alerts(alert: Alert, registers: pl.DataFrame) -> pl.DataFrame:
    """Return alerts of registers, with the columns of all."""
    unknown = [pl.lit(None, dtype=pl.Float64).alias(name) for name in ("balance", "clock_seconds")]
    return registers.select(pl.lit(alert).alias("alert"), *WHERE, "since", *unknown)


def _microseconds(at: datetime) -> int:
    return int(at.timestamp() * MICROSECONDS)


async def _frames(
    form: Format, zone: ZoneInfo, found: pl.DataFrame
) -> AsyncGenerator[pl.DataFrame, None]:
    clock = Clock(zone, form)
    texts = [pl.Series(name, map(form.text, found[name]), dtype=pl.String) for name in WHERE]
    yield pl.DataFrame(
        [found["alert"], *texts, clock.times(found["since"]),
         found["balance"], found["clock_seconds"]]
    )  # fmt: skip
