"""Half-hours: parts of them are marked to be summed, longer intervals are spread over them."""

from datetime import UTC, datetime

import polars as pl

from app.ingest.bounds import Bounds
from app.ingest.faults import Refusals
from app.ingest.options import INTERVAL_NAMES, ImportOptions
from app.ingest.values import ENERGY_COLUMNS, row_minutes

HALF_HOUR_MINUTES = 30


def check_times(
    cells: pl.DataFrame, options: ImportOptions, refusals: Refusals, bounds: Bounds
) -> pl.DataFrame:
    """Refuse times outside the bounds, and such as are not on the file's interval."""
    start = pl.col("start")
    latest = datetime.now(UTC) + bounds.ahead
    outside = (start < bounds.earliest) | (start > latest)
    cells = refusals.take(
        cells, outside, lambda row: bounds.describe_time(row["time"], row["start"])
    )
    if options.reads:
        return cells
    step = pl.min_horizontal(row_minutes(options), HALF_HOUR_MINUTES)
    no_energy = pl.col("said_unknown") & pl.all_horizontal(
        pl.col(name).is_null() for name in ENERGY_COLUMNS
    )
    off = start.dt.epoch("s") % (step * 60) != 0
    return refusals.take(
        cells,
        # Loggers note at any time that they know nothing.
        (off | (start.dt.microsecond() != 0)) & ~no_energy,
        lambda row: f"{row['time']} is not on the {_grid(row['minutes'] or options.minutes)}",
    )


def _grid(minutes: int) -> str:
    return "hour or half-hour" if minutes >= HALF_HOUR_MINUTES else f"interval of {minutes} minutes"


def to_half_hours(cells: pl.DataFrame, options: ImportOptions) -> pl.DataFrame:
    """Return cells of half-hours, or of parts of them that are summed when all are there.

    They have the columns `timestamp`, `import`, `export`, `minutes` and `estimated`.
    """
    cells = cells.with_columns(minutes=row_minutes(options))
    long = pl.col("minutes") > HALF_HOUR_MINUTES
    if options.reads or not cells.select(long.any()).item():
        return cells.with_columns(timestamp=pl.col("start"))
    whole = cells.filter(~long).with_columns(timestamp=pl.col("start"))
    cells = cells.filter(long)
    half_hours = pl.datetime_ranges("start", "stop", "30m", closed="left")
    spread = cells.with_columns(timestamp=half_hours, minutes=pl.lit(HALF_HOUR_MINUTES, pl.Int64))
    spread = spread.with_columns(
        count=pl.col("timestamp").list.len().cast(pl.Int64),
        part=pl.int_ranges(0, pl.col("timestamp").list.len().cast(pl.Int64)),
    ).explode("timestamp", "part")
    # The first half-hours get a tick more if the energy does not divide, so that the sum stays.
    even = (
        (pl.col(name) // pl.col("count") + (pl.col("part") < pl.col(name) % pl.col("count"))).alias(
            name
        )
        for name in ENERGY_COLUMNS
    )
    spread = spread.with_columns(*even, estimated=pl.lit(value=True)).drop("count", "part")
    return pl.concat([whole, spread.select(whole.columns)])


def interval_name(minutes: int) -> str:
    """Return an interval as the option names it, or in minutes."""
    return INTERVAL_NAMES.get(minutes, f"{minutes} minutes")
