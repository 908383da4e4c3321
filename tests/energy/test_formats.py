"""Rows as CSV: no cell is a formula, and no number is changed."""

import csv
import io

import polars as pl
import pytest

from app.energy.formats import Format
from app.energy.writers import writer

CSV = Format("csv")


def cell_of(text: str) -> str:
    """Return the cell that a reader of CSV sees of a text."""
    column = pl.Series("name", [CSV.text(text)], dtype=pl.String)
    lines = writer(CSV, ()).add(pl.DataFrame([column, pl.Series("kwh", [-1.5])])).decode()
    [_, [cell, number]] = csv.reader(io.StringIO(lines, newline=""))
    assert number == "-1.5"
    return cell


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "=cmd|' /C calc'!A0", '=1,"x"']
)
def test_71_no_cell_of_text_is_a_formula(text: str) -> None:
    assert cell_of(text) == f"'{text}"
    assert Format("ndjson").text(text) == text


@pytest.mark.parametrize(
    "text", ["", "a=1", "1-2", "Mill Street", "'quoted'", " =1", "a\r\n=1", "a\r=1", "a\n"]
)
def test_71_other_cells_stay_as_they_are(text: str) -> None:
    assert cell_of(text) == text
