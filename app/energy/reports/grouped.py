"""Base classes of the reports whose rows are for groups."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import polars as pl
from psycopg.rows import tuple_row

from app.db.batch import Query
from app.db.session import Connection
from app.energy import scope
from app.energy.formats import Format
from app.energy.frames import Grid
from app.energy.groups import Dimension, Groups
from app.energy.intervals import Intervals, ended_until
from app.energy.names import key_names, labelled_keys
from app.energy.parameters import Window, refuse
from app.energy.query import Page, Statement, energy, with_derived
from app.energy.reading import Read, Schema, computed, read_ahead, read_few, read_frame
from app.energy.response import DataVersion, RenderedReport, Report, ReportRequest, period
from app.energy.scope import Available, Selection
from app.energy.sources import choose

COVERED = (
    "select row_index, register_intervals, present_intervals, {}, meters_reporting"
    " from ({}) as covered"
)
# Rows that are read and put together at a time, whole intervals if they are not more.
WINDOW = 20_000
# Rows of a small response, of which making a frame would take longer than reading.
FEW = 1000
# Row indexes: first, stop (exclusive).
Rows = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Covered:
    """The coverage of a group over a period: expected and present half-hours and meters."""

    expected_intervals: int
    present_intervals: int
    derived_intervals: int
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

    async def groups(
        self, connection: Connection, version: DataVersion
    ) -> tuple[Groups, Available]:
        """Return the groups mapped in the period, and the time for which they have any data.

        While the stored aggregates lag behind the mapping, groups are summed from registers.
        """
        first, last = self.intervals.first, self.intervals.last
        measured = version.has_derived and self.query.quality == "measured"
        stored = self.OF_CIRCUITS and not version.remapping and not measured
        groups, available = await scope.groups(
            connection, self.scope, self.by, first, last, version.early, stored=stored
        )
        derived = version.has_derived and not measured
        sources = self.scope.sources
        return replace(groups, measured=measured, derived=derived, sources=sources), available

    def early_queries(self) -> list[Query]:
        """Return the queries for the groups, as if no aggregate lagged behind the mapping."""
        first, last = self.intervals.first, self.intervals.last
        return scope.early_queries(self.scope, self.by, first, last, stored=self.OF_CIRCUITS)

    async def coverage(self, connection: Connection, groups: Groups) -> dict[int, Covered]:
        """Return the coverage of each group over the whole period, by the group's number."""
        first, last = self.intervals.first, self.intervals.last
        whole = Intervals([first, last], first, last)
        ranges = choose("P1Y", self.query.zone(), whole, groups.cuts)
        asked = energy(groups, whole, "P1Y", ranges, Page(0, len(groups)))
        asked = with_derived(asked, groups, whole)
        derived = "derived_intervals" if groups.derived else "0"
        cursor = connection.cursor(row_factory=tuple_row)
        await cursor.execute(COVERED.format(derived, asked.sql).encode(), asked.parameters)
        found = {group: rest async for group, *rest in cursor}
        covered, now = {}, ended_until()
        (expected,) = whole.all_expected(now)
        for group, (run,) in enumerate(groups.runs(whole)):
            register_intervals, present, derived_count, meters = found.get(group, (0, 0, 0, 0))
            complete = last <= now and run.complete(expected, register_intervals)
            covered[group] = Covered(expected, present, derived_count, run.meters, meters, complete)
        return covered

    async def keys(self, connection: Connection, groups: Groups, form: Format) -> list[pl.Series]:
        """Return the columns of the groups' keys, and their names if they are asked for."""
        names = self.query.has_names(form.name)
        return await labelled_keys(connection, groups, self.by, form, names=names)

    def key_names(self, form: Format) -> tuple[str, ...]:
        """Return the names of the columns of `keys`."""
        return key_names(self.by, names=self.query.has_names(form.name))

    def cap(self, rows: int, form: Format) -> None:
        """Raise Unprocessable for more rows than the format may have; others are streamed."""
        if form.most_rows is not None and rows > form.most_rows:
            raise refuse(
                "period_to",
                self.query.period_to,
                f"must be nearer, or the groups fewer: these are {rows} rows, and {form.name} has"
                f" at most {form.most_rows}; CSV, NDJSON and Arrow have them all",
            )

    def members(self, version: DataVersion, available: Available) -> dict[str, Any]:
        """Return the JSON members that precede the rows."""
        return {"group_by": self.by} | period(self.query, version, available)


