"""The intervals of a period: half-hours, and local days, weeks, months and years of a time zone.

Instants are whole seconds since 1970 (UTC), so that arithmetic is free of clock changes. Data come
in half-hours that begin on :00 and :30 UTC; each belongs to the interval in which it begins.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Literal
from zoneinfo import ZoneInfo

Granularity = Literal["PT30M", "P1D", "P1W", "P1M", "P1Y"]
Instant = int

HALF_HOUR = 1800
DAY = 86400
EPOCH = date(1970, 1, 1).toordinal()


def half_hour_from(moment: datetime) -> Instant:
    """Return the start of the first half-hour at or after `moment`."""
    seconds = moment.timestamp()
    return int(-(-seconds // HALF_HOUR)) * HALF_HOUR


@dataclass(frozen=True, slots=True)
class Intervals:
    """Consecutive intervals, `bounds[i]` up to `bounds[i + 1]`, of a period.

    `first` and `last` (exclusive) bound the half-hours of the period. Where the period cuts an
    interval, the labels are those of the whole interval, but only the part inside is expected.
    """

    bounds: Sequence[Instant]
    first: Instant
    last: Instant

    def __len__(self) -> int:
        return max(len(self.bounds) - 1, 0)

    def inside(self, index: int) -> tuple[Instant, Instant]:
        """Return the part of an interval that lies in the period: start, end (exclusive)."""
        start, end = self.bounds[index], self.bounds[index + 1]
        return max(_up(start), self.first), min(_up(end), self.last)

    def expected(self, index: int) -> int:
        """Return the number of an interval's half-hours in the period; a day has 46, 48 or 50."""
        if self.are_half_hours:
            return 1
        start, end = self.inside(index)
        return (end - start) // HALF_HOUR

    def all_expected(self, now: Instant) -> list[int]:
        """Return `expected` of every interval, of half-hours that have ended by `now`."""
        if self.last <= now:
            if self.are_half_hours:
                return [1] * len(self)
            return [self.expected(index) for index in range(len(self))]
        return [
            max(min(end, now) - start, 0) // HALF_HOUR
            for start, end in (self.inside(index) for index in range(len(self)))
        ]

    def all_partial(self) -> list[bool]:
        """Return of every interval whether the period cuts it."""
        if self.are_half_hours:
            return [False] * len(self)
        wholes = ((_up(start), _up(end)) for start, end in pairwise(self.bounds))
        return [whole != self.inside(index) for index, whole in enumerate(wholes)]

    def all_ended(self, now: Instant) -> list[bool]:
        """Return of every interval whether its part in the period has ended by `now`."""
        if self.last <= now:
            return [True] * len(self)
        return [self.inside(index)[1] <= now for index in range(len(self))]

    @property
    def are_half_hours(self) -> bool:
        """True if each interval is one half-hour."""
        return isinstance(self.bounds, range)

    def index(self, instant: Instant) -> int:
        """Return the index of the interval that contains the start of a half-hour."""
        return bisect_right(self.bounds, instant) - 1

    def part(self, first: int, last: int) -> "Intervals":
        """Return the intervals `first` up to `last` (exclusive)."""
        return Intervals(
            self.bounds[first : last + 1], self.inside(first)[0], self.inside(last - 1)[1]
        )

    def past(self) -> "Intervals":
        """Return the intervals that have ended by now; they must be half-hours."""
        now = ended_until()
        if self.last <= now:
            return self
        last = max(now, self.first)
        return Intervals(range(self.first, last + HALF_HOUR, HALF_HOUR), self.first, last)


def ended_until() -> Instant:
    """Return the end of the last half-hour that has ended."""
    return int(datetime.now(UTC).timestamp()) // HALF_HOUR * HALF_HOUR


def split(
    granularity: Granularity, zone: ZoneInfo, period_from: datetime, period_to: datetime
) -> Intervals:
    """Cut a period into intervals; there are none when no half-hour begins in it."""
    first, last = half_hour_from(period_from), half_hour_from(period_to)
    if first >= last:
        return Intervals((), first, first)
    if granularity == "PT30M":
        return Intervals(range(first, last + HALF_HOUR, HALF_HOUR), first, last)
    bounds = list(calendar(granularity, zone, first, last))
    return Intervals(bounds, first, last)


