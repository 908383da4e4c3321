"""Rows per group and interval: each group has one in each interval, reported or not."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar
from zoneinfo import ZoneInfo

from app.energy.formats import Format
from app.energy.groups import Era, Groups
from app.energy.intervals import Intervals, labels
from app.energy.query import Page

# What the database found of a group in an interval, after the row's place.
Found = Sequence[Any]


class Grid:
    """Writes rows in order: `feed` with what the database found, then `finish`.

    A subclass names its columns and writes their fields.
    """

    COLUMNS: ClassVar[tuple[str, ...]]
    # What stands for an interval of which the database found nothing.
    NOTHING: ClassVar[Found]

    @classmethod
    def columns(cls, by: Sequence[str]) -> list[str]:
        """The names of all fields of a row."""
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
        self._last = page.last
        # A row is its group's text, its interval's, and its values'.
        before, self.after = form.brackets
        keys = (tuple(form.text(value) for value in key) for key in groups.keys)
        self.heads = [before + form.fields(by) % key + "," for key in keys]
        left, between, right = form.labels(("interval_start", "interval_end")).split("%s")
        self.spans = [
            f"{left}{start}{between}{end}{right},"
            for start, end in pairwise(labels(intervals, zone))
        ]
        self.expected = intervals.all_expected()
        self.eras = [groups.eras(group, intervals) for group in range(len(groups))]
        self._starts = [[era.first for era in eras] for eras in self.eras]

    def feed(self, found: Sequence[tuple[Any, ...]]) -> list[str]:
        """Return the rows up to and including those found: (place, …)."""
        rows: list[str] = []
        count = len(self.heads)
        for row in found:
            place = row[0]
            if place != self.place:
                self._fill(rows, place)
            index, group = divmod(place, count)
            rows.append(self._row(index, group, row[1:]))
            self.place = place + 1
        return rows

    def finish(self) -> list[str]:
        """Return the rows after the last one found."""
        rows: list[str] = []
        self._fill(rows, self._last)
        return rows

    def fields(self, found: Found, expected: int, era: Era) -> str:
        """Write the `COLUMNS`; `expected` half-hours of each of the era's registers."""
        raise NotImplementedError

    def _fill(self, rows: list[str], place: int) -> None:
        """Add rows for what the database did not find before `place`."""
        if not self.place <= place <= self._last:
            raise RuntimeError("the database returned a row outside the page, or out of order")
        places = (divmod(at, len(self.heads)) for at in range(self.place, place))
        rows += [self._row(index, group, self.NOTHING) for index, group in places]
        self.place = place

    def _row(self, index: int, group: int, found: Found) -> str:
        eras = self.eras[group]
        era = eras[0] if len(eras) == 1 else eras[bisect_right(self._starts[group], index) - 1]
        fields = self.fields(found, self.expected[index], era)
        return f"{self.heads[group]}{self.spans[index]}{fields}{self.after}"
