"""Rows per group and interval: each group has one in each interval, reported or not."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar
from zoneinfo import ZoneInfo

from app.energy.formats import Format
from app.energy.groups import Era, Groups
from app.energy.intervals import Instant, Intervals, labels

# What the database found of a group in an interval, after the interval's start and the group.
Found = Sequence[Any]


@dataclass(frozen=True, slots=True)
class Page:
    """Positions in the grid, counted along intervals and then groups: from `first` up to `last`."""

    first: int
    last: int


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
        self.position = page.first
        self._last = page.last
        # A row is its group's text, its interval's, and its values'.
        before, self.after = form.brackets
        keys = (tuple(form.text(value) for value in key) for key in groups.keys)
        self.heads = [before + form.fields(by) % key + "," for key in keys]
        span = form.labels(("interval_start", "interval_end")) + ","
        self.spans = [span % ends for ends in pairwise(labels(intervals, zone))]
        self._expected = [intervals.expected(index) for index in range(len(intervals))]
        bounds = intervals.bounds
        self._index: Callable[[Instant], int]
        self._half_hours = intervals.are_half_hours
        if self._half_hours:
            self._index = bounds.index  # a range calculates it
        else:
            self._index = {bound: index for index, bound in enumerate(bounds)}.__getitem__
        self._eras = [groups.eras(group, intervals) for group in range(len(groups))]
        self._starts = [[era.first for era in eras] for eras in self._eras]

    @property
    def only_era(self) -> Era | None:
        """The era of the page where it has half-hours of one group that never changes."""
        eras = self._eras[0]
        return eras[0] if self._half_hours and len(self._eras) == len(eras) == 1 else None

    def follows(self, start: Instant, count: int) -> bool:
        """Whether `count` rows of one group up to the interval at `start` leave nothing out."""
        return self._index(start) == self.position + count - 1

    def feed(self, found: Sequence[tuple[Any, ...]]) -> list[str]:
        """Return the rows up to and including those found: (interval's start, group, …)."""
        rows: list[str] = []
        count = len(self.heads)
        for row in found:
            group = row[1]
            index = self._index(row[0])
            position = index * count + group
            if position != self.position:
                self._fill(rows, position)
            rows.append(self._row(index, group, row[2:]))
            self.position = position + 1
        return rows

    def finish(self) -> list[str]:
        """Return the rows after the last one found."""
        rows: list[str] = []
        self._fill(rows, self._last)
        return rows

    def fields(self, found: Found, expected: int, era: Era) -> str:
        """Write the `COLUMNS`; `expected` half-hours of each of the era's registers."""
        raise NotImplementedError

    def _fill(self, rows: list[str], position: int) -> None:
        """Add rows for what the database did not find before `position`."""
        if not self.position <= position <= self._last:
            raise RuntimeError("the database returned a row outside the page, or out of order")
        places = (divmod(place, len(self.heads)) for place in range(self.position, position))
        rows += [self._row(index, group, self.NOTHING) for index, group in places]
        self.position = position

    def _row(self, index: int, group: int, found: Found) -> str:
        eras = self._eras[group]
        era = eras[0] if len(eras) == 1 else eras[bisect_right(self._starts[group], index) - 1]
        fields = self.fields(found, self._expected[index], era)
        return f"{self.heads[group]}{self.spans[index]}{fields}{self.after}"
