"""Numbers and units: texts become energy in ten-millionths of a kWh, whole numbers."""

import polars as pl

from app.ingest.bounds import LARGEST_READ, describe_energy
from app.ingest.faults import Refusals
from app.ingest.options import ImportOptions

KWH_PER_UNIT = {
    "Wh": 1e-3, "kWh": 1.0, "MWh": 1e3,
    "J": 1 / 3.6e6, "kJ": 1 / 3.6e3, "MJ": 1 / 3.6, "GJ": 1e3 / 3.6,
}  # fmt: skip
KW_PER_UNIT = {"W": 1e-3, "kW": 1.0, "MW": 1e3}
# A tenth of a milliwatt-hour: finer than any meter counts, coarser than binary rounding errors.
TICKS_PER_KWH = 10_000_000
NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?$"
ENERGY_COLUMNS = ("import", "export")


def read_values(cells: pl.DataFrame, options: ImportOptions, refusals: Refusals) -> pl.DataFrame:
    """Convert the texts in `import` and `export` to ticks; null where the value is unknown.

    Negative values and texts that are no numbers are refused. Adds `said_unknown`: true for rows in
    which a word for null stands, not just nothing.
    """
    words = [word.casefold() for word in options.null]
    unknown = {name: pl.col(name).str.to_lowercase().is_in(words) for name in ENERGY_COLUMNS}
    cells = cells.with_columns(
        said_unknown=pl.any_horizontal(*unknown.values()).fill_null(value=False)
    )
    for name in ENERGY_COLUMNS:
        text = pl.col(name)
        cells = cells.with_columns(
            pl.when(unknown[name] | (text == "")).then(None).otherwise(text).alias(name)
        )
        cells = cells.with_columns(_plain(text, options).alias("plain"))
        cells = refusals.take(
            cells,
            text.is_not_null() & ~pl.col("plain").str.contains(NUMBER),
            lambda row, name=name: _not_a_number(row[name], options),  # type: ignore[misc]
        )
        cells = cells.with_columns(
            number=pl.col("plain").cast(pl.Float64, strict=False) * _kwh(options)
        )
        cells = refusals.take(
            cells,
            pl.col("number") < 0,
            lambda row, name=name: (  # type: ignore[misc]
                f"{row[name]} is negative; import and export are separate columns"
            ),
        )
        cells = refusals.take(
            cells,
            pl.col("number") > LARGEST_READ,
            lambda row: describe_energy(row["number"], LARGEST_READ),
        )
        ticks = (pl.col("number") * TICKS_PER_KWH).round().cast(pl.Int64)
        cells = cells.with_columns(ticks.alias(name)).drop("plain", "number")
    return cells


def _kwh(options: ImportOptions) -> float:
    """Return the kWh in one of the file's units, over the interval if it is a power."""
    if options.unit in KW_PER_UNIT:
        return KW_PER_UNIT[options.unit] * options.minutes / 60
    return KWH_PER_UNIT[options.unit]


def _plain(text: pl.Expr, options: ImportOptions) -> pl.Expr:
    if options.decimal == ",":
        return text.str.replace_all(".", "?", literal=True).str.replace_all(",", ".", literal=True)
    return text


def _not_a_number(text: str, options: ImportOptions) -> str:
    comma = options.decimal == "." and "." not in text and text.count(",") == 1
    number = (
        text.replace(",", "").lstrip("+-").isascii() and text.replace(",", "").strip("+-").isdigit()
    )
    hint = "; --decimal , reads a decimal comma" if comma and number else ""
    return f"{text!r} is not a number{hint}"