class IntervalReport(Grouped):
    """A grouped report with a row for each group and interval."""

    # The columns of the statement that stay, between the times and the coverage.
    VALUES: ClassVar[Schema]

    def clock_version(self) -> str | None:
        """Return what moves with time: half-hours end in a period that has not."""
        now = ended_until()
        return str(now) if self.intervals.last > now else None

    def statement(self, groups: Groups, part: Intervals, page: Page) -> Statement:
        """Return the SQL of a page of some intervals: row_index, `VALUES`, and the coverage."""
        raise NotImplementedError

    async def rows(
        self, connection: Connection, groups: Groups, form: Format, pages: list[Rows]
    ) -> AsyncGenerator[tuple[pl.DataFrame, pl.DataFrame], None]:
        """Yield the rows of some pages, each time with those that the database returned."""
        grid, schema = await self._grid(connection, groups, form), self._schema(groups)
        parts = [
            self._part(*rows, len(groups)) for page in pages for rows in _windows(page, len(groups))
        ]
        if not parts:
            nothing = pl.DataFrame(schema=schema)
            yield grid.rows(nothing, Intervals((), 0, 0), Page(0, 0)), nothing
        reads: Iterator[Read] = (
            partial(read_frame, connection, self._statement(groups, part, page), schema)
            for part, page in parts
        )
        async with aclosing(read_ahead(reads)) as frames:
            for part, page in parts:
                found = await anext(frames)
                work = partial(grid.rows, found, part, page)
                yield await computed(page.last - page.first, work), found

    async def few_rows(
        self, connection: Connection, groups: Groups, form: Format, pages: list[Rows]
    ) -> list[dict[str, Any]]:
        """Return the rows of some pages as objects, where `is_few` is true of them.

        Nothing is read after the last page: that ends the transaction.
        """
        grid, rows = await self._grid(connection, groups, form), []
        for number, (first, stop) in enumerate(pages, start=1):
            part, page = self._part(first, stop, len(groups))
            asked = self._statement(groups, part, page)
            last = number == len(pages)
            found = await read_few(connection, asked, self._schema(groups), last=last)
            rows += grid.few_rows(found, part, page)
        return rows

    async def _grid(self, connection: Connection, groups: Groups, form: Format) -> Grid:
        keys = await self.keys(connection, groups, form)
        return Grid(groups, keys, self.query.zone(), form, ended_until())

    def _schema(self, groups: Groups) -> Schema:
        return {
            "row_index": pl.Int32, **self.VALUES, "register_intervals": pl.Int64,
            "present_intervals": pl.Int32, "meters_reporting": pl.Int32,
            **({"derived_intervals": pl.Int32} if groups.derived else {}),
        }  # fmt: skip

    def _statement(self, groups: Groups, part: Intervals, page: Page) -> Statement:
        return with_derived(self.statement(groups, part, page), groups, part)

    def _part(self, first: int, last: int, count: int) -> tuple[Intervals, Page]:
        """Return the intervals of some rows, and the rows' indexes within them."""
        start, end = first // count, (last - 1) // count + 1
        return self.intervals.part(start, end), Page(first - start * count, last - start * count)


def is_few(pages: list[Rows]) -> bool:
    """Return whether a frame would take longer than the rows of these pages."""
    return sum(stop - first for first, stop in pages) <= FEW


def _windows(rows: Rows, count: int) -> Iterator[Rows]:
    """Cut rows, of which each interval has `count`, between intervals."""
    size = max(WINDOW // count, 1) * count
    first, stop = rows
    while first < stop:
        end = min((first // count) * count + size, stop)
        yield first, end
        first = end


class GroupedTable(Grouped):
    """A grouped report in which each row of the statement is a row of the response.

    The intervals are half-hours.
    """

    # The columns of the statement, in order of its rows; `g` is the group's number.
    SCHEMA: ClassVar[Schema]

    def rows_of_group(self) -> int:
        """Return the greatest number of rows that one group can have."""
        raise NotImplementedError

    def statement(self, groups: Groups) -> Statement:
        """Return the SQL of the rows."""
        raise NotImplementedError

    async def columns(
        self, form: Format, connection: Connection, groups: Groups, found: pl.DataFrame
    ) -> list[pl.Series]:
        """Return the columns of the rows that the statement returned."""
        raise NotImplementedError

    async def render(
        self, request: ReportRequest, connection: Connection, version: DataVersion
    ) -> RenderedReport:
        """Find the groups and return the rows."""
        groups, available = await self.groups(connection, version)
        self.cap(len(groups) * self.rows_of_group(), request.format)
        return RenderedReport(
            self._frames(request.format, connection, groups),
            self.members(version, available),
            available=available,
        )

    async def _frames(
        self, form: Format, connection: Connection, groups: Groups
    ) -> AsyncGenerator[pl.DataFrame, None]:
        found = pl.DataFrame(schema=self.SCHEMA)
        if groups:
            found = await read_frame(connection, self.statement(groups), self.SCHEMA)
        yield pl.DataFrame(await self.columns(form, connection, groups, found))
