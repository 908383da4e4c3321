"""What the readings by group have in common; a subclass says what is read of the groups."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from app.database import Connection
from app.energy import scope
from app.energy.answer import Body, Question, Reading, State, period
from app.energy.formats import Format
from app.energy.groups import Dimension, Groups
from app.energy.intervals import Intervals
from app.energy.parameters import Window
from app.energy.query import Statement
from app.energy.rows import reading, table
from app.energy.scope import Scope


@dataclass(frozen=True)
class Grouped(Reading):
    """A checked request over a period, whose rows are for groups."""

    query: Window
    scope: Scope
    by: list[Dimension]
    intervals: Intervals

    async def groups(self, connection: Connection) -> Groups:
        """Gather what is mapped in the period."""
        first, last = self.intervals.first, self.intervals.last
        return await scope.groups(connection, self.scope, self.by, first, last)

    def members(self, state: State) -> dict[str, Any]:
        """What a JSON answer says before its rows."""
        return {"group_by": self.by} | period(self.query, state)


class GroupedTable(Grouped):
    """The same, where each row of the statement is a row of the answer.

    A statement's rows begin with the group's number; its intervals are half-hours.
    """

    COLUMNS: ClassVar[tuple[str, ...]]

    def statement(self, groups: Groups) -> Statement:
        """The SQL of the rows."""
        raise NotImplementedError

    def writer(self, form: Format, groups: Groups) -> Callable[[tuple[Any, ...]], tuple[str, ...]]:
        """What writes the `COLUMNS` of a row found."""
        raise NotImplementedError

    async def write(self, question: Question, connection: Connection, state: State) -> Body:
        """Resolve the groups and return the body."""
        groups = await self.groups(connection)
        rows = self._rows(question.format, connection, groups)
        return table(question.format, self.members(state), [*self.by, *self.COLUMNS], rows)

    async def _rows(
        self, form: Format, connection: Connection, groups: Groups
    ) -> AsyncIterator[list[tuple[str, ...]]]:
        if not groups:
            return
        keys = [tuple(form.text(value) for value in key) for key in groups.keys]
        write = self.writer(form, groups)
        async with reading(connection, self.statement(groups)) as batches:
            async for found in batches:
                yield [(*keys[row[0]], *write(row)) for row in found]
