"""Rows of energy: every group has one in each interval, whether or not anything was reported."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from app.energy.formats import Format
from app.energy.groups import Era, Groups
from app.energy.intervals import Instant, Intervals, label

VALUES = (
    "interval_start", "interval_end", "import_kwh", "export_kwh", "expected_intervals",
    "present_intervals", "meters_expected", "meters_reporting", "complete",
)  # fmt: skip
# interval start, group, import, export, register half-hours, present half-hours, meters
Found = tuple[Instant, int, str | None, str | None, int, int, int]


@dataclass(frozen=True, slots=True)
class Page:
    """Positions in the grid, counted along intervals and then groups: from `first` up to `last`."""

    first: int
    last: int


class Grid:
    """Writes rows in order: `feed` with what the database found, then `finish`."""

    def __init__(
        self,
        groups: Groups,
        intervals: Intervals,
        zone: ZoneInfo,
        form: Format,
        columns: Sequence[str],
        page: Page,
        *,
        sparse: bool,
    ) -> None:
        """With `sparse`, only what was found is written: the answer to `updated_since`."""
        self._groups = groups
        self._intervals = intervals
        self._zone = zone
        self._form = form
        self._sparse = sparse
        self._template = form.template([*columns, *VALUES])
        self._key_count = len(columns)
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
        for start, group, imported, exported, intervals, present, meters in found:
            while bounds[self.position // count] != start or self.position % count != group:
                self._skip(rows)
            rows.append(self._row(imported, exported, intervals, present, meters))
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
            rows.append(self._row(None, None, 0, 0, 0))
        self.position += 1

    def _row(
        self,
        imported: str | None,
        exported: str | None,
        register_intervals: int,
        present: int,
        meters: int,
    ) -> str:
        index, group = divmod(self.position, len(self._groups))
        if index != self._interval:
            self._enter(index)
        start, end, expected = self._labels
        era = self._era(group, index)
        needed = era.registers * expected + era.more
        missing = self._form.missing
        return self._template % (
            *self._keys[group],
            start,
            end,
            missing if imported is None else imported,
            missing if exported is None else exported,
            expected,
            present,
            era.meters,
            meters,
            "true" if 0 < needed <= register_intervals else "false",
        )

    def _enter(self, index: int) -> None:
        bounds, zone = self._intervals.bounds, self._zone
        # One interval ends where the next begins.
        start = self._labels[1] if index == self._interval + 1 else ""
        self._labels = (
            start or self._form.text(label(bounds[index], zone)),
            self._form.text(label(bounds[index + 1], zone)),
            self._intervals.expected(index),
        )
        self._interval = index

    def _era(self, group: int, index: int) -> Era:
        eras = self._eras[group]
        if len(eras) == 1:
            return eras[0]
        return eras[bisect_right(self._starts[group], index) - 1]
