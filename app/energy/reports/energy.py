"""Energy per group and interval: one page of rows."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import polars as pl

from app.db.session import Connection
from app.energy import cursors, scope, sources
from app.energy.changes import SeenChanges
from app.energy.cursors import Position
from app.energy.formats import Format
from app.energy.groups import OF_RESIDENT, Groups
from app.energy.intervals import HALF_HOUR, Intervals, half_hour_from, moment
from app.energy.parameters import EnergyQuery
from app.energy.query import Page, Statement, energy
from app.energy.reading import Schema
from app.energy.reports.grouped import IntervalReport, Rows, is_few
from app.energy.response import DataVersion, RenderedReport, ReportRequest
from app.errors import Forbidden

RESIDENTS_KEEP_NO_COPY = (
    "changes, updated_since: ask for the whole period; only programs of an ESCO, which keep a copy"
    " of its figures, can ask for what has changed."
)
# If more parts of a period than this have changed, return one part that covers them all.
MOST_RUNS = 20
CHANGED = (
    "select lower(part) as first, upper(part) as last"
    " from unnest(flows.changed_since(%s, %s::pg_snapshot, tstzrange(%s, %s), %s::text[],"
    " %s::uuid[], %s::uuid[])) as part"
)


@dataclass(frozen=True)
class EnergyReport(IntervalReport):
    """A validated request for energy; `limit` (rows) is None where the response is not paged."""

    query: EnergyQuery
    after: Position | None
    limit: int | None

    VALUES: ClassVar[Schema] = {"import_kwh": pl.Float64, "export_kwh": pl.Float64}

    async def render(
        self, request: ReportRequest, connection: Connection, version: DataVersion
    ) -> RenderedReport:
        """Find the groups and return the rows."""
        if self.scope.sources is OF_RESIDENT and (self.query.changes or self.query.updated_since):
            raise Forbidden(RESIDENTS_KEEP_NO_COPY)
        groups, available = await self.groups(connection, version)
        runs = [(0, len(self.intervals))]
        if (self.query.changes or self.query.updated_since) and len(self.intervals):
            runs = await self._changed(connection, request, version)
        if not request.format.has_pages:
            self.cap(len(groups) * sum(stop - start for start, stop in runs), request.format)
        pages, is_cut = self._pages(groups, runs) if groups else ([], False)
        following = None
        if is_cut:
            index, group = divmod(pages[-1][1] - 1, len(groups))
            position = Position(self.intervals.bounds[index], groups.keys[group])
            following = cursors.write(position, request.fingerprint, request.services.keys)

        async def last_members() -> dict[str, Any]:
            token = version.seen and version.seen.token(request.services.keys)
            return {"next": following, "next_changes": token}

        return RenderedReport(
            self._frames(connection, groups, request.format, pages),
            {"granularity": self.query.granularity} | self.members(version, available),
            last_members,
            self.key_names(request.format),
            available,
            following,
            self.clock_version(),
            partial(self.few_rows, connection, groups, request.format, pages)
            if request.format.name == "json" and is_few(pages)
            else None,
        )

    async def _frames(
        self, connection: Connection, groups: Groups, form: Format, pages: list[Rows]
    ) -> AsyncGenerator[pl.DataFrame, None]:
        async for rows, _ in self.rows(connection, groups, form, pages):
            yield rows

    def statement(self, groups: Groups, part: Intervals, page: Page) -> Statement:
        """Return the SQL of the energy of a page."""
        asked = self.query
        ranges = sources.choose(asked.granularity, asked.zone(), part, groups.cuts)
        return energy(groups, part, asked.granularity, ranges, page)

    def _pages(self, groups: Groups, runs: list[Rows]) -> tuple[list[Rows], bool]:
        """Return the row indexes of this page, and whether more pages follow."""
        start, count = self._first(groups), len(groups)
        pages: list[Rows] = []
        left = self.limit
        for first, last in ((max(a * count, start), b * count) for a, b in runs):
            if first >= last:
                continue
            end = last if left is None else min(last, first + left)
            if end > first:
                pages.append((first, end))
            if end < last:
                return pages, True
            left = None if left is None else left - (end - first)
        return pages, False

    def _first(self, groups: Groups) -> int:
        """Return the row index at which the page begins."""
        if self.after is None:
            return 0
        bounds = self.intervals.bounds
        if self.after.interval not in bounds:
            raise RuntimeError("a cursor of this request names an interval it does not have")
        return bounds.index(self.after.interval) * len(groups) + groups.after(self.after.key)

    async def _changed(
        self, connection: Connection, request: ReportRequest, version: DataVersion
    ) -> list[Rows]:
        """Return the intervals in which figures of any group have changed since."""
        intervals, seen = self.intervals, None
        if self.query.changes is not None:
            seen = SeenChanges.read(self.query.changes, request.services.keys)
            if seen is None or version.seen is None or seen.cluster != version.seen.cluster:
                return [(0, len(intervals))]
        period = moment(intervals.first), moment(intervals.last)
        cursor = await connection.execute(
            CHANGED,
            (
                self.query.updated_since,
                seen and seen.snapshot,
                *period,
                request.dimensions,
                *await scope.touched(connection, self.scope),
            ),
        )
        runs: list[Rows] = []
        for row in await cursor.fetchall():
            last = intervals.index(half_hour_from(row["last"]) - HALF_HOUR) + 1
            first = intervals.index(int(row["first"].timestamp()))
            if runs and first <= runs[-1][1]:
                first = runs.pop()[0]
            runs.append((first, last))
        return runs if len(runs) <= MOST_RUNS else [(runs[0][0], runs[-1][1])]
