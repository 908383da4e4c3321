"""Balance of generation and consumption: self-consumption, and energy from and to the grid."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from decimal import Decimal
from typing import Any

from app.db.session import Connection
from app.energy.answer import Body, Question, State, Written
from app.energy.formats import Format
from app.energy.grid import Found, Grid
from app.energy.grouped import Covered, Grouped
from app.energy.groups import Dimension, Era, Groups
from app.energy.parameters import BalanceQuery
from app.energy.query import Page, Statement, energy, half_hours, place, places
from app.energy.rows import Lines, reading
from app.energy.sources import choose

FIGURES = (
    "generation_kwh", "consumption_kwh", "self_consumption_kwh", "from_grid_kwh", "to_grid_kwh",
    "self_consumption_ratio", "self_sufficiency_ratio",
)  # fmt: skip
Figure = Decimal | None


COVERAGE = tuple(field.name for field in fields(Covered))


def figures(generation: Figure, consumption: Figure, used: Figure) -> tuple[Figure, ...]:
    """Return the `FIGURES`: kWh, then ratios rounded to 6 decimals.

    `used` is the energy generated and consumed in the same half-hours, kWh. Where one of the three
    arguments is None, so is every figure that depends on it.
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
    """Writes the rows of a balance and sums the totals of each group while doing so."""

    COLUMNS = (*FIGURES, *COVERAGE)
    NOTHING = (None, None, None, 0, 0, 0)

    def __init__(self, groups: Groups, *more: Any) -> None:
        super().__init__(groups, *more)
        self._totals: dict[int, list[Figure]] = {}
        self._fields = self.form.fields(self.COLUMNS)

    def feed(self, found: Sequence[tuple[Any, ...]]) -> Iterator[list[str]]:
        """Yield the rows up to and including those found, and add their sums to the totals."""
        exact = [(row[0], *map(_exact, row[1:4]), *row[4:]) for row in found]
        for at, *sums, _, _, _ in exact:
            totals = self._totals.setdefault(at % len(self.heads), [None] * len(sums))
            for which, number in enumerate(sums):
                if number is not None:
                    totals[which] = (totals[which] or 0) + number
        return super().feed(exact)

    def fields(self, found: Found, expected: int, era: Era) -> str:
        """Write the `COLUMNS`.

        `found`: generation, consumption and self-consumption in kWh, half-hours over all registers,
        half-hours present, meters reporting.
        """
        *sums, register_intervals, present, meters = found
        missing = self.form.missing
        return self._fields % (
            *(missing if number is None else f"{number:f}" for number in figures(*sums)),
            expected,
            present,
            era.meters,
            meters,
            self.form.truth(era.complete(expected, register_intervals)),
        )

    def totals(
        self, by: Sequence[Dimension], groups: Groups, covered: dict[int, Covered]
    ) -> list[dict[str, Any]]:
        """Return one dict per group: its keys, its figures over the whole period, its coverage."""
        listed = []
        for group, key in enumerate(groups.keys):
            numbers = figures(*self._totals.get(group, (None, None, None)))
            shown = (None if number is None else float(number) for number in numbers)
            named = dict(zip([*by, *FIGURES], [*key, *shown], strict=True))
            listed.append(named | asdict(covered[group]))
        return listed


def _exact(number: str | None) -> Figure:
    return None if number is None else Decimal(number)


class BalanceReport(Grouped):
    """A checked request for a balance."""

    query: BalanceQuery

    async def write(self, question: Question, connection: Connection, state: State) -> Written:
        """Find the groups and return the body."""
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
                    for rows in grid.feed(found):
                        yield lines.add(rows)
                for rows in grid.finish():
                    yield lines.add(rows)
        totals = None
        if form.name == "json":  # CSV and NDJSON have no place for totals
            covered = await self.coverage(connection, groups) if page.last else {}
            totals = grid.totals(self.by, groups, covered)
        yield form.tail({"totals": totals}, empty=lines.empty)

    def _statement(self, groups: Groups) -> Statement:
        asked, at = self.query, place("start", self.intervals)
        if self.intervals.are_half_hours:
            hours = half_hours(groups, self.intervals, meters=True)
            return Statement(
                f"select {at} as place, export_kwh as generation, import_kwh as consumption,"
                " least(coalesce(import_kwh, 0), coalesce(export_kwh, 0)) as used,"
                " register_intervals::bigint as balanced, 1 as present, meters_reporting::bigint"
                f" from ({hours.sql}) as hh order by place",
                hours.parameters | places(groups, self.intervals),
            )
        hours = half_hours(groups, self.intervals)
        # A balance needs half-hours, but the meters that reported are stored for longer units too.
        pieces = choose(asked.granularity, asked.zone(), self.intervals)
        whole = Page(0, len(groups) * len(self.intervals))
        reported = energy(groups, self.intervals, asked.granularity, pieces, whole)
        return Statement(
            "select place, generation, consumption, used, balanced, present, meters_reporting"
            f" from (select {at} as place,"
            " sum(export_kwh) as generation, sum(import_kwh) as consumption,"
            " sum(least(coalesce(import_kwh, 0), coalesce(export_kwh, 0))) as used,"
            " sum(register_intervals)::bigint as balanced, count(*) as present"
            f" from ({hours.sql}) as hh group by 1) as b"
            f" inner join ({reported.sql}) as reported using (place) order by place",
            hours.parameters | reported.parameters,
        )
