"""Choice of the stored aggregates to sum for a period; nothing here queries the database."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from zoneinfo import ZoneInfo

from app.energy.intervals import Granularity, Instant, Intervals, calendar

UTC_ZONE = ZoneInfo("UTC")
LONDON = ZoneInfo("Europe/London")


@dataclass(frozen=True, slots=True)
class Source:
    """A relation of `api` with one row per circuit and unit of time."""

    relation: str
    column: str
    zone: ZoneInfo
    unit: str

    def end(self, start: str) -> str:
        """Return SQL for the end of a unit, given SQL for its start."""
        return f"date_add({start}, interval '{self.unit}', '{self.zone.key}')"


HALF_HOURS = Source("api.circuit_interval_hh", "timestamp", UTC_ZONE, "30 minutes")
DAYS = Source("api.circuit_interval_daily", "day", UTC_ZONE, "1 day")
LONDON_DAYS = Source("api.circuit_interval_daily_london", "day", LONDON, "1 day")
MONTHS = Source("api.circuit_interval_monthly", "month", UTC_ZONE, "1 month")


@dataclass(frozen=True, slots=True)
class SourceRange:
    """Whole units of a source, from `first` up to `last` (exclusive)."""

    source: Source
    first: Instant
    last: Instant


def choose(
    granularity: Granularity, zone: ZoneInfo, intervals: Intervals, cuts: Iterable[Instant] = ()
) -> list[SourceRange]:
    """Cover the period with the coarsest stored units that fit into its intervals, between cuts.

    Stored days serve any zone whose days begin, in this period, when London's (or UTC's) do. Other
    zones, and days cut by the period, are summed from half-hours.
    """
    levels: list[tuple[Source, list[Instant]]] = []
    if granularity in ("P1M", "P1Y"):
        months = _bounds("P1M", zone, intervals)
        if months == _bounds("P1M", UTC_ZONE, intervals):
            levels.append((MONTHS, months))
    if granularity != "PT30M" and len(intervals):
        days = _bounds("P1D", zone, intervals)
        for source in (LONDON_DAYS, DAYS):
            if days == _bounds("P1D", source.zone, intervals):
                levels.append((source, days))
                break
    first, last = intervals.first, intervals.last
    edges = sorted({first, last, *(cut for cut in cuts if first < cut < last)})
    return [part for start, end in pairwise(edges) for part in _cover(levels, start, end)]


def _bounds(granularity: Granularity, zone: ZoneInfo, intervals: Intervals) -> list[Instant]:
    return list(calendar(granularity, zone, intervals.first, intervals.last))


def _cover(
    levels: list[tuple[Source, list[Instant]]], first: Instant, last: Instant
) -> list[SourceRange]:
    if first >= last:
        return []
    if not levels:
        return [SourceRange(HALF_HOURS, first, last)]
    (source, bounds), *finer = levels
    whole = [bound for bound in bounds if first <= bound <= last]
    if len(whole) < 2:
        return _cover(finer, first, last)
    return [
        *_cover(finer, first, whole[0]),
        SourceRange(source, whole[0], whole[-1]),
        *_cover(finer, whole[-1], last),
    ]
