"""A dry run's picture of what an import would write, for a person to judge."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

import psycopg
from pydantic import WithJsonSchema

GAPS_LISTED = 20

EDGES = """
    select register_id, "timestamp", local, import_kwh, export_kwh
    from (
        select
            t.register_id, s."timestamp", s."timestamp" at time zone %(zone)s as local,
            trim_scale(s.import_ticks * 0.0000001) as import_kwh,
            trim_scale(s.export_ticks * 0.0000001) as export_kwh,
            row_number() over (partition by s.key order by s."timestamp") as first,
            row_number() over (partition by s.key order by s."timestamp" desc) as last
        from staged as s join targets as t using (key)
    ) as numbered
    where first <= 3 or last <= 3
    order by register_id, "timestamp"
"""
DAYS = """
    select
        t.register_id, (s."timestamp" at time zone %(zone)s)::date as day, count(*) as half_hours,
        trim_scale(sum(s.import_ticks) * 0.0000001) as import_kwh,
        trim_scale(sum(s.export_ticks) * 0.0000001) as export_kwh
    from staged as s join targets as t using (key) group by 1, 2 order by 1, 2
"""
GAPS = """
    select register_id, begins, ends
    from (
        select
            t.register_id, s."timestamp" + interval '30 minutes' as begins,
            lead(s."timestamp") over (partition by s.key order by s."timestamp") as ends
        from staged as s join targets as t using (key)
    ) as steps
    where ends > begins order by 1, 2
"""
CHANGES = """
    select
        count(*) filter (where kept.register_id is null) as added,
        count(*) filter (
            where (kept.derived or not s.estimated)
                and (coalesce(s.import_ticks * 0.0000001, kept.import_kwh),
                     coalesce(s.export_ticks * 0.0000001, kept.export_kwh), s.estimated)
                is distinct from (kept.import_kwh, kept.export_kwh, kept.derived)
                and kept.register_id is not null
        ) as changed,
        count(*) as half_hours
    from staged as s
    join targets as t using (key)
    left join {0}.register_interval_hh as kept
        on kept.register_id = t.register_id and kept."timestamp" = s."timestamp"
"""


@dataclass(frozen=True, slots=True)
class EdgeRow:
    """One of the first or last half-hours of a register; `local` is its wall-clock time."""

    register_id: UUID
    timestamp: datetime
    local: Annotated[datetime, WithJsonSchema({"type": "string"})]
    import_kwh: Decimal | None
    export_kwh: Decimal | None


@dataclass(frozen=True, slots=True)
class DaySum:
    """The energy of a register on a local day, and of how many half-hours."""

    register_id: UUID
    day: date
    half_hours: int
    import_kwh: Decimal | None
    export_kwh: Decimal | None


@dataclass(frozen=True, slots=True)
class MissingStretch:
    """Half-hours of a register that the file does not have, from `begins` to before `ends`."""

    register_id: UUID
    begins: datetime
    ends: datetime


@dataclass(slots=True)
class Preview:
    """The half-hours to be written: their first and last rows, sums, gaps, and changes.

    `timezone` is that of the local times and days. `added` half-hours are new, `changed` ones have
    other energy than those stored.
    """

    timezone: str
    added: int = 0
    changed: int = 0
    unchanged: int = 0
    edges: list[EdgeRow] = field(default_factory=list)
    days: list[DaySum] = field(default_factory=list)
    gap_count: int = 0
    gaps: list[MissingStretch] = field(default_factory=list)


def preview_staged(
    connection: psycopg.Connection[Any], timezone: str, schema: str = "flows"
) -> Preview:
    """Return the preview of the half-hours staged on a connection, against those in `schema`."""
    zone = {"zone": timezone}
    preview = Preview(timezone)
    (counts,) = connection.execute(CHANGES.format(schema).encode()).fetchall()
    preview.added, preview.changed = counts[0], counts[1]
    preview.unchanged = counts[2] - counts[0] - counts[1]
    preview.edges = [EdgeRow(*row) for row in connection.execute(EDGES, zone)]
    preview.days = [DaySum(*row) for row in connection.execute(DAYS, zone)]
    gaps = connection.execute(GAPS).fetchall()
    preview.gap_count = len(gaps)
    preview.gaps = [MissingStretch(*row) for row in gaps[:GAPS_LISTED]]
    return preview


def bars(values: Sequence[float]) -> str:
    """Return a line of bars, the largest value the tallest; a space where there is nothing."""
    top = max(values, default=0.0)
    heights = "▁▂▃▄▅▆▇█"
    return "".join(
        heights[min(7, int(value / top * 8))] if top and value > 0 else " " for value in values
    )
