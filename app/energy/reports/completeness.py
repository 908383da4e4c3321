"""Gaps in the half-hours of each register while it is mapped to a circuit."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial

import orjson
import polars as pl

from app.db.session import Connection
from app.energy.formats import Format
from app.energy.frames import Clock, at_instants
from app.energy.groups import Dimension, Groups
from app.energy.intervals import HALF_HOUR
from app.energy.query import Statement, of_registers, spans
from app.energy.reading import Schema, computed, read_parts
from app.energy.reports.grouped import Grouped
from app.energy.response import DataVersion, RenderedReport, ReportRequest, period
from app.energy.sql_files import read_sql

BY: list[Dimension] = ["meter", "register"]
SPANS: Schema = {
    "g": pl.Int32, "start_at": pl.Int64, "half_hours": pl.Int32, "derived": pl.Int32,
    "starts": pl.List(pl.Int64), "ends": pl.List(pl.Int64),
}  # fmt: skip
ASKED: Schema = {"g": pl.Int32, "start_at": pl.Int64, "end_at": pl.Int64}


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
        keys = await self.keys(connection, groups, form)
        asked = pl.DataFrame(
            {
                "g": [span.group for span in groups.spans],
                "start_at": [span.first for span in groups.spans],
                "end_at": [span.last for span in groups.spans],
            },
            schema=ASKED,
        ).sort("g", "start_at")
        parts = read_parts(connection, _statement(groups), SPANS, "g, start_at")
        async with aclosing(whole_groups(parts, len(groups))) as pieces:
            async for first, stop, found in pieces:
                own = asked.filter(pl.col("g").is_between(first, stop, closed="left"))
                work = partial(self._rows, form, [key[first:stop] for key in keys], own, found)
                yield await computed(stop - first, work)

    def _rows(
        self, form: Format, keys: list[pl.Series], asked: pl.DataFrame, found: pl.DataFrame
    ) -> pl.DataFrame:
        """Return the rows of some groups, by their keys, their spans and what was found of them."""
        found = asked.join(found, on=["g", "start_at"], how="left", maintain_order="left")
        length = (pl.col("end_at") - pl.col("start_at")) // HALF_HOUR
        # Of a span without a half-hour nothing is returned: all of it is missing.
        starts = pl.col("starts").fill_null(pl.concat_list("start_at"))
        ends = pl.col("ends").fill_null(pl.concat_list("end_at"))
        registers = found.group_by("g", maintain_order=True).agg(
            length.sum().cast(pl.Int32).alias("expected_intervals"),
            pl.col("half_hours").sum().alias("present_intervals"),
            pl.col("derived").sum().alias("derived_intervals"),
            starts.explode(),
            ends.explode(),
        )
        counts = registers.select("expected_intervals", "present_intervals", "derived_intervals")
        share = (counts["present_intervals"] / counts["expected_intervals"]).round(6)
        gaps = self._gaps(form, registers)
        return pl.DataFrame([*keys, *counts, share.alias("share_present"), gaps])

    def _gaps(self, form: Format, registers: pl.DataFrame) -> pl.Series:
        """Return the list of gaps of each register; in CSV, as JSON."""
        clock = Clock(self.query.zone(), form)
        gaps = registers.select("g", "starts", "ends").explode("starts", "ends").drop_nulls()
        first, last = gaps["starts"], gaps["ends"]
        each = pl.DataFrame(
            [
                clock.times(at_instants(first)).alias("start"),
                clock.times(at_instants(last)).alias("end"),
                ((last - first) // HALF_HOUR).cast(pl.Int32).alias("missing_intervals"),
            ]
        ).to_struct("gaps")
        listed = (
            pl.DataFrame([gaps["g"], each]).group_by("g", maintain_order=True).agg(pl.col("gaps"))
        )
        lists = registers.select("g").join(listed, on="g", how="left", maintain_order="left")[
            "gaps"
        ]
        lists = lists.fill_null([])
        if form.name != "csv":
            return lists
        texts = [orjson.dumps(own).decode() for own in lists.to_list()]
        return pl.Series("gaps", texts, dtype=pl.String)


async def whole_groups(
    parts: AsyncGenerator[pl.DataFrame, None], count: int
) -> AsyncGenerator[tuple[int, int, pl.DataFrame], None]:
    """Yield the rows of parts, in the order of their groups `g`, for whole groups.

    They come as (first group, stop, rows); all of the `count` groups come, one time at least.
    """
    first, rest = 0, pl.DataFrame(schema=SPANS)
    async with aclosing(parts):
        async for part in parts:
            found = pl.concat((rest, part))
            # The next part may have more of the last group.
            stop: int = found.select(pl.col("g").max()).item()
            if first < stop:
                yield first, stop, found.filter(pl.col("g") < stop)
            first, rest = stop, found.filter(pl.col("g") >= stop)
    yield first, count, rest


def _statement(groups: Groups) -> Statement:
    """Build the SQL of one row per span: its group, its start, its half-hours and its gaps."""
    firsts = [span.first for span in groups.spans]
    lasts = [span.last for span in groups.spans]
    derived = "count(*) filter (where r.derived)" if groups.derived else "0"
    return Statement(
        read_sql("completeness").format(half_hours=of_registers(groups), derived=derived),
        spans(groups, min(firsts, default=0), max(lasts, default=0)),
    )
