"""The way of a file into the database, from its bytes to the summary."""

from collections.abc import Callable
from typing import Any, BinaryIO, Protocol

import polars as pl
import psycopg

from app.ingest.bounds import Bounds, read_bounds
from app.ingest.cells import ReadCounts
from app.ingest.checks import Checks
from app.ingest.clocks import Clocks
from app.ingest.faults import FormatError, Refusals
from app.ingest.half_hours import check_times, interval_name, to_half_hours
from app.ingest.layouts import LAYOUTS
from app.ingest.load import Loader
from app.ingest.options import ImportOptions
from app.ingest.preview import preview_staged
from app.ingest.profiles import with_profile
from app.ingest.registers import check_register, find_registers
from app.ingest.source import SourceFile, open_source
from app.ingest.summary import ImportSummary
from app.ingest.times import read_times
from app.ingest.values import ENERGY_COLUMNS, read_values

LARGEST_BYTES = 8 << 30  # of a file, decompressed
ReadProgress = Callable[[int], None]
DEFAULTS = Bounds()


class Stage(Protocol):
    """A place for half-hours."""

    def stage(self, half_hours: pl.DataFrame) -> None:
        """Take a frame of half-hours."""


def import_data(
    connection: psycopg.Connection[Any],
    data: BinaryIO,
    options: ImportOptions,
    *,
    dry_run: bool = False,
    as_caller: bool = False,
    largest_bytes: int = LARGEST_BYTES,
    progress: ReadProgress = lambda rows: None,
) -> ImportSummary:
    """Write the energy in a file into registers: all in one transaction, or nothing.

    Half-hours already stored with the same energy are counted as unchanged and not written again. A
    dry run writes nothing, and its summary has a preview. `as_caller` is for the transaction of a
    caller, who sees and writes one ESCO's registers alone. `progress` is called with the rows read
    so far. UnknownRegister if a register does not exist; FormatError if the file does not fit the
    options, or has more than `largest_bytes` when decompressed.
    """
    summary, refusals = ImportSummary(), Refusals()
    with (
        open_source(data, options, largest=largest_bytes) as source,
        connection.transaction() as transaction,
    ):
        options = with_profile(source, options)
        check_register(connection, options)
        loader = Loader(
            connection,
            refusals,
            reads=options.reads,
            # Formats with both directions have a row for each.
            parts=options.quantity_column is not None or options.layout not in ("rows", "days"),
            as_caller=as_caller,
        )
        bounds = read_bounds(connection)
        stage_source(source, options, loader, refusals, summary, progress, bounds)
        loader.judge(find_registers(connection, loader.keys, options), summary)
        summary.refused_rows = refusals.count
        summary.refused = sorted(refusals.rows, key=lambda row: row.line)
        if refusals.count:
            raise psycopg.Rollback(transaction)
        if dry_run:
            schema = "api" if as_caller else "flows"
            summary.preview = preview_staged(connection, options.timezone or "UTC", schema)
            raise psycopg.Rollback(transaction)
        loader.write(summary)
    return summary


def stage_source(
    source: SourceFile,
    options: ImportOptions,
    loader: Stage,
    refusals: Refusals,
    summary: ImportSummary,
    progress: ReadProgress = lambda rows: None,
    bounds: Bounds = DEFAULTS,
) -> None:
    """Read a source frame by frame and stage its half-hours; `progress` gets the rows so far."""
    checks, clocks, counts = Checks(options), Clocks(options, refusals), ReadCounts()

    def stage(cells: pl.DataFrame) -> None:
        cells = check_times(cells, options, refusals, bounds)
        unknown = pl.all_horizontal(pl.col(name).is_null() for name in ENERGY_COLUMNS)
        cells = refusals.take(cells, unknown & ~pl.col("said_unknown"), lambda row: "has no energy")
        summary.unknown += cells.filter(unknown).height
        loader.stage(to_half_hours(cells.filter(~unknown), options))

    for found in LAYOUTS[options.layout](source, options, refusals, counts):
        cells = read_times(found, options, refusals)
        checks.observe_times(cells)
        cells = read_values(cells, options, refusals, bounds)
        checks.observe_values(cells)
        stage(clocks.place(cells))
        progress(counts.read)
    if counts.read and counts.read == counts.ignored:
        raise FormatError(
            f"none of the {counts.read:,} rows is energy that is asked for: all are left out, by"
            " --where or --quantity, or as another kind of energy"
        )
    interval = checks.finish()
    rest = clocks.finish({name: series.ascending for name, series in checks.series.items()})
    if rest is not None:
        stage(rest)
    summary.found = source.found
    if interval is not None and not options.reads:
        summary.found.append(f"interval {interval_name(interval)}")
    summary.interval = interval_name(interval) if interval else None
    summary.read, summary.ignored = counts.read, counts.ignored
    summary.skipped, summary.once = clocks.skipped, clocks.taken_as_first
