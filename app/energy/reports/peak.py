"""The highest half-hours of each group, as mean power."""

from typing import Any, ClassVar

import polars as pl

from app.db.session import Connection
from app.energy.formats import Format
from app.energy.frames import Clock, Membership, at_instants
from app.energy.groups import Groups
from app.energy.intervals import HALF_HOUR
from app.energy.parameters import PeakQuery
from app.energy.query import Statement, half_hours, meters_at
from app.energy.reading import Schema
from app.energy.reports.grouped import GroupedTable
from app.energy.response import DataVersion
from app.energy.scope import Available
from app.energy.sql_files import read_sql


class PeakReport(GroupedTable):
    """A validated request for the highest half-hours."""

    query: PeakQuery

    SCHEMA: ClassVar[Schema] = {
        "g": pl.Int32, "start_at": pl.Int64, "rank": pl.Int32, "import_kw": pl.Float64,
        "export_kw": pl.Float64, "register_intervals": pl.Int64, "meters_reporting": pl.Int32,
    }  # fmt: skip

    def members(self, version: DataVersion, available: Available) -> dict[str, Any]:
        """Return the JSON members that precede the rows."""
        return {"direction": self.query.direction} | super().members(version, available)

    def rows_of_group(self) -> int:
        """Return one row per rank."""
        return self.query.top

    async def columns(
        self, form: Format, connection: Connection, groups: Groups, found: pl.DataFrame
    ) -> list[pl.Series]:
        """Return the columns of the rows that the statement returned."""
        found = found.sort("g", "rank")
        clock, group, start = Clock(self.query.zone(), form), found["g"], found["start_at"]
        index = (start - self.intervals.first) // HALF_HOUR
        expected = pl.repeat(1, len(found), eager=True, dtype=pl.Int64)
        meters, complete = Membership(groups, self.intervals).complete(
            group, index, expected, found["register_intervals"]
        )
        return [
            *(key[group] for key in await self.keys(connection, groups, form)),
            found["rank"],
            clock.times(at_instants(start)).alias("interval_start"),
            clock.times(at_instants(start + HALF_HOUR)).alias("interval_end"),
            found["import_kw"],
            found["export_kw"],
            meters,
            found["meters_reporting"],
            complete,
        ]

    def statement(self, groups: Groups) -> Statement:
        """Return the SQL that ranks the half-hours of each group."""
        # Meters that have to be told apart are counted for the few half-hours that are returned.
        later = groups.circuits is None or not (groups.single or groups.meters_apart)
        hours = half_hours(groups, self.intervals, meters=not later)
        ranked = f"{self.query.direction}_kwh"
        shown, parameters = "shown", hours.parameters | {"top": self.query.top}
        if later:
            reporting = meters_at(groups, self.intervals, "select start from shown")
            shown = f"shown inner join ({reporting.sql}) as reporting using (start, g)"
            parameters |= reporting.parameters
        return Statement(
            read_sql("peak").format(ranked=ranked, half_hours=hours.sql, shown=shown), parameters
        )
