"""Energy per group and interval: one page of rows, written while the database returns them."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache, partial
from itertools import cycle, islice, product, repeat
from operator import call
from typing import Any

from app.db.session import Connection
from app.energy import cursors, sources
from app.energy.answer import Body, Question, State, Written
from app.energy.cursors import Position
from app.energy.formats import Format
from app.energy.grid import Found, Grid
from app.energy.grouped import Grouped
from app.energy.groups import Era, Groups
from app.energy.intervals import HALF_HOUR, Intervals, half_hour_from, moment
from app.energy.parameters import EnergyQuery
from app.energy.query import MOST_METERS, SEPARATOR, Page, Statement, energy, packed
from app.energy.rows import Lines, reading

# A change is stamped before its transaction commits, so a response may have missed changes that
# were stamped this long before it.
LATE = timedelta(minutes=1)
# If more parts of a period than this have changed, return one part that covers them all.
MOST_RUNS = 20
CHANGED = (
    "select lower(part) as first, upper(part) as last"
    " from unnest(flows.changed_since(%s, tstzrange(%s, %s))) as part"
)
# Indexes of intervals, or row indexes: first, stop (exclusive).
Run = tuple[int, int]
# A row of `packed`: row indexes; half-hours over all registers, as one number for all or as a list;
# `SEEN` as one number, in the same two ways; the joined fields.
Pack = tuple[list[int], int, list[int] | None, int, list[int] | None, str]
PACKS = 10  # rows of `packed` per fetch
# Half-hours over all registers, and `SEEN` as one number.
Counts = tuple[int, int]
NO_COUNTS = (0, 0)
# Writes the end of a group's row; cached, because few rows differ in their counts.
End = Callable[[Counts], str]
KWH = ("import_kwh", "export_kwh")
SEEN = ("present_intervals", "meters_reporting")


class EnergyGrid(Grid):
    """Writes rows of energy; the fields of `KWH` come from the database as text."""

    COLUMNS = (*KWH, *SEEN, "expected_intervals", "meters_expected", "complete")
    NOTHING = (NO_COUNTS, None)

    def __init__(self, *what: Any, **how: Any) -> None:
        super().__init__(*what, **how)
        self._nothing = self.form.fields(KWH) % (self.form.missing, self.form.missing)
        self._named = "," + self.form.fields(self.COLUMNS[len(KWH) :])
        self._steady = all(len(eras) == 1 for eras in self.eras)
        self._kept: dict[int, list[End]] = {}

    def unpack(self, packs: Iterable[Pack]) -> Iterator[list[str]]:
        """Yield the rows up to and including those in the packs.

        A pack is written at once while no group changes and gaps are few, which is usual.
        """
        for places, registers, each_registers, seen, each_seen, joined in packs:
            fields = joined.split(SEPARATOR)
            counts = [(registers, seen)]
            if each_registers or each_seen:
                each = each_registers or repeat(registers), each_seen or repeat(seen)
                counts = [*zip(*each, strict=False)]
            # PostgreSQL returns them in order, but SQL does not guarantee it.
            if self._steady and places == [*range(self.place, self.place + len(places))]:
                yield self._in_one_go(fields, counts)
            elif self._steady and self._are_close(places):
                yield self._in_one_go(*self._spread(places, fields, counts))
            else:
                yield from self.feed(sorted(zip(places, cycle(counts), fields, strict=False)))

    def _are_close(self, places: list[int]) -> bool:
        """Return whether gaps are few; duplicate and foreign row indexes are left to `feed`."""
        first, last = min(places), max(places)
        near = self.place <= first and last < min(self.place + 2 * len(places), self.last)
        return near and len({*places}) == len(places)

    def _spread(
        self, places: list[int], fields: list[str], counts: list[Counts]
    ) -> tuple[list[str], list[Counts]]:
        """Insert empty rows between those found."""
        rows = range(self.place, max(places) + 1)
        all_fields, all_counts = [self._nothing] * len(rows), [NO_COUNTS] * len(rows)
        for place, found, counted in zip(places, fields, cycle(counts), strict=False):
            all_fields[place - self.place], all_counts[place - self.place] = found, counted
        return all_fields, all_counts

    def _in_one_go(self, fields: list[str], counts: list[Counts]) -> list[str]:
        """Write consecutive rows from the current index on.

        `fields` are those of `KWH`, one per row; `counts` has one item for all rows or one each.
        """
        rows: list[str] = []
        each = iter(counts)
        while len(rows) < len(fields):
            index, group = divmod(self.place, len(self.heads))
            left = len(fields) - len(rows)
            alike = self._alike(index, (self.place + left - 1) // len(self.heads) + 1)
            left = min(left, alike * len(self.heads) - self.place)
            ends = self._ends(self.expected[index])
            ends = ends[group:] + ends[:group]
            tails: Iterable[str]
            if len(counts) > 1:
                tails = map(call, cycle(ends), islice(each, left))
            else:
                tails = cycle([end(counts[0]) for end in ends])
            places = islice(product(self.spans[index:alike], self.heads), group, group + left)
            rows += [
                f"{head}{span}{kwh}{tail}"
                for (span, head), kwh, tail in zip(
                    places, fields[len(rows) : len(rows) + left], tails, strict=False
                )
            ]
            self.place += left
        return rows

    def _alike(self, first: int, last: int) -> int:
        """Return the first interval before `last` that expects another number of half-hours.

        Return `last` when all intervals from `first` on expect the same number.
        """
        expected = self.expected[first]
        return next((n for n in range(first, last) if self.expected[n] != expected), last)

    def _ends(self, expected: int) -> list[End]:
        """Return one function per group that writes the end of its rows; only for steady groups."""
        kept = self._kept.get(expected)
        if kept is None:
            ends: dict[Era, End] = {}  # groups that expect the same share one
            for (era,) in self.eras:
                if era not in ends:
                    ends[era] = cache(partial(self._end, expected, era))
            kept = self._kept[expected] = [ends[era] for (era,) in self.eras]
        return kept

    def fields(self, found: Found, expected: int, era: Era) -> str:
        """Write the `COLUMNS`; `found` is the counts and the written fields of `KWH`."""
        counts, kwh = found
        return (kwh or self._nothing) + self._after_kwh(expected, era, counts)

    def _end(self, expected: int, era: Era, counts: Counts) -> str:
        return self._after_kwh(expected, era, counts) + self.after

    def _after_kwh(self, expected: int, era: Era, counts: Counts) -> str:
        registers, seen = counts
        complete = self.form.truth(era.complete(expected, registers))
        return self._named % (*divmod(seen, MOST_METERS), expected, era.meters, complete)


@dataclass(frozen=True)
class EnergyReport(Grouped):
    """A validated request for energy; `limit` (rows) is None where the response is not paged."""

    query: EnergyQuery
    after: Position | None
    limit: int | None

    async def write(self, question: Question, connection: Connection, state: State) -> Written:
        """Find the groups and return the body."""
        groups, available = await self.groups(connection, state)
        runs = [(0, len(self.intervals))]
        if self.query.updated_since is not None and len(self.intervals):
            runs = await _changed(connection, self.intervals, self.query.updated_since)
        pages, is_cut = self._pages(groups, runs) if groups else ([], False)
        following = None
        if is_cut:
            index, group = divmod(pages[-1][1] - 1, len(groups))
            position = Position(self.intervals.bounds[index], groups.keys[group])
            following = cursors.write(position, question.fingerprint, question.services.keys)
        members = {"granularity": self.query.granularity} | self.members(state, available)
        body = self._body(question.format, connection, members, groups, pages, following)
        return Written(body, available, following)

    async def _body(
        self,
        form: Format,
        connection: Connection,
        members: dict[str, Any],
        groups: Groups,
        pages: list[Run],
        following: str | None,
    ) -> Body:
        lines = Lines(form)
        yield form.head(members, EnergyGrid.columns(self.by))
        for first, last in pages:
            part, page = self._part(first, last, len(groups))
            statement = self._statement(form, groups, part, page)
            async with reading(connection, statement, PACKS) as batches:
                grid = EnergyGrid(groups, part, self.query.zone(), form, self.by, page)
                async for packs in batches:
                    for rows in grid.unpack(packs):
                        yield lines.add(rows)
                for rows in grid.finish():
                    yield lines.add(rows)
        yield form.tail({"next": following}, empty=lines.empty)

    def _pages(self, groups: Groups, runs: list[Run]) -> tuple[list[Run], bool]:
        """Return the row indexes of this page, and whether more pages follow."""
        start, count = self._first(groups), len(groups)
        pages: list[Run] = []
        left = self.limit
        for first, last in ((max(a * count, start), b * count) for a, b in runs):
            if first >= last:
                continue
            end = last if left is None else min(last, first + left)
            if end > first:
                pages.append((first, end))
            if end < last:
                return pages, True
            left = None if left is None else left - (end - first)
        return pages, False

    def _first(self, groups: Groups) -> int:
        """Return the row index at which the page begins."""
        if self.after is None:
            return 0
        bounds = self.intervals.bounds
        if self.after.interval not in bounds:
            raise RuntimeError("a cursor of this request names an interval it does not have")
        return bounds.index(self.after.interval) * len(groups) + groups.after(self.after.key)

    def _part(self, first: int, last: int, count: int) -> tuple[Intervals, Page]:
        """Return the intervals of a page, and the page's row indexes within them."""
        start, end = first // count, (last - 1) // count + 1
        return self.intervals.part(start, end), Page(first - start * count, last - start * count)

    def _statement(self, form: Format, groups: Groups, part: Intervals, page: Page) -> Statement:
        asked = self.query
        pieces = sources.choose(asked.granularity, asked.zone(), part)
        return packed(energy(groups, part, asked.granularity, pieces, page), form.sql(KWH))


async def _changed(connection: Connection, intervals: Intervals, since: datetime) -> list[Run]:
    """Return the intervals in which figures of any group may have changed since `since`."""
    period = moment(intervals.first), moment(intervals.last)
    runs: list[Run] = []
    for row in await (await connection.execute(CHANGED, (since - LATE, *period))).fetchall():
        last = intervals.index(half_hour_from(row["last"]) - HALF_HOUR) + 1
        first = intervals.index(int(row["first"].timestamp()))
        if runs and first <= runs[-1][1]:
            first = runs.pop()[0]
        runs.append((first, last))
    return runs if len(runs) <= MOST_RUNS else [(runs[0][0], runs[-1][1])]
