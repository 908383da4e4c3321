"""Rows as CSV: no cell is a formula, and no number is changed."""

import csv
import io

import orjson
import polars as pl
import pytest
from pydantic import BaseModel

from app.energy.examples import answers
from app.energy.formats import MEDIA_TYPES, Format
from app.energy.models import (
    Balance,
    Completeness,
    Energy,
    Keys,
    Latest,
    MeterList,
    Peak,
    Profile,
)
from app.energy.parameters import FormatName
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


@pytest.mark.parametrize("body", [Energy, Balance, Profile, Peak, Completeness, Latest, MeterList])
def test_examples_are_written_as_answers_are(body: type[BaseModel]) -> None:
    told = {media: each["example"] for media, each in answers(body).items()}
    example = told["application/json"]
    body.model_validate(example)
    members = {name: value for name, value in example.items() if name != "rows"}
    rows = pl.DataFrame(example["rows"])
    keys = [name for name in rows.columns if name in Keys.model_fields]
    texts: tuple[FormatName, ...] = ("csv", "ndjson", "columns")
    for name in texts:
        written = rows
        if name == "csv" and "gaps" in rows.columns:
            gaps = orjson.dumps(example["rows"][0]["gaps"]).decode()
            written = rows.with_columns(pl.lit(gaps).alias("gaps"))
        writing = writer(Format(name), keys if "granularity" in members else [])
        text = writing.begin(members) + writing.add(written) + writing.end({})
        shown = told[MEDIA_TYPES[name]]
        assert (orjson.loads(text) if name == "columns" else text.decode()) == shown
