"""Rows made as columns equal rows made one by one, in every format."""

import csv
import io
import json
import random
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib import resources
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.energy.formats import Format
from app.energy.frames import COUNTS, Clock, Grid, at_instants, key_columns
from app.energy.groups import Groups, Mapping, gather
from app.energy.intervals import Granularity, Intervals, half_hour_from, label, split
from app.energy.parameters import FormatName
from app.energy.query import Page
from app.energy.writers import INTERVAL, JsonWriter, with_local_times, writer
from app.memory import RETURNED_BYTES

LONDON = ZoneInfo("Europe/London")
START, END = datetime(2024, 3, 29, tzinfo=UTC), datetime(2024, 4, 2, tzinfo=UTC)
NOW = half_hour_from(END)
Found = dict[int, tuple[float | None, int, int]]


def groups(count: int, change: datetime) -> Groups:
    """Return `count` groups, of one register, two, and so on; the last one begins at `change`."""
    first, last = half_hour_from(START), half_hour_from(END)
    begins = [first] * (count - 1) + [half_hour_from(change)]
    return gather(
        Mapping(str(UUID(int=n)), register, register, begin, last, frozenset({(f"={n}",)}))
        for n, begin in enumerate(begins)
        for register in (str(UUID(int=10 * n + more)) for more in range(n + 1))
    )


def grid_of(of: Groups, form: FormatName) -> Grid:
    """Return a grid of groups by circuit."""
    return Grid(
        of, key_columns(list(of.keys), ["circuit"], Format(form)), LONDON, Format(form), NOW
    )


