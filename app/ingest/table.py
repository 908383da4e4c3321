"""Rows of a text of separated columns, in frames of a bounded number of rows."""

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import TextIO

import polars as pl

from app.ingest.faults import FormatError

BLOCK = 4 << 20  # characters that are cut into rows at once
ROWS = 100_000  # rows with quoted cells that are cut at once
NAMED = 400  # columns that a message names
HEAD = 60  # lines in which the header is looked for
DELIMITERS = (",", ";", "\t", "|")


@dataclass(frozen=True, slots=True)
class HeaderKind:
    """Headers for which `fits` is true; `lacking` says what others do not have."""

    fits: Callable[[Sequence[str]], bool]
    lacking: str


@dataclass(frozen=True, slots=True)
class Table:
    """A header in a line, and frames of rows: `line` and `cells` (a list of texts).

    Rows without any text are left out.
    """

    header: list[str]
    rows: Iterator[pl.DataFrame]
    delimiter: str
    line: int

    @property
    def width(self) -> int:
        """The number of columns up to the last named one."""
        named = [at for at, name in enumerate(self.header, start=1) if name]
        return max(named, default=0)

    def position(self, column: str) -> int:
        """Return the index of a column by its name; FormatError if there is not exactly one."""
        found = positions(self.header, column)
        if len(found) > 1:
            raise FormatError(
                f"there are {len(found)} columns {column!r}: name one as '{column} (1)' or so;"
                f" the file has: {named(self.header)}"
            )
        if not found:
            raise FormatError(f"there is no column {column!r}; the file has: {named(self.header)}")
        return found[0]


def positions(header: Sequence[str], column: str) -> list[int]:
    """Return the indexes of the columns of a name; `Usage (2)` is the second of the name Usage."""
    found = [at for at, name in enumerate(header) if name == column]
    found = found or [at for at, name in enumerate(header) if _same(name, column)]
    numbered = re.fullmatch(r"(.+) \(([1-9]\d*)\)", column.strip())
    if found or numbered is None:
        return found
    of_name, number = positions(header, numbered[1]), int(numbered[2])
    return of_name[number - 1 : number] if len(of_name) > 1 else []


def read_table(
    text: TextIO,
    delimiter: str | None,
    wanted: Sequence[str],
    kind: HeaderKind | None = None,
) -> Table:
    """Read a table whose header has the wanted columns; FormatError if the text has no such header.

    Lines before the header are passed over. Without `delimiter` it is the one that separates the
    wanted columns, or that a line like `sep=;` names. A header must be of the `kind`, if given.
    """
    head = list(islice(text, HEAD))
    if not any(line.strip() for line in head):
        raise FormatError("the file is empty")
    found = find_header(head, delimiter, wanted, kind)
    if found is not None:
        header, separator, begin, stop = found
        return Table(header, _rows(head[stop:], text, separator, stop + 1), separator, begin + 1)
    widest, first_error = _widest(head, delimiter)
    if first_error and not widest:
        raise first_error
    missing = [name for name in wanted if not positions(widest, name)]
    lacking = f"column {missing[0]!r}" if missing else kind.lacking if kind else "header"
    raise FormatError(f"there is no {lacking}; the file has: {named(widest[:NAMED])}")


def widest_line(text: TextIO, delimiter: str | None) -> list[str]:
    """Return the columns of the line, among the first ones, that has most of them."""
    return _widest(list(islice(text, HEAD)), delimiter)[0]


def find_header(
    head: Sequence[str],
    delimiter: str | None,
    wanted: Sequence[str],
    kind: HeaderKind | None = None,
) -> tuple[list[str], str, int, int] | None:
    """Return the header of the wanted columns, its delimiter, and where it begins and ends."""
    for begin, separator, header, length in _headers(head, delimiter):
        if (
            not isinstance(header, FormatError)
            and all(positions(header, column) for column in wanted)
            and (kind is None or kind.fits(header))
        ):
            return header, separator, begin, begin + length
    return None


def _headers(
    head: Sequence[str], delimiter: str | None
) -> Iterator[tuple[int, str, list[str] | FormatError, int]]:
    """Yield each line as the header that it would be, with each delimiter."""
    for line in head:
        if delimiter is None and line.lower().startswith("sep=") and len(line.rstrip("\n")) == 5:
            delimiter = line[4]
    for begin, line in enumerate(head):
        if not line.strip() or line.lower().startswith("sep="):
            continue
        for separator in (delimiter,) if delimiter else DELIMITERS:
            reader = csv.reader(head[begin:], delimiter=separator, strict=True)
            try:
                header = [name.strip() for name in next(reader)]
            except csv.Error as error:
                at = begin + reader.line_num
                yield begin, separator, FormatError(f"line {at} is not CSV: {error}"), 0
            else:
                yield begin, separator, header, reader.line_num


def _widest(head: Sequence[str], delimiter: str | None) -> tuple[list[str], FormatError | None]:
    """Return the line of most columns, and the first fault."""
    widest: list[str] = []
    fault: FormatError | None = None
    for _, _, header, _ in _headers(head, delimiter):
        if isinstance(header, FormatError):
            fault = fault or header
        elif len(header) > len(widest):
            widest = header
    return widest, fault


def named(header: Sequence[str]) -> str:
    """Return the names of a header for a message."""
    return ", ".join(repr(name) for name in header)


def _same(name: str, column: str) -> bool:
    return name == column or name.strip().casefold() == column.strip().casefold()


def _rows(head: list[str], text: TextIO, delimiter: str, line: int) -> Iterator[pl.DataFrame]:
    start = "".join(head)
    while block := start + text.read(BLOCK) + text.readline():
        if '"' in block:
            # Quotes may hold delimiters and line ends, so this takes a true reader of CSV.
            lines = chain(block.splitlines(keepends=True), text)
            yield from _quoted_rows(lines, delimiter, line)
            return
        rows = pl.DataFrame({"text": [block.removesuffix("\n")]}).select(
            cells=pl.col("text").str.split("\n").explode().str.split(delimiter)
        )
        yield _without_empty(rows.with_row_index("line", line))
        line += rows.height
        start = ""


def _quoted_rows(lines: Iterator[str], delimiter: str, line: int) -> Iterator[pl.DataFrame]:
    # Strict, so that a file cut off within quotes is an error.
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    before = line - 1
    while True:
        numbers, cells = [], []
        try:
            for row in islice(reader, ROWS):
                cells.append(row)
                numbers.append(before + reader.line_num)
        except csv.Error as error:
            raise FormatError(f"line {before + reader.line_num} is not CSV: {error}") from error
        if not cells:
            return
        frame = pl.DataFrame(
            {"line": numbers, "cells": cells},
            schema={"line": pl.UInt32, "cells": pl.List(pl.String)},
        )
        yield _without_empty(frame)


def _without_empty(rows: pl.DataFrame) -> pl.DataFrame:
    empty = pl.col("cells").list.join("").str.strip_chars() == ""
    return rows.filter(~empty)
