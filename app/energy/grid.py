"""Rows per group and interval: each group has one in each interval, reported or not."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar
from zoneinfo import ZoneInfo

from app.energy.formats import Format
from app.energy.groups import Era, Groups
from app.energy.intervals import Intervals, label

# interval start, group, and what was found of them
Found = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Page:
    """Positions in the grid, counted along intervals and then groups: from `first` up to `last`."""

    first: int
    last: int


class Grid:
    """Writes rows in order: `feed` with what the database found, then `finish`.

    A subclass names its columns and writes their values.
    """

    COLUMNS: ClassVar[tuple[str, ...]]
    # What stands for an interval of which the database found nothing.
    NOTHING: ClassVar[tuple[Any, ...]]

    def __init__(
        self,
        groups: Groups,
        intervals: Intervals,
        zone: ZoneInfo,
        form: Format,
        by: Sequence[str],
        page: Page,
        *,
        sparse: bool = False,
    ) -> None:
        """With `sparse`, only what was found is written: the answer to `updated_since`."""
        self._groups = groups
        self._intervals = intervals
        self._zone = zone
        self.form = form
        self._sparse = sparse
        self._template = form.template([*by, "interval_start", "interval_end", *self.COLUMNS])
        self._keys = [tuple(form.text(value) for value in key) for key in groups.keys]
        self._eras = [groups.eras(group, intervals) for group in range(len(groups))]
        self._starts = [[era.first for era in eras] for eras in self._eras]
        self.position = page.first
        self._last = page.last
        self._interval = -1
        self._labels: tuple[str, str, int] = ("", "", 0)

    def feed(self, found: Iterable[Found]) -> list[str]:
        """Return the rows up to and including those found."""
        rows: list[str] = []
        count = len(self._groups)
        bounds = self._intervals.bounds
        for start, group, *values in found:
            while bounds[self.position // count] != start or self.position % count != group:
                self._skip(rows)
            rows.append(self._row(values))
            self.position += 1
        return rows

    def finish(self) -> list[str]:
        """Return the rows after the last one found."""
        rows: list[str] = []
        while self.position < self._last and not self._sparse:
            self._skip(rows)
        return rows

    def _skip(self, rows: list[str]) -> None:
        if self.position >= self._last:
            raise RuntimeError("the database returned a row outside the page")
        if not self._sparse:
            rows.append(self._row(self.NOTHING))
        self.position += 1

    def values(self, found: Sequence[Any], expected: int, era: Era) -> tuple[str | int, ...]:
        """Return the value of each column; `expected` half-hours of each of the era's registers."""
        raise NotImplementedError

    def _row(self, found: Sequence[Any]) -> str:
        index, group = divmod(self.position, len(self._groups))
        if index != self._interval:
            self._enter(index)
        start, end, expected = self._labels
        values = self.values(found, expected, self._era(group, index))
        return self._template % (*self._keys[group], start, end, *values)

    def _enter(self, index: int) -> None:
        bounds, zone = self._intervals.bounds, self._zone
        # One interval ends where the next begins.
        start = self._labels[1] if index == self._interval + 1 else ""
        self._labels = (
            start or self.form.text(label(bounds[index], zone)),
            self.form.text(label(bounds[index + 1], zone)),
            self._intervals.expected(index),
        )
        self._interval = index

    def _era(self, group: int, index: int) -> Era:
        eras = self._eras[group]
        if len(eras) == 1:
            return eras[0]
        return eras[bisect_right(self._starts[group], index) - 1]
