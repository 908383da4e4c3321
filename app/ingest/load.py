"""Loading the half-hours of a file into a register: all or none, and safe to repeat."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg

from app.ingest.rows import HalfHour, Refused, Skipped

STAGE = """
    create temporary table staged (
        line integer, "timestamp" timestamptz, import_kwh numeric, export_kwh numeric
    ) on commit drop
"""
DUPLICATES = """
    select s.line, f.first
    from staged as s
    join (
        select "timestamp", min(line) as first from staged group by 1 having count(*) > 1
    ) as f using ("timestamp")
    where s.line <> f.first
    order by 1
"""
OUTSIDE = """
    select s.line from staged as s, flows.meter_registers as r
    where r.register_id = %s and (s."timestamp" < r.start_time or s."timestamp" >= r.end_time)
    order by 1
"""
# An empty cell says nothing about a value, so it does not overwrite one.
UPSERT = """
    insert into flows.register_interval_hh as kept
        (register_id, "timestamp", import_kwh, export_kwh)
    select %s, s."timestamp", s.import_kwh, s.export_kwh from staged as s order by s."timestamp"
    on conflict (register_id, "timestamp") do update set
        import_kwh = coalesce(excluded.import_kwh, kept.import_kwh),
        export_kwh = coalesce(excluded.export_kwh, kept.export_kwh)
    where (coalesce(excluded.import_kwh, kept.import_kwh),
           coalesce(excluded.export_kwh, kept.export_kwh))
        is distinct from (kept.import_kwh, kept.export_kwh)
"""
MISSING = """
    select (extract(epoch from max("timestamp") - min("timestamp")) / 1800)::bigint + 1 - count(*),
        min("timestamp"), max("timestamp") + interval '30 minutes'
    from staged
"""


class UnknownRegister(Exception):  # noqa: N818  (its message is shown to the user)
    """There is no register with this id."""


@dataclass(slots=True)
class Summary:
    """The outcome of an import, counted in rows of the file.

    `missing` counts half-hours between the file's first and last that it does not contain;
    `skipped` counts rows of zeros at wall-clock times that do not exist. If `refused` is not empty,
    nothing was written.
    """

    read: int = 0
    written: int = 0
    unchanged: int = 0
    skipped: int = 0
    missing: int = 0
    period_from: datetime | None = None
    period_to: datetime | None = None
    refused: list[Refused] = field(default_factory=list)


def load(
    connection: psycopg.Connection[Any],
    register: UUID,
    rows: Iterable[HalfHour | Refused | Skipped],
) -> Summary:
    """Write half-hours into a register in one transaction; one refused row rolls it all back.

    Half-hours already stored with the same energy are counted as unchanged and not written again.
    UnknownRegister if the register does not exist.
    """
    summary = Summary()
    with connection.transaction() as transaction:
        known = connection.execute(
            "select from flows.meter_registers where register_id = %s", (register,)
        )
        if known.fetchone() is None:
            raise UnknownRegister(f"there is no register {register}")
        connection.execute(STAGE)
        columns = 'staged (line, "timestamp", import_kwh, export_kwh)'
        with connection.cursor().copy(f"copy {columns} from stdin") as copy:
            for row in rows:
                summary.read += 1
                match row:
                    case HalfHour():
                        copy.write_row((row.line, row.start, row.import_kwh, row.export_kwh))
                    case Skipped():
                        summary.skipped += 1
                    case Refused():
                        summary.refused.append(row)
        for line, first in connection.execute(DUPLICATES):
            summary.refused.append(Refused(line, f"is the same half-hour as line {first}"))
        for (line,) in connection.execute(OUTSIDE, (register,)):
            summary.refused.append(Refused(line, "is outside the time the register counted"))
        span = connection.execute(MISSING).fetchone() or (None, None, None)
        summary.missing, summary.period_from, summary.period_to = span[0] or 0, span[1], span[2]
        if summary.refused:
            summary.refused.sort(key=lambda row: row.line)
            raise psycopg.Rollback(transaction)
        summary.written = connection.execute(UPSERT, (register,)).rowcount
        summary.unchanged = summary.read - summary.skipped - summary.written
    return summary
