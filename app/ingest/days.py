"""The layout `days`: a row for each day, a column for each of its intervals.

The columns are named by times (00:00, 00:30, or 00:00-00:30), or numbered from 1. Where clocks
change, a day has fewer or more of them: empty cells are no intervals, and a repeated time may have
a second column.
"""

import re
from collections.abc import Iterator, Sequence

import polars as pl

from app.ingest.cells import ReadCounts, as_cells
from app.ingest.faults import FormatError, Refusals
from app.ingest.options import ImportOptions
from app.ingest.rows import (
    by_quantity,
    cell_at,
    chosen_rows,
    complete_rows,
    frame_columns,
    open_table,
)
from app.ingest.source import SourceFile
from app.ingest.table import HeaderKind

TIME_NAME = re.compile(
    r"(?P<time>\d{1,2}:\d{2})(:00)?(\s*(-|–|to)\s*\d{1,2}:\d{2}(:00)?)?(\s*(\(2\)|\*|bis|b))?"
)
NUMBER_NAME = re.compile(
    r"(hh|h|p|sp|period|settlement period|interval)?[ _]?(?P<number>\d{1,3})", re.I
)
LEAST = 20  # columns of a day
MANY = 400


def read_days(
    source: SourceFile, options: ImportOptions, refusals: Refusals, counts: ReadCounts
) -> Iterator[pl.DataFrame]:
    """Yield the cells of a file that has one row for each day."""
    table = open_table(source, options, OF_DAYS)
    columns, numbered = _intervals(table.header) or ([], False)
    _refuse_other_intervals(len(columns), options)
    shared = frame_columns(table, options)
    place = 0
    for rows in table.rows:
        days = chosen_rows(complete_rows(rows, table, refusals), table, options)
        counts.read += rows.height
        counts.ignored += rows.height - days.height
        cells = days.select(
            pl.col("line").cast(pl.Int64),
            *(expression.alias(name) for name, expression in shared.items()),
            pl.concat_list([cell_at(at) for at, _ in columns]).alias("values"),
            pl.lit([name for _, name in columns]).alias("names"),
        ).explode("values", "names")
        cells = cells.filter(pl.col("values").is_not_null() & (pl.col("values") != ""))
        if numbered:
            cells = cells.with_columns(number=pl.col("names").cast(pl.Int64))
        else:
            cells = cells.with_columns(time=pl.concat_str("time", "names", separator=" "))
        direction = options.direction or "import"
        cells = cells.with_columns(
            pl.int_range(place, place + pl.len()).alias("place"),
            pl.col("values").alias(direction),
            pl.col("values").alias("value"),
        )
        place += cells.height
        yield as_cells(by_quantity(cells, options))


def _intervals(header: Sequence[str]) -> tuple[list[tuple[int, str]], bool] | None:
    """Return the columns of intervals with their times or numbers, and whether they are numbers."""
    times = [
        (at, found["time"])
        for at, name in enumerate(header)
        if (found := TIME_NAME.fullmatch(name))
    ]
    if LEAST <= len(times) <= MANY:
        if times[0][1] not in ("00:00", "0:00") and times[-1][1] in ("00:00", "0:00"):
            times[-1] = (times[-1][0], "24:00")
        return times, False
    numbers = [
        (at, found["number"])
        for at, name in enumerate(header)
        if (found := NUMBER_NAME.fullmatch(name))
    ]
    if LEAST <= len(numbers) <= MANY and [int(number) for _, number in numbers] == list(
        range(1, len(numbers) + 1)
    ):
        return numbers, True
    return None


OF_DAYS = HeaderKind(
    lambda header: _intervals(header) is not None,
    "column named by a time of the day, and none are numbered from 1",
)


def _refuse_other_intervals(columns: int, options: ImportOptions) -> None:
    """Refuse a number of columns that a day of the options' interval does not have."""
    an_hour = 60 / options.minutes
    if not 22 * an_hour < columns < 26 * an_hour:
        likely = {24: "60m", 48: "30m", 96: "15m", 144: "10m", 288: "5m"}
        name = next(
            (name for many, name in likely.items() if abs(columns - many) <= many / 12), None
        )
        raise FormatError(
            f"a day has {columns} columns, which are no intervals of {options.minutes} minutes"
            + (f": --interval {name}" if name else "")
        )
