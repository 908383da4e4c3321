"""Layouts: the places of times and values in a file.

Each layout yields frames of cells, whose columns are: `line`; `place`, the order of the cells in
the file; `time`, a text; `import` and `export`, texts.
"""

from collections.abc import Iterator
from typing import TextIO

import polars as pl

from app.ingest.faults import FormatError, Refusals
from app.ingest.options import ImportOptions
from app.ingest.table import Table, named, read_table


def read_rows(text: TextIO, options: ImportOptions, refusals: Refusals) -> Iterator[pl.DataFrame]:
    """Yield the cells of a file that has one row for each interval."""
    wanted = [
        name
        for name in (options.time_column, options.import_column, options.export_column)
        if name is not None
    ]
    table = read_table(text, options.delimiter, wanted)
    if options.import_column is None and options.export_column is None:
        raise FormatError(
            "name the energy column with --import-column or --export-column; the file has: "
            + named(table.header)
        )
    columns = {
        "time": 0 if options.time_column is None else table.position(options.time_column),
        "import": options.import_column and table.position(options.import_column),
        "export": options.export_column and table.position(options.export_column),
    }
    place = 0
    for rows in table.rows:
        complete = _complete(rows, table, refusals)
        yield complete.select(
            pl.col("line").cast(pl.Int64),
            pl.int_range(place, place + pl.len()).alias("place"),
            *(_cell(at).alias(name) for name, at in columns.items()),
        )
        place += complete.height


def _cell(at: int | str | None) -> pl.Expr:
    if not isinstance(at, int):
        return pl.lit(None, dtype=pl.String)
    return pl.col("cells").list.get(at, null_on_oob=True).str.strip_chars()


def _complete(rows: pl.DataFrame, table: Table, refusals: Refusals) -> pl.DataFrame:
    """Refuse rows of other than the header's columns; a delimiter at the end of lines is none."""
    width = len(table.header)
    length = pl.col("cells").list.len()
    beyond = pl.col("cells").list.slice(width).list.join("").str.strip_chars() != ""
    fault = (length < table.width) | ((length > width) & beyond)
    return refusals.take(
        rows, fault, lambda row: f"has {len(row['cells'])} columns, the header has {width}"
    )
