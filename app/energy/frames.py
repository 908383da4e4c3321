"""Columns of rows: the keys of groups, the times of intervals, and what is expected in them."""

from collections.abc import Mapping, Sequence
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl

from app.energy.formats import Format
from app.energy.groups import Groups, Key
from app.energy.intervals import Instant, Intervals, label, labels
from app.energy.query import Page

NOT_OF_PAGE = "the database returned a row twice, or one outside the page"
MICROSECONDS = 1_000_000
# The counts of a row from the database, none where it returned no row.
COUNTS = ("register_intervals", "present_intervals", "meters_reporting", "derived_intervals")


class Clock:
    """Writes times as a format has them: local texts with offset, or local timestamps."""

    def __init__(self, zone: ZoneInfo, form: Format) -> None:
        self._zone = zone
        self._has_texts = form.has_texts
        self.dtype: pl.DataType = pl.String()
        if not form.has_texts:
            self.dtype = _timestamp(zone)

    def bounds(self, intervals: Intervals) -> pl.Series:
        """Return the bounds of intervals."""
        if self._has_texts:
            return pl.Series(labels(intervals, self._zone), dtype=pl.String)
        return self.times(pl.Series(intervals.bounds, dtype=pl.Int64) * MICROSECONDS)

    def times(self, microseconds: pl.Series) -> pl.Series:
        """Return instants, given as microseconds since 1970."""
        if not self._has_texts:
            utc = microseconds.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
            return utc.dt.convert_time_zone(getattr(self.dtype, "time_zone", None) or "UTC")
        texts = [
            None if at is None else label(at / MICROSECONDS, self._zone)
            for at in microseconds.to_list()
        ]
        return pl.Series(microseconds.name, texts, dtype=pl.String)


def _timestamp(zone: ZoneInfo) -> pl.DataType:
    """Return the type of a zone's timestamps; in UTC if Polars does not know the zone."""
    try:
        pl.Series([0], dtype=pl.Datetime("us", zone.key)).dt.hour()
    except pl.exceptions.PolarsError:
        return pl.Datetime("us", "UTC")
    return pl.Datetime("us", zone.key)


class Membership:
    """Half-hours that the registers of each group should have reported, in each interval."""

    def __init__(self, groups: Groups, intervals: Intervals) -> None:
        runs = groups.runs(intervals)
        count = len(intervals)
        self._stride = count
        self._is_steady = all(len(own) == 1 for own in runs)
        self._starts = pl.Series(
            [group * count + run.start for group, own in enumerate(runs) for run in own],
            dtype=pl.Int64,
        )
        every = [run for own in runs for run in own]
        self._meters = pl.Series([run.meters for run in every], dtype=pl.Int32)
        self._registers = pl.Series([run.registers for run in every], dtype=pl.Int64)
        self._more = pl.Series([run.more for run in every], dtype=pl.Int64)

    def at(self, group: pl.Series, index: pl.Series) -> tuple[pl.Series, pl.Series, pl.Series]:
        """Return the meters, the registers, and the half-hours beside those of the registers.

        They are those of groups and intervals, by their numbers.
        """
        run = group
        if not self._is_steady:
            wanted = group.cast(pl.Int64) * self._stride + index
            run = self._starts.search_sorted(wanted, side="right") - 1
        return self._meters[run], self._registers[run], self._more[run]

    def complete(
        self, group: pl.Series, index: pl.Series, expected: pl.Series, found: pl.Series
    ) -> tuple[pl.Series, pl.Series]:
        """Return `meters_expected` and `complete`.

        `expected` are the half-hours of the intervals, `found` those over all registers.
        """
        meters, registers, more = self.at(group, index)
        needed = registers * expected + more
        complete = (needed > 0) & (needed <= found)
        return meters.alias("meters_expected"), complete.alias("complete")


def key_columns(keys: list[Key], by: list[str], form: Format) -> list[pl.Series]:
    """Return one column for each dimension, with a value for each group."""
    return [
        pl.Series(name, [form.text(key[number]) for key in keys], dtype=pl.String)
        for number, name in enumerate(by)
    ]


