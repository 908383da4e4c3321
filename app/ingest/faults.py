"""Rows that cannot be imported, and the file as a whole when it cannot."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import polars as pl

LISTED = 10_000  # rows that are listed with their reasons; further ones are only counted


class FormatError(Exception):
    """The file as a whole cannot be read with these options; the message says what to change."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A row that cannot be imported, with the reason."""

    line: int
    reason: str


@dataclass(slots=True)
class Refusals:
    """The refused rows of a file."""

    count: int = 0
    rows: list[Refused] = field(default_factory=list)

    def add(self, line: int, reason: str) -> None:
        """Refuse one row."""
        self.count += 1
        if len(self.rows) < LISTED:
            self.rows.append(Refused(line, reason))

    def take(
        self, frame: pl.DataFrame, fault: pl.Expr, reason: Callable[[dict[str, Any]], str]
    ) -> pl.DataFrame:
        """Refuse the rows of a frame for which `fault` is true; return the other rows.

        `reason` makes the reason from a row, whose column `line` is its line in the file.
        """
        marked = frame.with_columns(fault=fault.fill_null(value=False))
        if not marked["fault"].any():
            return frame
        for row in marked.filter("fault").iter_rows(named=True):
            if len(self.rows) < LISTED:
                self.add(row["line"], reason(row))
            else:
                self.count += 1
        return marked.filter(~pl.col("fault")).drop("fault")
