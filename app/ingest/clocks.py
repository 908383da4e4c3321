"""Wall-clock times in UTC: the order of the rows tells the two passes of a repeated hour apart."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl

from app.ingest.faults import Refusals
from app.ingest.options import ImportOptions
from app.ingest.times import day_in_utc, in_utc

AROUND = timedelta(hours=3)  # further from a clock change than any clock moves
Place = dict[str, Any]  # a row of a frame


@dataclass(frozen=True, slots=True)
class Ambiguous:
    """A row near a clock change: the instants at which the clock showed its label."""

    place: int
    line: int
    wall: datetime
    instants: tuple[datetime, ...]


class Clocks:
    """Puts the times of cells into UTC.

    Rows near the moments at which clocks go back are put aside until the whole file is known, as
    the order of the rows around them tells the passes apart. There are few of them.
    """

    def __init__(self, options: ImportOptions, refusals: Refusals) -> None:
        self._zone = options.zone
        self._name = options.timezone
        self._end = options.label == "end" and not options.reads
        self._pairs = options.clock_change == "pairs"
        self._span = timedelta(minutes=options.minutes)
        self._refusals = refusals
        self._repeats: dict[date, bool] = {}
        self._aside: list[pl.DataFrame] = []
        self.skipped = 0
        self.taken_as_first = 0

    def place(self, cells: pl.DataFrame) -> pl.DataFrame:
        """Return cells with `start` and `stop`, UTC, without those that are put aside.

        Times that a clock change skips are refused, or skipped if there is no energy in them.
        """
        if self._zone is None or cells["wall"].null_count() == cells.height:
            return self._spanned(cells.with_columns(instant=pl.col("at")))
        if self._span < timedelta(days=1):
            near = cells["wall"].dt.date().is_in(self._repeating(cells["wall"]))
            if near.any():
                self._aside.append(cells.filter(near))
                cells = cells.filter(~near.fill_null(value=False))
        cells = cells.with_columns(instant=pl.col("at").fill_null(self._utc(pl.col("wall"))))
        if self._end and self._span < timedelta(days=1):
            # The interval that ends as clocks go forward may be labelled with the skipped time.
            before = self._utc(pl.col("wall") - self._span) + self._span
            cells = cells.with_columns(pl.col("instant").fill_null(before))
        return self._spanned(self._without_skipped(cells))

    def finish(self, ascending: dict[str | None, bool | None]) -> pl.DataFrame | None:
        """Return the cells that were put aside, with `start` and `stop`; None if there are none.

        `ascending` tells of each key whether its rows in the whole file go forward in time.
        """
        if not self._aside:
            return None
        aside = pl.concat(self._aside).sort("series", "wall")
        instants: dict[int, datetime] = {}
        for group in _near_each_other(aside.iter_rows(named=True)):
            instants |= self._resolve(group, ascending.get(group[0]["series"]))
        found = pl.DataFrame(
            {"place": list(instants), "instant": list(instants.values())},
            schema={"place": pl.Int64, "instant": pl.Datetime("us", "UTC")},
        )
        return self._spanned(aside.join(found, on="place").sort("place"))

    def _resolve(self, rows: list[Place], forward: bool | None) -> dict[int, datetime]:
        """Return place → instant of rows around one clock change; refuse them if unclear."""
        rows = sorted(rows, key=lambda row: row["place"])
        seen = [
            Ambiguous(r["place"], r["line"], r["wall"], self._instants(r["wall"])) for r in rows
        ]
        found = None
        for context in _contexts(seen):
            found = self._in_order(context, forward)
            if found is not None:
                found = {row.place: row.instants[0] for row in seen if row.instants} | found
                break
        repeated = [row for row in seen if len(row.instants) > 1]
        walls = [row.wall for row in repeated]
        if found is None and len(set(walls)) == len(walls):
            # In no order, but each time stands once: that is the one before the clocks go back.
            found = {row.place: row.instants[0] for row in seen if row.instants}
        paired = found is None and forward is True and _in_pairs(seen)
        if paired and self._pairs:
            found = {row.place: row.instants[0] for row in seen if row.instants}
            for one, other in _pairs(repeated):
                found |= {one.place: min(one.instants), other.place: max(other.instants)}
        if found is None:
            lines = ", ".join(str(row.line) for row in repeated[:12])
            hint = "; --clock-change pairs takes the first of two as before the change"
            for row in repeated:
                self._refusals.add(
                    row.line,
                    f"{row.wall:%Y-%m-%d %H:%M} is shown twice in {self._name}, and the order of"
                    f" lines {lines} does not tell them apart" + (hint if paired else ""),
                )
            return {}
        once = {wall for wall in walls if walls.count(wall) == 1}
        self.taken_as_first += sum(
            row.wall in once and found.get(row.place) == row.instants[0] < row.instants[1]
            for row in repeated
        )
        return found

    def _in_order(self, rows: list[Ambiguous], forward: bool | None) -> dict[int, datetime] | None:
        """Return place → instant if the rows go forward or back in time, and in one way only."""
        there, back = _passes(rows, end=self._end), _passes(rows[::-1], end=self._end)
        if there is None or back is None or there == back:
            return back if there is None else there
        if forward is None:
            return None
        return there if forward else back

    def _instants(self, wall: datetime) -> tuple[datetime, ...]:
        """Return the instants at which the clock showed a time, and one at which it was to."""
        zone = self._zone or ZoneInfo("UTC")
        first, second = (wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
        if first != second:
            return first, second
        before = (wall - timedelta(microseconds=1)).replace(tzinfo=zone)
        moved = before.replace(fold=1).utcoffset() != before.utcoffset()
        if self._end and moved:
            # The last interval before the change may be labelled by the clock before it moves.
            return first, before.astimezone(UTC) + timedelta(microseconds=1)
        return (first,)

    def _repeating(self, walls: pl.Series) -> list[date]:
        """Return the dates, among those of some times, on which clocks go back."""
        zone = self._zone
        for day in walls.dt.date().unique().drop_nulls():
            if day not in self._repeats:
                self._repeats[day] = zone is not None and _goes_back(day, zone)
        return [day for day, repeats in self._repeats.items() if repeats]

    def _utc(self, wall: pl.Expr) -> pl.Expr:
        of_days = self._span >= timedelta(days=1)
        return day_in_utc(wall, self._name) if of_days else in_utc(wall, self._name)

    def _without_skipped(self, cells: pl.DataFrame) -> pl.DataFrame:
        missing = pl.col("instant").is_null()
        energy = (pl.col("import").fill_null(0) != 0) | (pl.col("export").fill_null(0) != 0)
        cells = self._refusals.take(
            cells,
            missing & energy,
            lambda row: (
                f"{row['time']} does not exist in {self._name}: a clock change skipped it (a clock"
                " that never changes has a zone as Etc/GMT-1, which is UTC+1)"
            ),
        )
        self.skipped += cells["instant"].null_count()
        return cells.filter(~missing)

    def _spanned(self, cells: pl.DataFrame) -> pl.DataFrame:
        """Add `start` and `stop`: a day is one of the zone, with 23 to 25 hours."""
        span = self._span
        if self._zone is not None and span >= timedelta(days=1):
            # A day that begins at 01:00, its midnight being skipped, ends at 24:00 all the same.
            shown = pl.col("instant").dt.convert_time_zone(self._name or "UTC")
            local = pl.col("wall").fill_null(shown.dt.replace_time_zone(None))
            other = self._utc(local - span if self._end else local + span)
        else:
            length = pl.duration(minutes=pl.col("minutes").fill_null(span // timedelta(minutes=1)))
            other = pl.col("instant") - length if self._end else pl.col("instant") + length
        start, stop = (other, pl.col("instant")) if self._end else (pl.col("instant"), other)
        return cells.with_columns(start=start, stop=stop).drop("instant")


def _contexts(rows: list[Ambiguous]) -> Iterator[list[Ambiguous]]:
    """Yield the rows around repeated ones: those of some hours, then those of their day alone.

    The latter serve files in which days go back in time and hours forward.
    """
    walls = [row.wall for row in rows if len(row.instants) > 1]
    if not walls:
        yield []
        return
    first, last = min(walls), max(walls)
    yield [row for row in rows if first - AROUND <= row.wall <= last + AROUND]
    yield [row for row in rows if first.date() <= row.wall.date() <= last.date()]


def _passes(rows: Sequence[Ambiguous], *, end: bool) -> dict[int, datetime] | None:
    """Return place → instant such that times only rise; None if there is no such way.

    Each row gets the earliest of its instants that is after the row before.
    """
    for early_label in (False, True) if end else (False,):
        found: dict[int, datetime] = {}
        last: datetime | None = None
        for row in rows:
            choices = row.instants
            if end and len(choices) == 2 and choices[1] < choices[0]:
                choices = choices[::-1] if early_label else choices[:1]
            chosen = next((at for at in choices if last is None or at > last), None)
            if chosen is None:
                break
            found[row.place] = last = chosen
        else:
            return found
    return None


def _in_pairs(rows: Sequence[Ambiguous]) -> bool:
    """Return whether the rows are sorted by what the clock showed, equal times in twos."""
    walls = [row.wall for row in rows]
    return walls == sorted(walls) and all(walls.count(wall) <= 2 for wall in walls)


def _pairs(rows: Sequence[Ambiguous]) -> list[tuple[Ambiguous, Ambiguous]]:
    """Return each two rows, one after the other, that show the same time."""
    return [(one, other) for one, other in pairwise(rows) if one.wall == other.wall]


def _goes_back(day: date, zone: ZoneInfo) -> bool:
    midnight = datetime(day.year, day.month, day.day)
    try:
        before = (midnight - AROUND).replace(tzinfo=zone).utcoffset()
        after = (midnight + timedelta(days=1) + AROUND).replace(tzinfo=zone).utcoffset()
    except OverflowError:
        return False
    return before is not None and after is not None and after < before


def _near_each_other(rows: Iterator[Place]) -> Iterator[list[Place]]:
    """Yield the rows of a key around each clock change; rows come by key and time."""
    group: list[Place] = []
    for row in rows:
        last = group[-1] if group else row
        if row["series"] != last["series"] or row["wall"] - last["wall"] > timedelta(days=3):
            yield group
            group = []
        group.append(row)
    if group:
        yield group
