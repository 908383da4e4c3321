"""Generation against consumption: what a group uses itself, and what goes to and from the grid."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from app.database import Connection
from app.energy.answer import Body, Question, State, Written
from app.energy.formats import Format
from app.energy.grid import Found, Grid
from app.energy.grouped import Grouped
from app.energy.groups import Dimension, Era, Groups
from app.energy.parameters import BalanceQuery
from app.energy.query import Page, Statement, half_hours, place, places
from app.energy.rows import Lines, reading

FIGURES = (
    "generation_kwh", "consumption_kwh", "self_consumption_kwh", "from_grid_kwh", "to_grid_kwh",
    "self_consumption_ratio", "self_sufficiency_ratio",
)  # fmt: skip
Figure = Decimal | None


def figures(generation: Figure, consumption: Figure, used: Figure) -> tuple[Figure, ...]:
    """Return the `FIGURES` of kWh generated, consumed, and both in the same half-hour.

    Where nothing is known of generation (of consumption), nothing that depends on it is.
    """
    if generation is None or consumption is None or used is None:
        return (generation, consumption, None, None, None, None, None)
    return (
        generation,
        consumption,
        used,
        consumption - used,
        generation - used,
        round(used / generation, 6) if generation else None,
        round(used / consumption, 6) if consumption else None,
    )


class BalanceGrid(Grid):
    """Rows of a balance; adds up the totals of each group on the way."""

    COLUMNS = (*FIGURES, "expected_intervals", "present_intervals", "complete")
    NOTHING = (None, None, None, 0, 0)

    def __init__(self, groups: Groups, *more: Any) -> None:
        super().__init__(groups, *more)
        self._totals: dict[int, list[Figure]] = {}
        self._fields = self.form.fields(self.COLUMNS)

    def feed(self, found: Sequence[tuple[Any, ...]]) -> list[str]:
        """Return the rows up to and including those found; their sums go into the totals."""
        exact = [(row[0], *map(_exact, row[1:-2]), *row[-2:]) for row in found]
        for at, *sums, _, _ in exact:
            totals = self._totals.setdefault(at % len(self.heads), [None] * len(sums))
            for which, number in enumerate(sums):
                if number is not None:
                    totals[which] = (totals[which] or 0) + number
        return super().feed(exact)

    def fields(self, found: Found, expected: int, era: Era) -> str:
        """Take generation, consumption, self-consumption, register and present half-hours."""
        *sums, register_intervals, present = found
        missing = self.form.missing
        return self._fields % (
            *(missing if number is None else f"{number:f}" for number in figures(*sums)),
            expected,
            present,
            self.form.truth(era.complete(expected, register_intervals)),
        )

    def totals(self, by: Sequence[Dimension], groups: Groups) -> list[dict[str, Any]]:
        """Return the figures of each group over the whole period."""
        listed = []
        for group, key in enumerate(groups.keys):
            numbers = figures(*self._totals.get(group, (None, None, None)))
            shown = (None if number is None else float(number) for number in numbers)
            listed.append(dict(zip([*by, *FIGURES], [*key, *shown], strict=True)))
        return listed


def _exact(number: str | None) -> Figure:
    return None if number is None else Decimal(number)


class BalanceReading(Grouped):
    """A checked request for a balance."""

    query: BalanceQuery

    async def write(self, question: Question, connection: Connection, state: State) -> Written:
        """Resolve the groups and return the body."""
        groups, available = await self.groups(connection, state)
        self.cap(len(groups) * len(self.intervals), question.format)
        members = {"granularity": self.query.granularity} | self.members(state, available)
        return Written(self._body(question.format, connection, members, groups), available)

    async def _body(
        self, form: Format, connection: Connection, members: dict[str, Any], groups: Groups
    ) -> Body:
        lines = Lines(form)
        yield form.head(members, BalanceGrid.columns(self.by))
        page = Page(0, len(groups) * len(self.intervals))
        grid = BalanceGrid(groups, self.intervals, self.query.zone(), form, self.by, page)
        if page.last:
            async with reading(connection, self._statement(groups)) as batches:
                async for found in batches:
                    yield lines.add(grid.feed(found))
                yield lines.add(grid.finish())
        yield form.tail({"totals": grid.totals(self.by, groups)}, empty=lines.empty)

    def _statement(self, groups: Groups) -> Statement:
        hours = half_hours(groups, self.intervals)
        return Statement(
            f"select {place('start', self.intervals)} as place, sum(export_kwh), sum(import_kwh),"
            " sum(least(coalesce(import_kwh, 0), coalesce(export_kwh, 0))),"
            " sum(register_intervals)::bigint, count(*)"
            f" from ({hours.sql}) as hh group by 1 order by 1",
            hours.parameters | places(groups, self.intervals),
        )
