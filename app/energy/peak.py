"""The highest half-hours of each group, as mean power."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, ClassVar, LiteralString

from app.database import Connection
from app.energy import scope
from app.energy.answer import Body, Question, State, period
from app.energy.groups import Dimension, Groups
from app.energy.intervals import HALF_HOUR, Intervals, label
from app.energy.parameters import PeakQuery
from app.energy.query import SPANS, Statement, half_hours, spans
from app.energy.rows import batches, table
from app.energy.scope import Scope

COLUMNS = (
    "rank", "interval_start", "interval_end", "import_kw", "export_kw", "meters_expected",
    "meters_reporting", "complete",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class PeakReading:
    """A checked request for the highest half-hours; its intervals are half-hours."""

    query: PeakQuery
    scope: Scope
    by: list[Dimension]
    intervals: Intervals

    BESIDE: ClassVar[LiteralString] = "null"

    async def write(self, question: Question, connection: Connection, state: State) -> Body:
        """Resolve the groups and return the body."""
        first, last = self.intervals.first, self.intervals.last
        groups = await scope.groups(connection, self.scope, self.by, first, last)
        members = {"direction": self.query.direction, "group_by": self.by}
        return table(
            question.format,
            members | period(self.query, state),
            [*self.by, *COLUMNS],
            self._rows(question, connection, groups),
        )

    async def _rows(
        self, question: Question, connection: Connection, groups: Groups
    ) -> AsyncIterator[list[tuple[str, ...]]]:
        if not groups:
            return
        form, zone = question.format, self.query.zone()
        keys = [tuple(form.text(value) for value in key) for key in groups.keys]
        eras = [groups.eras(group, self.intervals) for group in range(len(groups))]

        def row(found: tuple[Any, ...]) -> tuple[str, ...]:
            start, group, rank, imported, exported, registers, meters = found
            index = self.intervals.index(start)
            era = next(era for era in eras[group] if era.first <= index < era.last)
            return (
                *keys[group],
                form.number(rank),
                form.text(label(start, zone)),
                form.text(label(start + HALF_HOUR, zone)),
                form.number(imported),
                form.number(exported),
                form.number(era.meters),
                form.number(meters),
                form.truth(era.complete(1, registers)),
            )

        async for found in batches(connection, self._statement(groups)):
            yield [row(values) for values in found]

    def _statement(self, groups: Groups) -> Statement:
        hours = half_hours(groups, self.intervals)
        ranked = f"{self.query.direction}_kwh"
        # Meters are counted for the few half-hours that are shown.
        return Statement(
            f"with ranked as (select hh.*, row_number() over (partition by hh.g order by"
            f" hh.{ranked} desc, hh.start) as rank from ({hours.sql}) as hh where hh.{ranked} > 0),"
            " shown as (select * from ranked where rank <= %(top)s),"
            ' reporting as (select r."timestamp" as start, s.g, count(distinct s.meter) as meters'
            f'{SPANS} and r."timestamp" = any(array(select start from shown)) group by 1, 2)'
            " select date_part('epoch', start)::bigint, g, rank, 2 * import_kwh, 2 * export_kwh,"
            " register_intervals::bigint, meters"
            " from shown inner join reporting using (start, g) order by g, rank",
            hours.parameters
            | spans(groups, self.intervals.first, self.intervals.last)
            | {"top": self.query.top},
        )
