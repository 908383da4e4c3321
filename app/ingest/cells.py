"""Cells: the frames that layouts make of a file, whatever its form.

Their columns are `line`; `place`, the order of the cells in the file; `key`, of the register;
`series`, within which times follow one another; `time`, a text; `number`, of the interval in the
day of `time`; `at`, the point in time if the layout knows it; `minutes`, the interval if the file
states it; `import` and `export`, texts; `unit`, null for that of the options; and `estimated`.
"""

from dataclasses import dataclass

import polars as pl

INSTANT = pl.Datetime("us", "UTC")
CELLS: dict[str, pl.DataType | type[pl.DataType]] = {
    "line": pl.Int64, "place": pl.Int64, "key": pl.String, "series": pl.String, "time": pl.String,
    "number": pl.Int64, "at": INSTANT, "minutes": pl.Int64, "import": pl.String,
    "export": pl.String, "unit": pl.String, "estimated": pl.Boolean,
}  # fmt: skip


@dataclass(slots=True)
class ReadCounts:
    """Rows that a layout has read, and rows of those that are not of interest."""

    read: int = 0
    ignored: int = 0


def as_cells(frame: pl.DataFrame) -> pl.DataFrame:
    """Return a frame with exactly the columns of cells; those that it does not have are null."""
    missing = (pl.lit(None, of).alias(name) for name, of in CELLS.items() if name not in frame)
    return frame.with_columns(*missing).select(
        pl.col(name).cast(of) if of in (pl.Int64,) else pl.col(name) for name, of in CELLS.items()
    )
