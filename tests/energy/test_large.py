"""Reports over thousands of groups: they are read in parts, with little memory besides."""

import asyncio
import tracemalloc
from collections.abc import AsyncGenerator, Iterator
from typing import Any
from uuid import UUID

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.energy.groups import Groups, assemble, register_groups
from app.energy.intervals import Intervals
from app.energy.reports.completeness import SPANS, whole_groups

COUNT = 20_000
DAY = Intervals([1767225600, 1767312000], 1767225600, 1767312000)
Spans = list[tuple[int, int]]


@given(spans=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9))), size=st.integers(1, 5))
def test_groups_are_whole_wherever_a_part_ends(spans: Spans, size: int) -> None:
    spans.sort()

    async def parts() -> AsyncGenerator[pl.DataFrame, None]:
        for start in range(0, len(spans), size):
            rows: list[tuple[Any, ...]] = [
                (*span, 1, 0, [], []) for span in spans[start : start + size]
            ]
            yield pl.DataFrame(rows, schema=SPANS, orient="row")

    async def collect() -> list[tuple[int, int, Spans]]:
        return [
            (first, stop, rows.select("g", "start_at").rows())
            async for first, stop, rows in whole_groups(parts(), 10)
        ]

    pieces = asyncio.run(collect())
    assert [span for _, _, found in pieces for span in found] == spans
    assert [group for first, stop, _ in pieces for group in range(first, stop)] == list(range(10))
    assert all(first <= group < stop for first, stop, found in pieces for group, _ in found)


def rows_of_circuits() -> Iterator[tuple[Any, ...]]:
    """Rows of as many circuits as a large ESCO has."""
    for number in range(COUNT):
        yield DAY.first, DAY.last, 1, 1, None, None, "", True, str(UUID(int=number))


def rows_of_registers() -> Iterator[tuple[Any, ...]]:
    """Rows of as many registers as a large ESCO has."""
    for number in range(COUNT):
        register = str(UUID(int=number))
        yield DAY.first, DAY.last, register, register, f"{number:05}", register


@pytest.mark.parametrize("of", ["circuits", "registers"])
def test_groups_need_little_memory_besides_their_own(of: str) -> None:
    tracemalloc.start()
    try:
        made: Groups | None = (
            assemble(rows_of_circuits(), ["circuit"], everything=False)
            if of == "circuits"
            else register_groups(rows_of_registers())
        )
        size, peak = tracemalloc.get_traced_memory()
        assert made is not None
        assert len(made.runs(DAY)) == len(made) == COUNT
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - size < 2**20
    assert after - size < 2**20
