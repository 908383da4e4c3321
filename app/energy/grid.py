"""Rows per group and interval: each group has a row in every interval, reported or not."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, ClassVar
from zoneinfo import ZoneInfo

from app.energy.formats import Format
from app.energy.groups import Era, Groups
from app.energy.intervals import Intervals, labels
from app.energy.query import Page

# The columns of a row from the database that follow its row index.
Found = Sequence[Any]
MOST_AT_A_TIME = 5000


class Grid:
    """Writes rows in order and fills gaps: call `feed` with the database's rows, then `finish`.

    A subclass names its columns and writes their fields.
    """

    COLUMNS: ClassVar[tuple[str, ...]]
    # The values for an interval of which the database returned no row.
    NOTHING: ClassVar[Found]

    @classmethod
    def columns(cls, by: Sequence[str]) -> list[str]:
        """Return the names of all fields of a row."""
        return [*by, "interval_start", "interval_end", *cls.COLUMNS]

    def __init__(
        self,
        groups: Groups,
        intervals: Intervals,
        zone: ZoneInfo,
        form: Format,
        by: Sequence[str],
        page: Page,
    ) -> None:
        self.form = form
        self.place = page.first
        self.last = page.last
        # A row is the text of its group, that of its interval, and that of its values.
        before, self.after = form.brackets
        keys = (tuple(form.text(value) for value in key) for key in groups.keys)
        self.heads = [before + form.fields(by) % key + "," for key in keys]
        left, between, right = form.labels(("interval_start", "interval_end")).split("%s")
        self.spans = [
            f"{left}{start}{between}{end}{right},"
            for start, end in pairwise(labels(intervals, zone))
        ]
        self.expected = intervals.all_expected()
        self.eras = groups.eras(intervals)
        self._starts = [[era.first for era in eras] for eras in self.eras]

    def feed(self, found: Sequence[tuple[Any, ...]]) -> Iterator[list[str]]:
        """Yield, in batches, all rows up to and including those found: (row index, values …)."""
        rows: list[str] = []
        count = len(self.heads)
        for row in found:
            place = row[0]
            if place != self.place:
                yield rows
                yield from self._fill(place)
                rows = []
            index, group = divmod(place, count)
            rows.append(self._row(index, group, row[1:]))
            self.place = place + 1
        yield rows

    def finish(self) -> Iterator[list[str]]:
        """Yield the rows after the last one that was fed."""
        return self._fill(self.last)

    def fields(self, found: Found, expected: int, era: Era) -> str:
        """Return the text of the `COLUMNS`; `expected` is the half-hours in the interval."""
        raise NotImplementedError

    def _fill(self, place: int) -> Iterator[list[str]]:
        """Yield empty rows up to `place`, in batches, because there may be very many."""
        if not self.place <= place <= self.last:
            raise RuntimeError("the database returned a row outside the page, or out of order")
        while self.place < place:
            end = min(place, self.place + MOST_AT_A_TIME)
            places = (divmod(at, len(self.heads)) for at in range(self.place, end))
            yield [self._row(index, group, self.NOTHING) for index, group in places]
            self.place = end

    def _row(self, index: int, group: int, found: Found) -> str:
        eras = self.eras[group]
        era = eras[0] if len(eras) == 1 else eras[bisect_right(self._starts[group], index) - 1]
        fields = self.fields(found, self.expected[index], era)
        return f"{self.heads[group]}{self.spans[index]}{fields}{self.after}"
