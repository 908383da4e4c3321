"""Gaps in the half-hours of each register while it is mapped to a circuit."""

from collections.abc import AsyncGenerator

import orjson
import polars as pl

from app.db.session import Connection
from app.energy.formats import Format
from app.energy.frames import Clock, at_instants
from app.energy.groups import Dimension, Groups
from app.energy.intervals import HALF_HOUR, Instant
from app.energy.query import Statement, of_registers, spans
from app.energy.reading import Schema, read_frame
from app.energy.reports.grouped import Grouped
from app.energy.response import DataVersion, RenderedReport, ReportRequest, period
from app.energy.sql_files import read_sql

BY: list[Dimension] = ["meter", "register"]
SPANS: Schema = {
    "g": pl.Int32, "start_at": pl.Int64, "half_hours": pl.Int32, "derived": pl.Int32,
    "starts": pl.List(pl.Int64), "ends": pl.List(pl.Int64),
}  # fmt: skip
Gap = tuple[Instant, Instant]


class CompletenessReport(Grouped):
    """A validated request for gaps; its groups are registers and its intervals half-hours."""

    OF_CIRCUITS = False

    async def render(
        self, request: ReportRequest, connection: Connection, version: DataVersion
    ) -> RenderedReport:
        """Find the registers and return the rows."""
        groups, available = await self.groups(connection, version)
        self.cap(len(groups), request.format)
        members = period(self.query, version, available)
        frames = self._frames(request.format, connection, groups)
        return RenderedReport(frames, members, available=available)

    async def _frames(
        self, form: Format, connection: Connection, groups: Groups
    ) -> AsyncGenerator[pl.DataFrame, None]:
        """Yield rows, one per register, also for spans of which the database returns nothing."""
        found: dict[tuple[int, Instant], tuple[int, int, list[Gap]]] = {}
        rows = await read_frame(connection, _statement(groups), SPANS)
        for group, first, count, estimates, starts, ends in rows.iter_rows():
            found[group, first] = count, estimates, list(zip(starts, ends, strict=True))
        expected, present, derived = ([0] * len(groups) for _ in range(3))
        gaps = []
        for span in sorted(groups.spans, key=lambda span: (span.group, span.first)):
            expected[span.group] += (span.last - span.first) // HALF_HOUR
            nothing: tuple[int, int, list[Gap]] = (0, 0, [(span.first, span.last)])
            count, estimates, missing = found.get((span.group, span.first), nothing)
            present[span.group] += count
            derived[span.group] += estimates
            gaps += [(span.group, *gap) for gap in missing]
        yield pl.DataFrame(
            [
                *await self.keys(connection, groups, form),
                pl.Series("expected_intervals", expected, dtype=pl.Int32),
                pl.Series("present_intervals", present, dtype=pl.Int32),
                pl.Series("derived_intervals", derived, dtype=pl.Int32),
                pl.Series(
                    "share_present",
                    [round(a / b, 6) for a, b in zip(present, expected, strict=True)],
                    dtype=pl.Float64,
                ),
                self._gaps(form, gaps, len(groups)),
            ]
        )

    def _gaps(
        self, form: Format, gaps: list[tuple[int, Instant, Instant]], count: int
    ) -> pl.Series:
        """Return the list of gaps of each register; in CSV, as JSON."""
        clock = Clock(self.query.zone(), form)
        group, first, last = (
            pl.Series([gap[number] for gap in gaps], dtype=pl.Int64) for number in range(3)
        )
        each = pl.DataFrame(
            [
                clock.times(at_instants(first)).alias("start"),
                clock.times(at_instants(last)).alias("end"),
                ((last - first) // HALF_HOUR).cast(pl.Int32).alias("missing_intervals"),
            ]
        ).to_struct("gap")
        listed = (
            pl.DataFrame([group.alias("group"), each.alias("gaps")])
            .group_by("group", maintain_order=True)
            .all()
        )
        every = pl.int_range(count, eager=True).alias("group").to_frame()
        lists = every.join(listed, on="group", how="left", maintain_order="left")["gaps"]
        lists = lists.fill_null([])
        if form.name != "csv":
            return lists
        texts = [orjson.dumps(own).decode() for own in lists.to_list()]
        return pl.Series("gaps", texts, dtype=pl.String)


def _statement(groups: Groups) -> Statement:
    """Build the SQL of one row per span: its group, its start, its half-hours and its gaps."""
    firsts = [span.first for span in groups.spans]
    lasts = [span.last for span in groups.spans]
    derived = "count(*) filter (where r.derived)" if groups.derived else "0"
    return Statement(
        read_sql("completeness").format(half_hours=of_registers(groups), derived=derived),
        spans(groups, min(firsts, default=0), max(lasts, default=0)),
    )
