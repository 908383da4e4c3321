"""Recognition of files that hold something other than half-hourly energy, by all their rows."""

from collections import Counter
from dataclasses import dataclass, field
from math import gcd

import polars as pl

from app.ingest.faults import FormatError
from app.ingest.half_hours import HALF_HOUR_MINUTES, interval_name
from app.ingest.options import MINUTES, ImportOptions
from app.ingest.values import ENERGY_COLUMNS, TICKS_PER_KWH, row_minutes

SeriesKey = str | None
LARGE_KWH = 1000.0  # a column that starts here and only rises is a counter
LONG = 48  # a column that only rises for so many rows is one too, if it gets to
MODERATE_KWH = 100.0
ORDERED = 0.9  # share of steps in one direction in a file in order
STRETCH = 24  # steps of another length, one after the other, that are no gaps


@dataclass(slots=True)
class Series:
    """The times and values of one series of the file so far, in the file's order."""

    first_line: int
    last_line: int
    steps: Counter[int] = field(default_factory=Counter)  # minutes from a row to the next → rows
    repeats: Counter[int] = field(default_factory=Counter)  # steps like the one before
    minutes_of_day: set[int] = field(default_factory=set)
    counters: dict[str, "Trend"] = field(default_factory=dict)

    @property
    def ascending(self) -> bool | None:
        """True if times rise from row to row, False if they fall, None if neither."""
        up = sum(count for step, count in self.steps.items() if step > 0)
        down = sum(count for step, count in self.steps.items() if step < 0)
        if max(up, down) <= ORDERED * (up + down):
            return None
        return up > down

    @property
    def interval(self) -> int | None:
        """The minutes from one time to the next; None if there are too few times."""
        lengths: Counter[int] = Counter()
        for step, count in self.steps.items():
            lengths[abs(step)] += count
        if not lengths:
            return None
        if self.ascending is None:
            common = gcd(*(minute - min(self.minutes_of_day) for minute in self.minutes_of_day))
            return common or min(lengths)
        return min(lengths, key=lambda length: (-lengths[length], length))

    def stretch_of_other_steps(self, interval: int) -> int | None:
        """Return a second length of steps that is in use too long for gaps, in minutes."""
        if self.ascending is None:
            return None
        others = (
            abs(step)
            for step, count in self.repeats.items()
            if abs(step) != interval and abs(step) in MINUTES.values() and count >= STRETCH
        )
        return next(others, None)


@dataclass(slots=True)
class Trend:
    """The course of a column: steps up and down in the order of time, least and largest, kWh."""

    count: int = 0
    up: int = 0
    down: int = 0
    least: float = float("inf")
    largest: float = 0.0


TIME = pl.coalesce("wall", pl.col("at").dt.replace_time_zone(None))
STEP = ((pl.col("time") - pl.col("time_before")).dt.total_seconds() / 60).round().cast(pl.Int64)


