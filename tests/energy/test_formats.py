"""Rows as CSV: no cell is a formula, and no number is changed."""

import csv
import io

import pytest

from app.energy.formats import Format

CSV = Format("csv")


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "=cmd|' /C calc'!A0", '=1,"x"']
)
def test_71_no_cell_of_text_is_a_formula(text: str) -> None:
    [[cell]] = csv.reader(io.StringIO(CSV.text(text), newline=""))
    assert cell == f"'{text}"
    assert Format("ndjson").text(text) != CSV.text(text)


@pytest.mark.parametrize(
    "text", ["", "a=1", "1-2", "Mill Street", "'quoted'", " =1", "a\r\n=1", "a\r=1", "a\n"]
)
def test_71_other_cells_stay_as_they_are(text: str) -> None:
    [[cell]] = csv.reader(io.StringIO(CSV.text(text) + "\r\n", newline="")) if text else [[""]]
    assert cell == text


def test_71_a_negative_number_stays_a_number() -> None:
    assert CSV.number("-1.5") == "-1.5"
    assert CSV.value(-1.5) == "-1.5"
    assert CSV.value("-1.5") == "'-1.5"