class Grid:
    """Rows of groups and intervals: each group has a row in each interval, reported or not.

    Half-hours that have not ended by `now` are not expected.
    """

    def __init__(
        self, groups: Groups, keys: list[pl.Series], zone: ZoneInfo, form: Format, now: Instant
    ) -> None:
        self._groups = groups
        self._now = now
        self._keys = keys
        self._clock = Clock(zone, form)

    def rows(self, found: pl.DataFrame, intervals: Intervals, page: Page) -> pl.DataFrame:
        """Return the rows of a page of intervals.

        `found` has a row for each `row_index` that anything was reported of, with its
        `register_intervals`, `present_intervals`, `meters_reporting` and, where there can be any,
        `derived_intervals`; its other columns stay.
        """
        found = _aligned(found, page)
        row, count = found["row_index"], len(self._groups)
        index, group = (row // count, row % count) if count > 1 else (row, row * 0)
        bounds = self._clock.bounds(intervals)
        of_intervals = pl.Series(
            "expected_intervals", intervals.all_expected(self._now), dtype=pl.Int32
        )
        expected = of_intervals[index]
        partial = pl.Series("partial", intervals.all_partial(), dtype=pl.Boolean)
        counts = {name: _filled(found[name]) for name in COUNTS if name in found.columns}
        if "derived_intervals" not in counts:
            none = pl.repeat(0, len(found), dtype=pl.Int32, eager=True)
            counts["derived_intervals"] = none.alias("derived_intervals")
        meters, complete = Membership(self._groups, intervals).complete(
            group, index, expected, counts["register_intervals"]
        )
        if intervals.last > self._now:
            ended = pl.Series(intervals.all_ended(self._now), dtype=pl.Boolean)
            complete = (complete & ended[index]).alias("complete")
        return pl.DataFrame(
            [
                *(key[group] for key in self._keys),
                bounds[index].alias("interval_start"),
                bounds[index + 1].alias("interval_end"),
                partial[index],
                *(found[name] for name in found.columns if name not in ("row_index", *COUNTS)),
                expected,
                counts["present_intervals"],
                counts["derived_intervals"],
                meters,
                counts["meters_reporting"],
                complete,
            ]
        )

    def few_rows(
        self, found: Mapping[str, Sequence[Any]], intervals: Intervals, page: Page
    ) -> list[dict[str, Any]]:
        """Return the same rows as objects, from columns as lists: faster for few rows."""
        numbers = {row: number for number, row in enumerate(found["row_index"])}
        if len(numbers) != len(found["row_index"]) or not all(
            page.first <= row < page.last for row in numbers
        ):
            raise RuntimeError(NOT_OF_PAGE)
        count, runs = len(self._groups), self._groups.runs(intervals)
        keys = [(key.name, key.to_list()) for key in self._keys]
        bounds = self._clock.bounds(intervals).to_list()
        partial, of_intervals = intervals.all_partial(), intervals.all_expected(self._now)
        ended = intervals.all_ended(self._now)
        values = [name for name in found if name not in ("row_index", *COUNTS)]
        rows = []
        for at in range(page.first, page.last):
            (index, group), number = divmod(at, count), numbers.get(at)
            run = next(run for run in runs[group] if run.start <= index < run.stop)
            registers, present, reporting, derived = (
                0 if number is None or name not in found else found[name][number] or 0
                for name in COUNTS
            )
            expected = of_intervals[index]
            row: dict[str, Any] = {name: own[group] for name, own in keys}
            row["interval_start"] = bounds[index]
            row["interval_end"] = bounds[index + 1]
            row["partial"] = partial[index]
            for name in values:
                row[name] = None if number is None else found[name][number]
            row["expected_intervals"] = expected
            row["present_intervals"] = present
            row["derived_intervals"] = derived
            row["meters_expected"] = run.meters
            row["meters_reporting"] = reporting
            row["complete"] = ended[index] and run.complete(expected, registers)
            rows.append(row)
        return rows


def _aligned(found: pl.DataFrame, page: Page) -> pl.DataFrame:
    """Return the rows in order, with empty ones where the database returned none."""
    whole = pl.int_range(page.first, page.last, dtype=pl.Int32, eager=True).alias("row_index")
    if found["row_index"].equals(whole):
        return found
    found = found.sort("row_index")
    given = found["row_index"]
    if given.equals(whole):
        return found
    if not given.is_unique().all() or not given.is_in(whole).all():
        raise RuntimeError(NOT_OF_PAGE)
    return whole.to_frame().join(found, on="row_index", how="left", maintain_order="left")


def _filled(counts: pl.Series) -> pl.Series:
    """Return counts with zero where nothing was reported."""
    return counts.fill_null(0) if counts.null_count() else counts


def at_instants(instants: pl.Series) -> pl.Series:
    """Return whole seconds since 1970 as microseconds."""
    return instants * MICROSECONDS
