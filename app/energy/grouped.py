"""Base classes of the reports whose rows are for groups."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from psycopg.rows import tuple_row

from app.db.session import Connection
from app.energy import scope
from app.energy.answer import Question, Report, State, Written, period
from app.energy.formats import Format
from app.energy.groups import Dimension, Groups
from app.energy.intervals import Intervals
from app.energy.parameters import MOST_ROWS, Window, refuse
from app.energy.query import Page, Statement, energy
from app.energy.rows import reading, table
from app.energy.scope import Available, Selection
from app.energy.sources import choose

COVERED = (
    "select place, register_intervals, present_intervals, meters_reporting from ({}) as covered"
)


@dataclass(frozen=True, slots=True)
class Covered:
    """The coverage of a group over a period: expected and present half-hours and meters."""

    expected_intervals: int
    present_intervals: int
    meters_expected: int
    meters_reporting: int
    complete: bool


@dataclass(frozen=True)
class Grouped(Report):
    """A validated request over a period whose rows are for groups."""

    query: Window
    scope: Selection
    by: list[Dimension]
    intervals: Intervals

    # False for a report that reads the half-hours of registers.
    OF_CIRCUITS: ClassVar[bool] = True

    async def groups(self, connection: Connection, state: State) -> tuple[Groups, Available]:
        """Return the groups mapped in the period, and the time for which they have any data.

        While the stored aggregates lag behind the mapping, groups are summed from registers.
        """
        first, last = self.intervals.first, self.intervals.last
        stored = self.OF_CIRCUITS and not state.remapping
        return await scope.groups(connection, self.scope, self.by, first, last, stored=stored)

    async def coverage(self, connection: Connection, groups: Groups) -> dict[int, Covered]:
        """Return the coverage of each group over the whole period, by the group's number."""
        first, last = self.intervals.first, self.intervals.last
        whole = Intervals([first, last], first, last)
        pieces = choose("P1Y", self.query.zone(), whole)
        asked = energy(groups, whole, "P1Y", pieces, Page(0, len(groups)))
        cursor = connection.cursor(row_factory=tuple_row)
        await cursor.execute(COVERED.format(asked.sql).encode(), asked.parameters)
        found = {group: rest async for group, *rest in cursor}
        covered = {}
        for group, (era,) in enumerate(groups.eras(whole)):
            register_intervals, present, meters = found.get(group, (0, 0, 0))
            complete = era.complete(whole.expected(0), register_intervals)
            covered[group] = Covered(whole.expected(0), present, era.meters, meters, complete)
        return covered

    def cap(self, rows: int, form: Format) -> None:
        """Raise Unprocessable for more rows than JSON may have; other formats are streamed."""
        if form.name == "json" and rows > MOST_ROWS:
            raise refuse(
                "period_to",
                self.query.period_to,
                f"must be nearer, or the groups fewer: these are {rows} rows, and JSON has at most "
                f"{MOST_ROWS}; CSV and NDJSON have them all",
            )

    def members(self, state: State, available: Available) -> dict[str, Any]:
        """Return the JSON members that precede the rows."""
        return {"group_by": self.by} | period(self.query, state, available)


class GroupedTable(Grouped):
    """A grouped report in which each row of the statement is a row of the response.

    The statement's rows begin with the group's number; its intervals are half-hours.
    """

    COLUMNS: ClassVar[tuple[str, ...]]

    def rows_of_group(self) -> int:
        """Return the greatest number of rows that one group can have."""
        raise NotImplementedError

    def statement(self, groups: Groups) -> Statement:
        """Return the SQL of the rows."""
        raise NotImplementedError

    async def writer(
        self, form: Format, connection: Connection, groups: Groups
    ) -> Callable[[tuple[Any, ...]], tuple[str, ...]]:
        """Return the function that writes the `COLUMNS` of a row of the statement."""
        raise NotImplementedError

    async def write(self, question: Question, connection: Connection, state: State) -> Written:
        """Find the groups and return the body."""
        groups, available = await self.groups(connection, state)
        self.cap(len(groups) * self.rows_of_group(), question.format)
        rows = self._rows(question.format, connection, groups)
        columns = [*self.by, *self.COLUMNS]
        members = self.members(state, available)
        return Written(table(question.format, members, columns, rows), available)

    async def _rows(
        self, form: Format, connection: Connection, groups: Groups
    ) -> AsyncIterator[list[tuple[str, ...]]]:
        if not groups:
            return
        keys = [tuple(form.text(value) for value in key) for key in groups.keys]
        write = await self.writer(form, connection, groups)
        async with reading(connection, self.statement(groups)) as batches:
            async for found in batches:
                yield [(*keys[row[0]], *write(row)) for row in found]
