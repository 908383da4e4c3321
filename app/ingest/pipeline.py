"""The way of a file into the database, from its text to the summary."""

from typing import Any, Protocol, TextIO
from uuid import UUID

import polars as pl
import psycopg

from app.ingest.checks import Checks
from app.ingest.clocks import Clocks
from app.ingest.faults import FormatError, Refusals
from app.ingest.half_hours import check_times, interval_name, to_half_hours
from app.ingest.layouts import read_rows
from app.ingest.load import Loader, UnknownRegister
from app.ingest.options import ImportOptions
from app.ingest.summary import ImportSummary
from app.ingest.times import read_times
from app.ingest.values import ENERGY_COLUMNS, read_values


class Stage(Protocol):
    """A place for half-hours."""

    def stage(self, half_hours: pl.DataFrame) -> None:
        """Take a frame of half-hours."""


def import_text(
    connection: psycopg.Connection[Any], text: TextIO, options: ImportOptions, *, largest_kwh: float
) -> ImportSummary:
    """Write the energy in a text into registers: all in one transaction, or nothing.

    Half-hours already stored with the same energy are counted as unchanged and not written again.
    UnknownRegister if a register does not exist; FormatError if the file does not fit the options.
    """
    summary, refusals = ImportSummary(), Refusals()
    with connection.transaction() as transaction:
        loader = Loader(
            connection,
            refusals,
            largest_kwh=largest_kwh,
            reads=options.reads,
            parts=options.minutes < 30 and not options.reads,
        )
        registers = _registers(connection, options)
        stage_text(text, options, loader, refusals, summary)
        loader.judge(dict.fromkeys(loader.keys, registers), summary)
        summary.refused_rows = refusals.count
        summary.refused = sorted(refusals.rows, key=lambda row: row.line)
        if refusals.count:
            raise psycopg.Rollback(transaction)
        loader.write(summary)
    return summary


def _registers(connection: psycopg.Connection[Any], options: ImportOptions) -> UUID:
    if options.register_id is None:
        raise FormatError("name the register with --register")
    known = connection.execute(
        "select from flows.meter_registers where register_id = %s", (options.register_id,)
    )
    if known.fetchone() is None:
        raise UnknownRegister(f"there is no register {options.register_id}")
    return options.register_id


def stage_text(
    text: TextIO,
    options: ImportOptions,
    loader: Stage,
    refusals: Refusals,
    summary: ImportSummary,
) -> None:
    """Read the text frame by frame and stage its half-hours."""
    checks, clocks = Checks(options), Clocks(options, refusals)

    def stage(cells: pl.DataFrame) -> None:
        cells = check_times(cells, options, refusals)
        unknown = pl.all_horizontal(pl.col(name).is_null() for name in ENERGY_COLUMNS)
        cells = refusals.take(cells, unknown & ~pl.col("said_unknown"), lambda row: "has no energy")
        summary.unknown += cells.filter(unknown).height
        loader.stage(to_half_hours(cells.filter(~unknown), options))

    refused = refusals.count
    for found in read_rows(text, options, refusals):
        summary.read += found.height + refusals.count - refused
        cells = found.with_columns(key=pl.lit(None, pl.String), estimated=pl.lit(value=False))
        cells = read_values(cells, options, refusals)
        cells = read_times(cells, options, refusals)
        checks.observe(cells)
        stage(clocks.place(cells))
        refused = refusals.count
    summary.read += refusals.count - refused
    interval = checks.finish()
    rest = clocks.finish({key: series.ascending for key, series in checks.series.items()})
    if rest is not None:
        stage(rest)
    summary.interval = interval_name(interval) if interval else None
    summary.skipped, summary.once = clocks.skipped, clocks.taken_as_first
