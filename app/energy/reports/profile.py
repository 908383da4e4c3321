"""The average day of each group: mean and quantiles of each half-hour of the local day."""

from typing import Any, ClassVar

import polars as pl

from app.db.session import Connection
from app.energy.formats import Format
from app.energy.groups import Groups
from app.energy.intervals import DAY, HALF_HOUR, moment, offsets
from app.energy.parameters import DayClass, ProfileQuery, unique
from app.energy.query import Statement, array, derived_half_hours, epoch, half_hours
from app.energy.reading import Schema
from app.energy.reports.grouped import GroupedTable
from app.energy.sql_files import read_sql

DIRECTIONS = ("import", "export")
# Quantiles are of doubles, which hold neither larger numbers nor all smaller ones: those are left
# out, and taken as nothing.
AS_DOUBLE = "case when {0} < 1e-12 then 0 when {0} < 1e308 then {0} end"
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

    SCHEMA: ClassVar[Schema] = {
        "g": pl.Int32, "days": pl.String, "time": pl.String,
        **{f"{name}_{way}_kwh": pl.Float64 for way in DIRECTIONS for name in STATISTICS},
        "expected_intervals": pl.Int32, "present_intervals": pl.Int32,
        "derived_intervals": pl.Int32, "complete_intervals": pl.Int32,
    }  # fmt: skip

    def rows_of_group(self) -> int:
        """Return 48 rows for each class of days, and for each month if months are asked for."""
        months = (self.intervals.last - self.intervals.first) // SHORTEST_MONTH + 2
        classes = set(self.query.days)
        return 48 * (len(classes - {"month"}) + months * ("month" in classes))

    async def columns(
        self, form: Format, connection: Connection, groups: Groups, found: pl.DataFrame
    ) -> list[pl.Series]:
        """Return the columns of the rows that the statement returned."""
        found = found.sort("g", "days", "time")
        covered = await self.coverage(connection, groups) if groups else {}
        group = found["g"]
        meters = [
            pl.Series(
                name,
                [getattr(covered[number], name) for number in range(len(groups))],
                dtype=pl.Int32,
            )[group]
            for name in ("meters_expected", "meters_reporting")
        ]
        return [
            *(key[group] for key in await self.keys(connection, groups, form)),
            *(found[name] for name in found.columns if name != "g"),
            *meters,
        ]

    def statement(self, groups: Groups) -> Statement:
        """Return the SQL that groups half-hours by group, class of days and time of day."""
        hours = half_hours(groups, self.intervals)
        parameters = hours.parameters | self._parameters(groups)
        is_derived, derived = "false", ""
        if groups.derived:
            found = derived_half_hours(groups, self.intervals)
            parameters = found.parameters | parameters
            is_derived = "derived.g is not null"
            derived = (
                f"left join ({found.sql}) as derived (began, g)"
                " on hh.g = derived.g and hh.start = derived.began"
            )
        classes = ", ".join(CLASSES[name] for name in unique(self.query.days))
        statistics = ", ".join(
            f"round(avg({way}_kwh), 6) as mean_{way},"
            " percentile_cont(array[0.1, 0.5, 0.9]) within group (order by"
            f" {AS_DOUBLE.format(f'{way}_kwh')}) as p_{way}"
            for way in DIRECTIONS
        )
        values = ", ".join(
            f"mean_{way} as mean_{way}_kwh, "
            + ", ".join(
                f"round(p_{way}[{n}]::numeric, 6) as {name}_{way}_kwh"
                for n, name in enumerate(STATISTICS[1:], start=1)
            )
            for way in DIRECTIONS
        )
        return Statement(
            read_sql("profile").format(
                local=LOCAL,
                classes=classes,
                place=f"(({epoch('hh.start')} - %(first_at)s) / {HALF_HOUR})::integer",
                statistics=statistics,
                values=values,
                half_hours=hours.sql,
                is_derived=is_derived,
                derived=derived,
            ),
            parameters,
        )

    def _parameters(self, groups: Groups) -> dict[str, Any]:
        whole, bounds = self.intervals, self.intervals.bounds
        clock = offsets(self.query.zone(), whole.first, whole.last)
        runs = [(group, run) for group, its in enumerate(groups.runs(whole)) for run in its]
        return {
            "first": moment(whole.first),
            "last": moment(whole.last),
            "first_at": whole.first,
            "half_hours": (whole.last - whole.first) // HALF_HOUR,
            "class_count": len(set(self.query.days)),
            "changes": [moment(instant) for instant, _ in clock],
            "offsets": [seconds for _, seconds in clock],
            "run_groups": array(group for group, _ in runs),
            "run_starts": array(bounds[run.start] for _, run in runs),
            "run_stops": array(bounds[run.stop] for _, run in runs),
            "run_registers": array(run.registers + run.more for _, run in runs),
            "group_count": len(groups),
        }
