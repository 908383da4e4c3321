"""Balance of generation and consumption: self-consumption, and energy from and to the grid."""

from collections.abc import AsyncGenerator
from dataclasses import asdict
from typing import Any, ClassVar

import polars as pl

from app.db.session import Connection
from app.energy.formats import Format
from app.energy.groups import Groups
from app.energy.intervals import Intervals
from app.energy.parameters import BalanceQuery
from app.energy.query import (
    Page,
    Statement,
    energy,
    half_hours,
    row_index,
    row_index_parameters,
)
from app.energy.reading import Schema
from app.energy.reports.grouped import Covered, IntervalReport
from app.energy.response import DataVersion, RenderedReport, ReportRequest
from app.energy.sources import choose
from app.energy.sql_files import read_sql

SUMS = ("generation_kwh", "consumption_kwh", "self_consumption_kwh")
FIGURES = (
    *SUMS, "from_grid_kwh", "to_grid_kwh", "self_consumption_ratio", "self_sufficiency_ratio",
)  # fmt: skip
# Digits of the totals, which are sums of doubles: far below what a meter tells apart.
DIGITS = 9
Figure = float | None


class Totals:
    """The sums of each group over the whole period."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._sums: dict[int, list[Figure]] = {}

    def add(self, found: pl.DataFrame) -> None:
        """Add the rows that the database returned."""
        group = (pl.col("row_index") % self._count).alias("group")
        sums = [
            pl.when(pl.col(name).count() > 0).then(pl.col(name).sum()).alias(name) for name in SUMS
        ]
        for number, *parts in found.group_by(group).agg(sums).iter_rows():
            before = self._sums.setdefault(number, [None] * len(SUMS))
            for which, part in enumerate(parts):
                if part is not None:
                    before[which] = (before[which] or 0.0) + part

    def figures(self, group: int) -> dict[str, Figure]:
        """Return the `FIGURES` of a group: kWh, then ratios rounded to 6 digits."""
        sums = self._sums.get(group, [None] * len(SUMS))
        generated, consumed, used = (kwh if kwh is None else round(kwh, DIGITS) for kwh in sums)
        figures: tuple[Figure, ...] = (generated, consumed, None, None, None, None, None)
        if generated is not None and consumed is not None:
            used = used or 0.0
            figures = (
                generated,
                consumed,
                used,
                round(consumed - used, DIGITS),
                round(generated - used, DIGITS),
                round(used / generated, 6) if generated else None,
                round(used / consumed, 6) if consumed else None,
            )
        return dict(zip(FIGURES, figures, strict=True))


class BalanceReport(IntervalReport):
    """A validated request for a balance."""

    query: BalanceQuery

    VALUES: ClassVar[Schema] = dict.fromkeys(FIGURES, pl.Float64)

    async def render(
        self, request: ReportRequest, connection: Connection, version: DataVersion
    ) -> RenderedReport:
        """Find the groups and return the rows."""
        groups, available = await self.groups(connection, version)
        self.cap(len(groups) * len(self.intervals), request.format)
        totals = Totals(len(groups))

        async def last_members() -> dict[str, Any]:
            covered = await self.coverage(connection, groups) if groups else {}
            return {"totals": self._listed(groups, totals, covered)}

        return RenderedReport(
            self._frames(connection, groups, request.format, totals),
            {"granularity": self.query.granularity} | self.members(version, available),
            last_members,
            self.key_names(request.format),
            available,
            version=self.clock_version(),
        )

    async def _frames(
        self, connection: Connection, groups: Groups, form: Format, totals: Totals
    ) -> AsyncGenerator[pl.DataFrame, None]:
        whole = (0, len(groups) * len(self.intervals))
        pages = [whole] if whole[1] else []
        async for rows, found in self.rows(connection, groups, form, pages):
            if form.has_members and groups:  # other formats have no place for totals
                totals.add(found)
            yield rows

    def _listed(
        self, groups: Groups, totals: Totals, covered: dict[int, Covered]
    ) -> list[dict[str, Any]]:
        """Return one dict per group: its keys, its figures over the whole period, its coverage."""
        return [
            dict(zip(self.by, key, strict=True)) | totals.figures(group) | asdict(covered[group])
            for group, key in enumerate(groups.keys)
        ]

    def statement(self, groups: Groups, part: Intervals, page: Page) -> Statement:
        """Return the SQL of the balance of some intervals."""
        asked, at = self.query, row_index("start", part)
        if part.are_half_hours:
            hours = half_hours(groups, part, meters=True)
            sums = read_sql("balance_of_half_hours").format(row_index=at, half_hours=hours.sql)
            parameters = hours.parameters | row_index_parameters(groups, part)
            return Statement(read_sql("balance").format(sums=sums), parameters)
        hours = half_hours(groups, part)
        ranges = choose(asked.granularity, asked.zone(), part, groups.cuts)
        reported = energy(groups, part, asked.granularity, ranges, page)
        sums = read_sql("balance_of_intervals").format(
            row_index=at, half_hours=hours.sql, reported=reported.sql
        )
        return Statement(
            read_sql("balance").format(sums=sums), hours.parameters | reported.parameters
        )
