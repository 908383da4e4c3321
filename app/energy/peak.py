"""The highest half-hours of each group, as mean power."""

from collections.abc import Callable
from typing import Any

from app.db.session import Connection
from app.energy.answer import State
from app.energy.formats import Format
from app.energy.grouped import GroupedTable
from app.energy.groups import Groups
from app.energy.intervals import HALF_HOUR, label
from app.energy.parameters import PeakQuery
from app.energy.query import Statement, epoch, half_hours, meters_at
from app.energy.scope import Available


class PeakReport(GroupedTable):
    """A validated request for the highest half-hours."""

    query: PeakQuery

    COLUMNS = (
        "rank", "interval_start", "interval_end", "import_kw", "export_kw", "meters_expected",
        "meters_reporting", "complete",
    )  # fmt: skip

    def members(self, state: State, available: Available) -> dict[str, Any]:
        """Return the JSON members that precede the rows."""
        return {"direction": self.query.direction} | super().members(state, available)

    def rows_of_group(self) -> int:
        """Return one row per rank."""
        return self.query.top

    async def writer(
        self, form: Format, connection: Connection, groups: Groups
    ) -> Callable[[tuple[Any, ...]], tuple[str, ...]]:
        """Return the writer of (group, start, rank, import kW, export kW, registers, meters)."""
        zone = self.query.zone()
        eras = groups.eras(self.intervals)

        def write(found: tuple[Any, ...]) -> tuple[str, ...]:
            group, start, rank, imported, exported, registers, meters = found
            index = self.intervals.index(start)
            era = next(era for era in eras[group] if era.first <= index < era.last)
            return (
                form.number(rank),
                form.text(label(start, zone)),
                form.text(label(start + HALF_HOUR, zone)),
                form.number(imported),
                form.number(exported),
                form.number(era.meters),
                form.number(meters),
                form.truth(era.complete(1, registers)),
            )

        return write

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
            f"with ranked as (select hh.*, row_number() over (partition by hh.g order by"
            f" hh.{ranked} desc, hh.start) as rank from ({hours.sql}) as hh where hh.{ranked} > 0),"
            " shown as (select * from ranked where rank <= %(top)s)"
            f" select g, {epoch('start')}, rank, 2 * import_kwh, 2 * export_kwh,"
            f" register_intervals::bigint, meters_reporting::bigint from {shown} order by g, rank",
            parameters,
        )
