"""Checks on a recovered database: schema version, rows, energy sums, isolation of ESCOs."""

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from app.backup.folder import BackupError, BackupFolder
from app.backup.recover import scratch

# The meters of each ESCO as the superuser counts them; VISIBLE_METERS counts them as the ESCO.
METERS_PER_ESCO = """
    select e.id::text, e.code, count(m.id) from flows.escos as e
    left join flows.meter_registry as m on m.esco = e.id group by e.id, e.code order by e.code
"""
VISIBLE_METERS = "select count(*), count(*) filter (where esco = %s) from api.meter_registry"
SERIES_KEPT = """
    select r.series from flows.retention as r
    where r.series in (select table_name from information_schema.columns
        where table_schema = 'flows' and column_name = 'timestamp')
    order by 1
"""
ENERGY = """
    select
        (select coalesce(sum(r.import_kwh), 0) from flows.register_interval_hh as r
        join flows.circuit_register as m on m.register = r.register_id
            and r."timestamp" >= m.start_time
            and (r."timestamp" < m.end_time or m.end_time is null)),
        -- The aggregates still contain half-hours that retention has dropped.
        (select coalesce(sum(a.total_import_kwh), 0) from flows.circuit_interval_hh as a
        where a."timestamp" >= (select min(r."timestamp") from flows.register_interval_hh as r)),
        (select count(*) from flows.change where followed_at is null)
"""


@dataclass(slots=True)
class DrillReport:
    """The outcome of a drill: rows and newest time of each series, and faults (none: it passed).

    `overridden` names the server's settings that do not hold on this machine.
    """

    schema_version: int
    series: list[dict[str, Any]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    overridden: list[str] = field(default_factory=list)


def drill(folder: BackupFolder, url: str, at: datetime | None) -> DrillReport:
    """Recover to a moment and examine the result; `url` is of the live database."""
    with psycopg.connect(url) as live:
        row = live.execute("select max(version) from gateway.schema_migration").fetchone()
    with scratch(folder, at) as restored:
        report = examine(restored.url, row[0] if row else 0)
        report.overridden = restored.overridden
        return report


def examine(url: str, schema_version: int) -> DrillReport:
    """Check a recovered database; `schema_version` is that of the live database."""
    with psycopg.connect(url) as connection:
        (found,) = _row(connection, "select max(version) from gateway.schema_migration")
        report = DrillReport(found)
        if found != schema_version:
            report.faults.append(f"the schema has version {found}, not {schema_version}")
        for (series,) in connection.execute(SERIES_KEPT).fetchall():
            statement = sql.SQL('select count(*), max("timestamp") from flows.{}')
            rows, newest = _row(connection, statement.format(sql.Identifier(series)))
            report.series.append({"series": series, "rows": rows, "newest": newest})
        readings, aggregates, pending = _row(connection, ENERGY)
        # The sums may differ while changes wait to be applied to the aggregates.
        if readings != aggregates and not pending:
            report.faults.append(f"half-hours sum to {readings} kWh, the aggregates {aggregates}")
        for esco, code, meters in connection.execute(METERS_PER_ESCO).fetchall():
            seen, own = _as_tenant(connection, esco)
            if not seen == own == meters:
                report.faults.append(f"{code} has {meters} meters and sees {seen}, {own} its own")
        if _as_tenant(connection, "") != (0, 0):
            report.faults.append("meters are visible without an ESCO")
    return report


def write_table(url: str, table: str, file: Path) -> int:
    r"""Write a table of schema flows as CSV with a header; return the number of rows.

    BackupError if the table does not exist. `\copy` or COPY reads the file back on either engine.
    """
    with psycopg.connect(url) as connection:
        columns = connection.execute(
            "select column_name from information_schema.columns where table_schema = 'flows'"
            " and table_name = %s and is_generated = 'NEVER' order by ordinal_position",
            (table,),
        ).fetchall()
        if not columns:
            raise BackupError(f"there is no table {table} in schema flows")
        query = sql.SQL("copy (select {} from {}) to stdout (format csv, header)").format(
            sql.SQL(", ").join(sql.Identifier(name) for (name,) in columns),
            sql.Identifier("flows", table),
        )
        cursor = connection.cursor()
        with file.open("xb") as written, cursor.copy(query) as rows:
            for piece in rows:
                written.write(piece)
        return cursor.rowcount


def _as_tenant(connection: psycopg.Connection[Any], esco: str) -> tuple[int, int]:
    """Return the number of meters that a tenant sees, and how many of them are its own."""
    with connection.transaction(force_rollback=True):
        connection.execute(
            "select set_config('app.current_esco', %s, true), set_config('role', 'flows', true)",
            (esco,),
        )
        seen, own = _row(connection, VISIBLE_METERS, esco or None)
    return seen, own


def _row(
    connection: psycopg.Connection[Any], query: LiteralString | sql.Composed, *parameters: object
) -> tuple[Any, ...]:
    row = connection.execute(query, parameters).fetchone()
    assert row is not None  # noqa: S101  (each of these queries returns exactly one row)
    return tuple(row)