class Follower:
    """Brings each row together with the one before it of the same series, from frame to frame."""

    def __init__(self, *columns: str) -> None:
        self._columns = columns
        self._last: pl.DataFrame | None = None

    def follow(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return the rows with the row before in `…_before`, null for the first of a series."""
        kept = len(self._last) if self._last is not None else 0
        if self._last is not None:
            rows = pl.concat([self._last, rows])
        self._last = rows.group_by("series", maintain_order=True).last()
        before = (pl.col(name).shift(1).over("series") for name in self._columns)
        names = (f"{name}_before" for name in self._columns)
        return rows.with_columns(b.alias(n) for b, n in zip(before, names, strict=True))[kept:]


class Checks:
    """Follows the times and values of each series through the file."""

    def __init__(self, options: ImportOptions) -> None:
        self._options = options
        self._longest = 0
        self._stated: set[SeriesKey] = set()  # series whose interval the file states
        self._times = Follower("time")
        self._values = Follower("time", *ENERGY_COLUMNS)
        self.series: dict[SeriesKey, Series] = {}

    def observe_times(self, cells: pl.DataFrame) -> None:
        """Take note of the times of cells: `series`, `line`, and `wall` or `at`."""
        longest = cells.select(row_minutes(self._options).max()).item()
        self._longest = max(self._longest, longest or 0)
        stated = cells.filter(pl.col("minutes").is_not_null())
        self._stated |= set(stated["series"].unique())
        fresh = self._times.follow(cells.select("series", "line", time=TIME)).with_columns(
            step=STEP
        )
        by_series = fresh.group_by("series")
        ends = by_series.agg(first=pl.col("line").min(), last=pl.col("line").max())
        for name, first, last in ends.iter_rows():
            known = self.series.setdefault(name, Series(first, last))
            known.first_line = min(known.first_line, first)
            known.last_line = max(known.last_line, last)
        again = pl.col("step") == pl.col("step").shift(1).over("series")
        steps = fresh.with_columns(again=again).filter(pl.col("step") != 0)
        counted = steps.group_by("series", "step").agg(pl.len(), pl.col("again").sum())
        for name, step, count, repeats in counted.iter_rows():
            self.series[name].steps[step] += count
            self.series[name].repeats[step] += repeats
        minute = pl.col("time").dt.hour().cast(pl.Int32) * 60 + pl.col("time").dt.minute()
        for name, found in fresh.select("series", minute=minute).unique().iter_rows():
            self.series[name].minutes_of_day.add(found)

    def observe_values(self, cells: pl.DataFrame) -> None:
        """Take note of the values of cells that have been observed: `import` and `export`."""
        seen = cells.select("series", *ENERGY_COLUMNS, time=TIME)
        fresh = self._values.follow(seen).with_columns(step=STEP)
        for name in ENERGY_COLUMNS:
            change = (pl.col(name) - pl.col(f"{name}_before")).sign() * pl.col("step").sign()
            kwh = pl.col(name) / TICKS_PER_KWH
            known = fresh.filter(pl.col(name).is_not_null()).group_by("series")
            trends = known.agg(
                count=pl.len(), up=(change > 0).sum(), down=(change < 0).sum(),
                least=kwh.min(), largest=kwh.max(),
            )  # fmt: skip
            for series, count, up, down, least, largest in trends.iter_rows():
                trend = self.series[series].counters.setdefault(name, Trend())
                trend.count += count
                trend.up += up
                trend.down += down
                trend.least = min(trend.least, least)
                trend.largest = max(trend.largest, largest)

    def finish(self) -> int | None:
        """Return the interval that was found, minutes; FormatError for a file not to take."""
        if self._options.reads:
            return None
        found = None
        for key, series in self.series.items():
            of_key = f" of {key}" if key is not None else ""
            for name, trend in series.counters.items():
                self._refuse_counter(name, trend, of_key)
            if key not in self._stated:
                found = series.interval or found
                self._refuse_interval(series, of_key)
        minutes = self._longest
        if minutes > HALF_HOUR_MINUTES and self._options.spread is None:
            raise FormatError(
                f"rows of {interval_name(minutes)} have no half-hours: --spread even spreads each"
                " evenly and marks the half-hours as estimates"
            )
        return found

    def _refuse_counter(self, name: str, trend: Trend, of_key: str) -> None:
        rises = trend.down <= trend.up // 1000 and trend.up > 0
        large = trend.count >= 3 and trend.least >= LARGE_KWH
        long = trend.up >= LONG and trend.largest >= MODERATE_KWH
        if rises and (large or long):
            raise FormatError(
                f"the {name} column{of_key} only rises, from {trend.least:,.15g} to"
                f" {trend.largest:,.15g} kWh: these are readings of a counter, not energy;"
                " --reads takes them as such, and half-hours derive from them"
            )

    def _refuse_interval(self, series: Series, of_key: str) -> None:
        found, taken = series.interval, self._options.minutes
        if found is None:
            return
        lines = f"lines {series.first_line} to {series.last_line}{of_key}"
        if self._options.interval is None and found != taken:
            name = interval_name(found)
            known = name in MINUTES
            advice = (
                f"--interval {name} takes them as such" if known else "that is no interval known"
            )
            raise FormatError(
                f"{lines} are {_duration(found)} apart, not 30 minutes: {advice}"
                + (", --interval 30m as half-hours with gaps" if found > taken else "")
            )
        if found < taken:
            raise FormatError(
                f"{lines} are {_duration(found)} apart, which contradicts --interval"
                f" {interval_name(taken)}"
            )
        other = series.stretch_of_other_steps(taken)
        if self._options.interval is None and other is not None:
            raise FormatError(
                f"{lines} are partly {_duration(taken)} and partly {_duration(other)} apart; split"
                f" the file, or take them all as such with --interval {interval_name(taken)}"
            )


def _duration(minutes: int) -> str:
    if minutes % 1440 == 0:
        return f"{minutes // 1440} day" + ("s" if minutes > 1440 else "")
    return f"{minutes} minutes"
