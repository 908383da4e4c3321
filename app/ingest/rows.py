"""The layout `rows`: a row for each interval, or for each of its values."""

from collections.abc import Iterator

import polars as pl

from app.ingest.cells import ReadCounts, as_cells
from app.ingest.faults import FormatError, Refusals
from app.ingest.options import ImportOptions, Quantity
from app.ingest.source import SourceFile
from app.ingest.table import HeaderKind, Table, named, read_table, widest_line

# Quantities that say what they are; others are named by options.
KNOWN_QUANTITIES = {"import": Quantity("import"), "export": Quantity("export")}


def read_rows(
    source: SourceFile, options: ImportOptions, refusals: Refusals, counts: ReadCounts
) -> Iterator[pl.DataFrame]:
    """Yield the cells of a file that has one row for each interval, or for each of its values."""
    if options.quantity_column is None and not (options.import_column or options.export_column):
        raise FormatError(
            "name the energy column with --import-column or --export-column; the file has: "
            + named(widest_line(source.text, source.delimiter or options.delimiter))
        )
    table = open_table(source, options)
    columns = frame_columns(table, options)
    place = 0
    for rows in table.rows:
        complete = chosen_rows(complete_rows(rows, table, refusals), table, options)
        counts.read += rows.height
        cells = complete.select(
            pl.col("line").cast(pl.Int64),
            pl.int_range(place, place + pl.len()).alias("place"),
            *(expression.alias(name) for name, expression in columns.items()),
        )
        place += complete.height
        cells = by_quantity(cells, options)
        counts.ignored += rows.height - cells.height
        yield as_cells(cells)


def open_table(source: SourceFile, options: ImportOptions, kind: HeaderKind | None = None) -> Table:
    """Return the table of a source with the columns that the options name; say what was found."""
    delimiter = source.delimiter or options.delimiter
    table = read_table(source.text, delimiter, options.columns, kind)
    if delimiter is None and table.delimiter != ",":
        source.found.append(f"delimiter {table.delimiter!r}")
    if table.line > 1:
        source.found.append(f"header in line {table.line}")
    if options.time_column is None and (at := _default_time(table, options)):
        source.found.append(f"times in column {table.header[at]!r}")
    return table


def _default_time(table: Table, options: ImportOptions) -> int:
    """Return the index of the first column that no option names."""
    taken = {table.position(name) for name in options.columns}
    left = (at for at in range(len(table.header)) if at not in taken)
    if (at := next(left, None)) is None:
        raise FormatError("name the column of the time with --time-column")
    return at


def frame_columns(table: Table, options: ImportOptions) -> dict[str, pl.Expr]:
    """Return the expressions of the cells' columns over a table's `cells`."""
    nothing = pl.lit(None, dtype=pl.String)

    def cell(name: str | None) -> pl.Expr:
        return nothing if name is None else cell_at(table.position(name))

    time = cell(options.time_column)
    if options.time_column is None:
        time = cell_at(_default_time(table, options))
    if options.date_column is not None:
        # A date in a spreadsheet is a time at midnight.
        day = cell(options.date_column).str.strip_suffix(" 00:00:00")
        time = pl.concat_str(day, time, separator=" ")
    key = cell(options.register_column or options.serial_column)
    quality = cell(options.quality_column).str.to_lowercase()
    words = [word.casefold() for word in options.estimated]
    return {
        # A number of many digits is often written as a formula, ="123", to be kept as text.
        "key": key.str.strip_chars("=\"'"),
        "time": time,
        "import": cell(options.import_column),
        "export": cell(options.export_column),
        "unit": nothing,
        "estimated": quality.is_in(words).fill_null(value=False),
        "number": _number(options, table),
        "quantity": cell(options.quantity_column),
        "value": cell(options.value_column),
    }


def _number(options: ImportOptions, table: Table) -> pl.Expr:
    """Return the number of the interval in its day; -1 for a text that is none."""
    if options.number_column is None:
        return pl.lit(None, pl.Int64)
    text = cell_at(table.position(options.number_column)).str.strip_suffix(":00")
    return text.cast(pl.Int64, strict=False).fill_null(-1)


def cell_at(at: int) -> pl.Expr:
    """Return the text of a cell of `cells`; null where a row is shorter."""
    return pl.col("cells").list.get(at, null_on_oob=True).str.strip_chars()


def complete_rows(rows: pl.DataFrame, table: Table, refusals: Refusals) -> pl.DataFrame:
    """Refuse rows of other than the header's columns; a delimiter at the end of lines is none."""
    width = len(table.header)
    length = pl.col("cells").list.len()
    beyond = pl.col("cells").list.slice(width).list.join("").str.strip_chars() != ""
    fault = (length < table.width) | ((length > width) & beyond)
    return refusals.take(
        rows, fault, lambda row: f"has {len(row['cells'])} columns, the header has {width}"
    )


def chosen_rows(rows: pl.DataFrame, table: Table, options: ImportOptions) -> pl.DataFrame:
    """Return the rows that `where` asks for; several values of a column are alternatives."""
    for column in dict.fromkeys(column for column, _ in options.where):
        values = [value for name, value in options.where if name == column]
        rows = rows.filter(cell_at(table.position(column)).is_in(values))
    return rows


def by_quantity(cells: pl.DataFrame, options: ImportOptions) -> pl.DataFrame:
    """Put the values of a long format into `import` or `export`, and name the series."""
    if options.quantity_column is None:
        return cells.drop("quantity", "value").with_columns(series=pl.col("key"))
    known = KNOWN_QUANTITIES | options.quantity
    folded = {name.casefold(): quantity for name, quantity in known.items()}
    for name in cells["quantity"].unique(maintain_order=True):
        if (name or "").casefold() not in folded:
            raise FormatError(
                f"the quantity {name!r} is not known: --quantity {name!r}=import (or export, or"
                " skip) says what it is"
            )
    quantity = pl.col("quantity").str.to_lowercase()
    directions = {name: of.direction for name, of in folded.items()}
    units = {name: of.unit for name, of in folded.items()}
    cells = cells.with_columns(
        direction=quantity.replace_strict(directions, return_dtype=pl.String),
        unit=quantity.replace_strict(units, return_dtype=pl.String),
    ).filter(pl.col("direction") != "skip")
    return cells.with_columns(
        *(
            pl.when(pl.col("direction") == name).then(pl.col("value")).alias(name)
            for name in ("import", "export")
        ),
        series=pl.concat_str(pl.col("key").fill_null(""), "direction", separator=" "),
    ).drop("quantity", "value", "direction")