def calendar(
    granularity: Granularity, zone: ZoneInfo, first: Instant, last: Instant
) -> Iterator[Instant]:
    """Yield the bounds of the local days (weeks, …) that cover `first` up to `last`.

    Bounds never repeat: a day that a zone skipped altogether (Samoa, 30 December 2011) is left out,
    and so is a day in which no half-hour begins.
    """
    day = _start(granularity, datetime.fromtimestamp(first, zone).date())
    previous: Instant | None = None
    while True:
        # If midnight does not exist, this is the instant of the clock change, where the day begins.
        bound = int(datetime(day.year, day.month, day.day, tzinfo=zone).timestamp())
        if previous is None or _up(bound) > _up(previous):
            yield bound
            previous = bound
        if _up(bound) >= last:
            return
        day = _next(granularity, day)


def offsets(zone: ZoneInfo, first: Instant, last: Instant) -> list[tuple[Instant, int]]:
    """Return (start, seconds ahead of UTC) for each offset of a zone from `first` up to `last`."""

    def ahead(instant: Instant) -> int:
        offset = datetime.fromtimestamp(instant, zone).utcoffset()
        assert offset is not None  # noqa: S101  (the zone is given)
        return int(offset.total_seconds())

    found = [(first, ahead(first))]
    for day in range(first, last, DAY):
        if ahead(min(day + DAY, last)) != found[-1][1]:
            for instant in range(day, min(day + DAY, last), HALF_HOUR):
                if ahead(instant) != found[-1][1]:
                    found.append((instant, ahead(instant)))
    return found


def label(instant: Instant, zone: ZoneInfo) -> str:
    """Return an instant as ISO 8601 in local time, with offset."""
    return datetime.fromtimestamp(instant, zone).isoformat()


def labels(intervals: Intervals, zone: ZoneInfo) -> list[str]:
    """Return the labels of all bounds.

    Those of half-hours are made a day at a time, which is several times as fast.
    """
    bounds = intervals.bounds
    if not intervals.are_half_hours:
        return [label(bound, zone) for bound in bounds]
    end = bounds[-1] + HALF_HOUR
    found: list[str] = []
    clock = [*offsets(zone, bounds[0], end), (end, 0)]
    for (start, ahead), (until, _) in pairwise(clock):
        suffix = label(start, zone)[-6:]
        phase = (start + ahead) % HALF_HOUR
        times = [
            f"T{second // 3600:02}:{second // 60 % 60:02}:00{suffix}"
            for second in range(phase, DAY, HALF_HOUR)
        ]
        while start < until:
            day, second = divmod(start + ahead, DAY)
            text = date.fromordinal(EPOCH + day).isoformat()
            first = second // HALF_HOUR
            rest = times[first : first + (until - start) // HALF_HOUR]
            found += [text + time for time in rest]
            start += len(rest) * HALF_HOUR
    return found


def moment(instant: Instant) -> datetime:
    """Return an instant as a datetime in UTC, for PostgreSQL's driver."""
    return datetime.fromtimestamp(instant, UTC)


def _up(instant: Instant) -> Instant:
    return -(-instant // HALF_HOUR) * HALF_HOUR


def _start(granularity: Granularity, day: date) -> date:
    match granularity:
        case "P1W":
            return day - timedelta(days=day.weekday())
        case "P1M":
            return day.replace(day=1)
        case "P1Y":
            return day.replace(month=1, day=1)
        case _:
            return day


def _next(granularity: Granularity, day: date) -> date:
    match granularity:
        case "P1W":
            return day + timedelta(days=7)
        case "P1M":
            return (day + timedelta(days=31)).replace(day=1)
        case "P1Y":
            return day.replace(year=day.year + 1)
        case _:
            return day + timedelta(days=1)