def frame_of(found: Found, order: Iterable[int]) -> pl.DataFrame:
    """Return what the database returns: kWh, half-hours over all registers and present ones.

    Half of those present are derived.
    """
    rows = [(index, *found[index], 1, found[index][2] // 2) for index in order]
    names = ("row_index", "import_kwh", *COUNTS)
    types = (pl.Int32, pl.Float64, pl.Int64, pl.Int32, pl.Int32, pl.Int32)
    return pl.DataFrame(rows, schema=dict(zip(names, types, strict=True)), orient="row")


def granularity_is_cut(parts: Intervals, index: int) -> bool:
    """Return whether the period begins or ends within an interval."""
    start, end = parts.bounds[index], parts.bounds[index + 1]
    return start < parts.first or (end > parts.last and not parts.are_half_hours)


def rows_one_by_one(of: Groups, parts: Intervals, found: Found) -> list[dict[str, Any]]:
    """Return the rows as a loop makes them."""
    rows = []
    for index in range(len(parts)):
        for group, key in enumerate(of.keys):
            kwh, registers, present = found.get(index * len(of) + group, (None, 0, 0))
            run = next(run for run in of.runs(parts)[group] if run.start <= index < run.stop)
            rows.append({
                "circuit": key[0],
                "interval_start": label(parts.bounds[index], LONDON),
                "interval_end": label(parts.bounds[index + 1], LONDON),
                "partial": granularity_is_cut(parts, index),
                "import_kwh": kwh,
                "expected_intervals": parts.expected(index),
                "present_intervals": present,
                "derived_intervals": present // 2,
                "meters_expected": run.meters,
                "meters_reporting": int(index * len(of) + group in found),
                "complete": run.complete(parts.expected(index), registers),
            })  # fmt: skip
    return rows


def body(form: FormatName, frames: Iterable[pl.DataFrame]) -> bytes:
    """Return a whole body."""
    writing = writer(Format(form), ("circuit",))
    pieces = [writing.begin({"a": 1}), *map(writing.add, frames), writing.end({"b": 2})]
    return b"".join(pieces)


@given(
    data=st.data(),
    count=st.integers(1, 4),
    granularity=st.sampled_from(["PT30M", "P1D"]),
    change=st.sampled_from([START, datetime(2024, 3, 30, 12, tzinfo=UTC)]),
)
def test_columns_equal_rows_made_one_by_one(
    data: st.DataObject, count: int, granularity: Granularity, change: datetime
) -> None:
    parts, of = split(granularity, LONDON, START, END), groups(count, change)
    page = Page(0, len(parts) * count)
    # Not `st.randoms`: each call of that is a draw, hundreds in an example.
    chance = random.Random(data.draw(st.integers(0, 2**32)))  # noqa: S311
    gaps = data.draw(st.sampled_from([0, 0.1, 0.9, 1]))
    found: Found = {
        index: (chance.choice([None, 0.0, 1.5]), chance.randrange(50), chance.randrange(48))
        for index in range(page.last)
        if chance.random() >= gaps
    }
    order = list(found)
    if data.draw(st.booleans()):
        chance.shuffle(order)
    grid = grid_of(of, "json")
    rows = grid.rows(frame_of(found, order), parts, page)
    assert rows.to_dicts() == rows_one_by_one(of, parts, found)
    few = grid.few_rows(frame_of(found, order).to_dict(as_series=False), parts, page)
    assert few == rows.to_dicts()
    assert JsonWriter().add_few(few) == JsonWriter().add(rows)


@pytest.mark.parametrize("indexes", [[0, 0, 2], [0, 2, -1], [0, 2, 192], [0, 2, 5, 4, 2]])
def test_a_duplicate_or_foreign_row_index_is_an_error(indexes: list[int]) -> None:
    parts = split("PT30M", LONDON, START, END)
    grid = grid_of(groups(1, START), "json")
    found = frame_of(dict.fromkeys(indexes, (1.0, 1, 1)), indexes)
    with pytest.raises(RuntimeError, match="outside the page"):
        grid.rows(found, parts, Page(0, 192))
    with pytest.raises(RuntimeError, match="outside the page"):
        grid.few_rows(found.to_dict(as_series=False), parts, Page(0, 192))


def test_every_format_has_the_same_rows() -> None:
    parts, of = split("PT30M", LONDON, START, END), groups(3, START)
    found: Found = {n: (n / 7, 1, 1) for n in range(0, 3 * len(parts), 2)}
    made = {}
    for form in ("json", "columns", "csv", "ndjson", "arrow", "parquet"):
        rows = grid_of(of, form).rows(frame_of(found, found), parts, Page(0, 3 * len(parts)))
        # In several frames, as long responses are.
        made[form] = body(form, rows.iter_slices(100))
    expected = rows_one_by_one(of, parts, found)
    whole = json.loads(made["json"])
    assert whole == {"a": 1, "rows": expected, "b": 2}
    assert [json.loads(line) for line in made["ndjson"].splitlines()] == expected
    lines = list(csv.DictReader(io.StringIO(made["csv"].decode())))
    assert [line["circuit"] for line in lines] == [f"'{row['circuit']}" for row in expected]
    for name in ("import_kwh", "meters_expected"):
        assert [line[name] and json.loads(line[name]) for line in lines] == [
            "" if row[name] is None else row[name] for row in expected
        ]
    for typed in (
        pl.read_ipc_stream(io.BytesIO(made["arrow"])), pl.read_parquet(io.BytesIO(made["parquet"])),
    ):  # fmt: skip
        assert typed.schema["interval_start"] == pl.Datetime("us", "Europe/London")
        texts = pl.col("interval_start", "interval_end").map_elements(
            lambda at: at.isoformat(), return_dtype=pl.String
        )
        assert typed.with_columns(texts).to_dicts() == expected


@pytest.mark.parametrize("form", ["json", "ndjson", "csv", "arrow"])
def test_a_piece_of_a_body_needs_no_memory_of_the_system(form: FormatName) -> None:
    """Rows with names, as wide as they mostly are."""
    parts, of = split("PT30M", LONDON, START, END), groups(12, START)
    found: Found = {n: (n / 7, 1, 1) for n in range(12 * len(parts))}
    rows = grid_of(of, form).rows(frame_of(found, found), parts, Page(0, 12 * len(parts)))
    names = [f"{name}_name" for name in ("circuit", "site", "property", "meter")]
    named = rows.with_columns(pl.lit("Number 12, Mill Street").alias(name) for name in names)
    writing = writer(Format(form), ("circuit",))
    assert named.height >= writing.ROWS
    assert len(writing.add(named.head(writing.ROWS))) < RETURNED_BYTES


def test_columns_name_each_interval_and_group_once() -> None:
    parts, of = split("P1D", LONDON, START, END), groups(2, START)
    found: Found = {n: (float(n), 48, 48) for n in range(2 * len(parts)) if n != 3}
    rows = grid_of(of, "columns").rows(frame_of(found, found), parts, Page(0, 2 * len(parts)))
    whole = json.loads(body("columns", [rows]))
    assert whole["intervals"]["interval_start"] == [
        label(bound, LONDON) for bound in parts.bounds[:-1]
    ]
    assert whole["intervals"]["expected_intervals"] == [48, 48, 46, 48, 2]
    assert [group["circuit"] for group in whole["groups"]] == ["=0", "=1"]
    assert whole["groups"][0]["import_kwh"] == [0, 2, 4, 6, 8]
    assert whole["groups"][1]["import_kwh"] == [1, None, 5, 7, 9]
    assert not set(INTERVAL) & whole["groups"][0].keys()
    assert (whole["a"], whole["b"]) == (1, 2)


@pytest.mark.parametrize("form", ["json", "csv", "ndjson", "arrow", "parquet", "columns"])
def test_no_rows_are_a_whole_body(form: FormatName) -> None:
    grid = grid_of(Groups([], [], None), form)
    nothing = grid.rows(frame_of({}, []), Intervals((), 0, 0), Page(0, 0))
    made = body(form, [nothing])
    match form:
        case "json":
            assert json.loads(made) == {"a": 1, "rows": [], "b": 2}
        case "columns":
            assert json.loads(made)["groups"] == []
        case "csv":
            assert made.decode().rstrip().split(",") == nothing.columns
        case "ndjson":
            assert made == b""
        case _:
            read = pl.read_parquet if form == "parquet" else pl.read_ipc_stream
            empty = read(io.BytesIO(made))
            assert (empty.height, empty.schema) == (0, nothing.schema)


def test_times_of_a_zone_that_polars_does_not_know_are_in_utc() -> None:
    with resources.files("tzdata.zoneinfo").joinpath("UTC").open("rb") as file:
        clock = Clock(ZoneInfo.from_file(file, key="Mars/Olympus"), Format("arrow"))
    (at,) = clock.times(at_instants(pl.Series([half_hour_from(START)])))
    assert (at, at.tzinfo) == (START, ZoneInfo("UTC"))


def test_local_times_of_the_repeated_hour_differ_by_their_offset() -> None:
    times = ["2024-10-27T01:30:00+01:00", "2024-10-27T01:30:00+00:00", None]
    frame = pl.DataFrame({"circuit": ["a", "b", "c"], "interval_start": times})
    assert with_local_times(frame).rows() == [
        ("a", "2024-10-27 01:30:00", "UTC+01:00"),
        ("b", "2024-10-27 01:30:00", "UTC+00:00"),
        ("c", None, None),
    ]
