"""The average day of each group: mean and quantiles of each half-hour of the local day."""

from collections.abc import Callable
from typing import Any

from app.db.session import Connection
from app.energy.formats import Format
from app.energy.grouped import GroupedTable
from app.energy.groups import Groups
from app.energy.intervals import DAY, moment, offsets
from app.energy.parameters import DayClass, ProfileQuery, unique
from app.energy.query import Statement, array, half_hours

DIRECTIONS = ("import", "export")
STATISTICS = ("mean", "p10", "p50", "p90")
# The offsets of the zone are passed by the gateway, so that its days are those of all of /v1
# whatever time zone data PostgreSQL has.
LOCAL = (
    "(start at time zone 'UTC' + make_interval(secs =>"
    " (%(offsets)s::integer[])[width_bucket(start, %(changes)s::timestamptz[])]))"
)
SHORTEST_MONTH = 28 * DAY
# Class of days → SQL of the value of `days` for a half-hour; null if the class excludes it.
CLASSES: dict[DayClass, str] = {
    "all": "'all'",
    "weekday": "case when extract(isodow from local) < 6 then 'weekday' end",
    "weekend": "case when extract(isodow from local) > 5 then 'weekend' end",
    "month": "to_char(local, 'YYYY-MM')",
}


class ProfileReport(GroupedTable):
    """A validated request for the average day."""

    query: ProfileQuery

    COLUMNS = (
        "days", "time", *(f"{name}_{way}_kwh" for way in DIRECTIONS for name in STATISTICS),
        "expected_intervals", "present_intervals", "complete_intervals", "meters_expected",
        "meters_reporting",
    )  # fmt: skip

    def rows_of_group(self) -> int:
        """Return 48 rows for each class of days, and for each month if months are asked for."""
        months = (self.intervals.last - self.intervals.first) // SHORTEST_MONTH + 2
        classes = set(self.query.days)
        return 48 * (len(classes - {"month"}) + months * ("month" in classes))

    async def writer(
        self, form: Format, connection: Connection, groups: Groups
    ) -> Callable[[tuple[Any, ...]], tuple[str, ...]]:
        """Return the writer of (group, days, time, values of the other columns but for meters)."""
        covered = await self.coverage(connection, groups)
        meters = {
            group: (str(its.meters_expected), str(its.meters_reporting))
            for group, its in covered.items()
        }
        return lambda row: (
            form.text(row[1]),
            form.text(row[2]),
            *map(form.number, row[3:]),
            *meters[row[0]],
        )

    def statement(self, groups: Groups) -> Statement:
        """Return the SQL that groups half-hours by group, class of days and time of day."""
        hours = half_hours(groups, self.intervals)
        parameters = hours.parameters | self._parameters(groups)
        classes = ", ".join(CLASSES[name] for name in unique(self.query.days))
        by_day = f"cross join lateral unnest(array[{classes}]) as days where days is not null"
        statistics = ", ".join(
            f"round(avg({way}_kwh), 6) as mean_{way},"
            f" percentile_cont(array[0.1, 0.5, 0.9]) within group (order by {way}_kwh) as p_{way}"
            for way in DIRECTIONS
        )
        values = ", ".join(
            f"mean_{way}, " + ", ".join(f"round(p_{way}[{n}]::numeric, 6)" for n in (1, 2, 3))
            for way in DIRECTIONS
        )
        return Statement(
            f"with calendar as (select days, to_char(local, 'HH24:MI') as time,"
            f" count(*) as expected from (select {LOCAL} as local"
            " from generate_series(%(first)s::timestamptz, %(last)s::timestamptz"
            " - interval '30 minutes', '30 minutes') as start) as slots"
            f" {by_day} group by 1, 2), statistics as ("
            f"select g, days, to_char(local, 'HH24:MI') as time, {statistics},"
            " count(*) as present, count(*) filter (where complete) as complete from ("
            f"select hh.g, {LOCAL} as local, hh.import_kwh, hh.export_kwh,"
            " hh.register_intervals >= era.needed and era.needed > 0 as complete"
            f" from ({hours.sql}) as hh inner join unnest(%(era_groups)s::integer[],"
            " %(era_firsts)s::bigint[], %(era_lasts)s::bigint[],"
            " %(era_registers)s::integer[]) as era (g, first, last, needed)"
            " on hh.g = era.g and hh.start >= to_timestamp(era.first)"
            " and hh.start < to_timestamp(era.last)"
            f") as half_hours {by_day} group by 1, 2, 3)"
            f" select g, days, time, {values}, expected, coalesce(present, 0),"
            " coalesce(complete, 0) from calendar"
            " cross join generate_series(0, %(group_count)s - 1) as g"
            " left join statistics using (g, days, time) order by g, days, time",
            parameters,
        )

    def _parameters(self, groups: Groups) -> dict[str, Any]:
        whole, bounds = self.intervals, self.intervals.bounds
        clock = offsets(self.query.zone(), whole.first, whole.last)
        eras = [(group, era) for group, its in enumerate(groups.eras(whole)) for era in its]
        return {
            "first": moment(whole.first),
            "last": moment(whole.last),
            "changes": [moment(instant) for instant, _ in clock],
            "offsets": [seconds for _, seconds in clock],
            "era_groups": array(group for group, _ in eras),
            "era_firsts": array(bounds[era.first] for _, era in eras),
            "era_lasts": array(bounds[era.last] for _, era in eras),
            "era_registers": array(era.registers + era.more for _, era in eras),
            "group_count": len(groups),
        }
