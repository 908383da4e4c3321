"""Layouts by name: each reads the cells of a file of its form."""

from collections.abc import Callable, Iterator

import polars as pl

from app.ingest.cells import ReadCounts
from app.ingest.days import read_days
from app.ingest.espi import read_espi
from app.ingest.faults import Refusals
from app.ingest.nem import read_nem12, read_nem13
from app.ingest.options import ImportOptions
from app.ingest.rows import read_rows
from app.ingest.source import SourceFile

LayoutReader = Callable[[SourceFile, ImportOptions, Refusals, ReadCounts], Iterator[pl.DataFrame]]
LAYOUTS: dict[str, LayoutReader] = {
    "rows": read_rows,
    "days": read_days,
    "nem12": read_nem12,
    "nem13": read_nem13,
    "espi": read_espi,
}
