"""Numbers and units: texts become energy in ten-millionths of a kWh, whole numbers."""

import re

import polars as pl

from app.ingest.bounds import Bounds, describe_energy
from app.ingest.faults import Refusals
from app.ingest.options import NULL_WORDS, Direction, ImportOptions

KWH_PER_UNIT = {
    "Wh": 1e-3, "kWh": 1.0, "MWh": 1e3,
    "J": 1 / 3.6e6, "kJ": 1 / 3.6e3, "MJ": 1 / 3.6, "GJ": 1e3 / 3.6,
}  # fmt: skip
KW_PER_UNIT = {"W": 1e-3, "kW": 1.0, "MW": 1e3}
# A tenth of a milliwatt-hour: finer than any meter counts, coarser than binary rounding errors.
TICKS_PER_KWH = 10_000_000
NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?$"
ENERGY_COLUMNS = ("import", "export")


def read_values(
    cells: pl.DataFrame, options: ImportOptions, refusals: Refusals, bounds: Bounds
) -> pl.DataFrame:
    """Convert the texts in `import` and `export` to ticks; null where the value is unknown.

    Negative values and texts that are no numbers are refused. Adds `said_unknown`: true for rows in
    which a word for null stands, not just nothing.
    """
    words = [word.casefold() for word in (*NULL_WORDS, *options.null)]
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
        if options.sign is None:
            cells = refusals.take(
                cells,
                pl.col("number") < 0,
                lambda row, name=name: (  # type: ignore[misc]
                    f"{row[name]} is negative; import and export are separate columns, or one"
                    " that --sign explains"
                ),
            )
        cells = refusals.take(
            cells,
            pl.col("number").abs() >= bounds.largest_number,
            lambda row: describe_energy(row["number"], bounds.largest_number),
        )
        ticks = (pl.col("number") * TICKS_PER_KWH).round().cast(pl.Int64)
        cells = cells.with_columns(ticks.alias(name)).drop("plain", "number")
    return cells if options.sign is None else _unsigned(cells, options.sign)


def _unsigned(cells: pl.DataFrame, sign: Direction) -> pl.DataFrame:
    """Part a signed column: a half-hour has energy in one direction and none in the other."""
    signed = pl.coalesce(*ENERGY_COLUMNS)
    positive, negative = signed.clip(lower_bound=0), (-signed).clip(lower_bound=0)
    imported, exported = (positive, negative) if sign == "import" else (negative, positive)
    return cells.with_columns(imported.alias("import"), exported.alias("export"))


def _kwh(options: ImportOptions) -> pl.Expr:
    """Return the kWh in one of each row's units, over the interval if it is a power."""
    unit = pl.col("unit").fill_null(options.unit)
    hours = pl.when(unit.is_in(list(KW_PER_UNIT))).then(row_minutes(options) / 60).otherwise(1.0)
    return unit.replace_strict(KWH_PER_UNIT | KW_PER_UNIT, return_dtype=pl.Float64) * hours


def row_minutes(options: ImportOptions) -> pl.Expr:
    """Return the minutes of each row's interval: those that the file states, or the options'."""
    return pl.col("minutes").fill_null(options.minutes)


def _plain(text: pl.Expr, options: ImportOptions) -> pl.Expr:
    if options.thousands is not None:
        # A separator that does not part three digits is a mistake, or a decimal separator.
        mark = re.escape(options.thousands)
        grouped = text.str.contains(rf"^[+-]?\d{{1,3}}({mark}\d{{3}})+([^{mark}\d]\d*)?$")
        apart = text.str.replace_all(options.thousands, "", literal=True)
        text = pl.when(grouped).then(apart).otherwise(text)
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
