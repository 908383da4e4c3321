"""Gaps in the half-hours of each register while it is mapped to a circuit."""

from collections.abc import AsyncIterator
from itertools import groupby
from typing import Any

from app.db.session import Connection
from app.energy.answer import Question, State, Written, period
from app.energy.grouped import Grouped
from app.energy.groups import Dimension, Groups, Span
from app.energy.intervals import HALF_HOUR, Instant, label
from app.energy.query import Statement, epoch, of_registers, spans
from app.energy.rows import reading, table

BY: list[Dimension] = ["meter", "register"]
COLUMNS = (*BY, "expected_intervals", "present_intervals", "share_present", "gaps")
Gap = tuple[Instant, Instant]


class CompletenessReport(Grouped):
    """A validated request for gaps; its groups are registers and its intervals half-hours."""

    OF_CIRCUITS = False

    async def write(self, question: Question, connection: Connection, state: State) -> Written:
        """Find the registers and return the body."""
        groups, available = await self.groups(connection, state)
        members = period(self.query, state, available)
        rows = self._rows(question, connection, groups)
        return Written(table(question.format, members, COLUMNS, rows), available)

    async def _rows(
        self, question: Question, connection: Connection, groups: Groups
    ) -> AsyncIterator[list[tuple[str, ...]]]:
        """Yield rows, one per register, also for spans of which the database returns nothing."""
        waiting = sorted(groups.spans, key=lambda span: (span.group, span.first))
        found: dict[tuple[int, Instant], tuple[int, list[Gap]]] = {}
        done = 0
        async with reading(connection, _statement(groups)) as batches:
            async for rows in batches:
                for group, first, present, starts, ends in rows:
                    found[group, first] = present, list(zip(starts, ends, strict=True))
                # Rows come in the order of the spans. The last register of a batch may continue in
                # the next batch, so it waits.
                last = rows[-1][0]
                ready = [span for span in waiting[done:] if span.group < last]
                done += len(ready)
                yield self._written(question, groups, ready, found)
        yield self._written(question, groups, waiting[done:], found)

    def _written(
        self,
        question: Question,
        groups: Groups,
        ready: list[Span],
        found: dict[tuple[int, Instant], tuple[int, list[Gap]]],
    ) -> list[tuple[str, ...]]:
        form, written = question.format, []
        for group, mapped in groupby(ready, key=lambda span: span.group):
            expected = present = 0
            gaps: list[dict[str, Any]] = []
            for span in mapped:
                expected += (span.last - span.first) // HALF_HOUR
                nothing: tuple[int, list[Gap]] = (0, [(span.first, span.last)])
                count, missing = found.pop((group, span.first), nothing)
                present += count
                gaps += [self._gap(*gap) for gap in missing]
            key = (form.text(value) for value in groups.keys[group])
            share = round(present / expected, 6)
            numbers = (form.number(number) for number in (expected, present, share))
            written.append((*key, *numbers, form.value(gaps)))
        return written

    def _gap(self, first: Instant, last: Instant) -> dict[str, Any]:
        zone = self.query.zone()
        return {
            "start": label(first, zone),
            "end": label(last, zone),
            "missing_intervals": (last - first) // HALF_HOUR,
        }


def _statement(groups: Groups) -> Statement:
    """Build the SQL of one row per span, ordered by group and start of the span.

    Columns: group, start of the span, half-hours present, starts of gaps, ends of gaps.
    """
    gaps = ", ".join(
        f"coalesce(array_agg({epoch(bound)} order by before) filter (where following > before), "
        "'{}')"
        for bound in ("before", "following")
    )
    firsts = [span.first for span in groups.spans]
    lasts = [span.last for span in groups.spans]
    half_hours = of_registers(groups)
    # Most registers have no gap, which their number of half-hours tells.
    return Statement(
        "with counted as materialized (select s.g, s.first, s.last, count(*) as half_hours,"
        " count(*) * interval '30 minutes' < s.last - s.first as gaps"
        f"{half_hours} group by 1, 2, 3),"
        ' present as (select s.g, s.first, s.last, r."timestamp"'
        f"{half_hours} and (s.g, s.first) in (select g, first from counted where gaps)),"
        " around as (select g, first, \"timestamp\" + interval '30 minutes' as before,"
        ' lead("timestamp", 1, last) over (partition by g, first order by "timestamp")'
        " as following from present"
        # There may be a gap before the first half-hour, too.
        ' union all select g, first, first, min("timestamp") from present group by g, first)'
        f" select g, {epoch('first')}, half_hours, {gaps} from counted left join around"
        " using (g, first) group by g, first, half_hours order by g, first",
        spans(groups, min(firsts, default=0), max(lasts, default=0)),
    )
