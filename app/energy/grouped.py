"""What the readings by group have in common; a subclass says what is read of the groups."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
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
    """How much there is of a group over a period."""

    expected_intervals: int
    present_intervals: int
    meters_expected: int
    meters_reporting: int
    complete: bool


@dataclass(frozen=True)
class Grouped(Report):
    """A checked request over a period, whose rows are for groups."""

    query: Window
    scope: Selection
    by: list[Dimension]
    intervals: Intervals

    async def groups(self, connection: Connection, state: State) -> tuple[Groups, Available]:
        """Gather what is mapped in the period, and tell what there is of it at any time.

        The groups are made of registers while the aggregates do not follow the mapping yet.
        """
        first, last = self.intervals.first, self.intervals.last
        groups, available = await scope.groups(connection, self.scope, self.by, first, last)
        return (replace(groups, circuits=None) if state.remapping else groups), available

    async def coverage(self, connection: Connection, groups: Groups) -> dict[int, Covered]:
        """How much there is of each group over the whole period."""
        first, last = self.intervals.first, self.intervals.last
        whole = Intervals([first, last], first, last)
        pieces = choose("P1Y", self.query.zone(), whole)
        asked = energy(groups, whole, "P1Y", pieces, Page(0, len(groups)))
        cursor = connection.cursor(row_factory=tuple_row)
        await cursor.execute(COVERED.format(asked.sql).encode(), asked.parameters)
        found = {group: rest async for group, *rest in cursor}
        covered = {}
        for group in range(len(groups)):
            (era,) = groups.eras(group, whole)
            register_intervals, present, meters = found.get(group, (0, 0, 0))
            complete = era.complete(whole.expected(0), register_intervals)
            covered[group] = Covered(whole.expected(0), present, era.meters, meters, complete)
        return covered

    def cap(self, rows: int, form: Format) -> None:
        """Refuse more rows than a JSON answer has; the other forms are read line by line."""
        if form.name == "json" and rows > MOST_ROWS:
            raise refuse(
                "period_to",
                self.query.period_to,
                f"must be nearer, or the groups fewer: these are {rows} rows, and JSON has at most "
                f"{MOST_ROWS}; CSV and NDJSON have them all",
            )

    def members(self, state: State, available: Available) -> dict[str, Any]:
        """What a JSON answer says before its rows."""
        return {"group_by": self.by} | period(self.query, state, available)


class GroupedTable(Grouped):
    """The same, where each row of the statement is a row of the answer.

    A statement's rows begin with the group's number; its intervals are half-hours.
    """

    COLUMNS: ClassVar[tuple[str, ...]]

    def rows_of_group(self) -> int:
        """How many rows a group has at most."""
        raise NotImplementedError

    def statement(self, groups: Groups) -> Statement:
        """The SQL of the rows."""
        raise NotImplementedError

    async def writer(
        self, form: Format, connection: Connection, groups: Groups
    ) -> Callable[[tuple[Any, ...]], tuple[str, ...]]:
        """What writes the `COLUMNS` of a row found."""
        raise NotImplementedError

    async def write(self, question: Question, connection: Connection, state: State) -> Written:
        """Resolve the groups and return the body."""
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
