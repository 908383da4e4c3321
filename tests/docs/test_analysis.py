"""The three lines of each tool in docs/how-to/analyse-energy.md read what JSON says."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from tests.conftest import Stack
from tests.docs.test_examples import ROOT

PAGE = ROOT / "docs" / "how-to" / "analyse-energy.md"
TITLE = "# Energy in notebooks and spreadsheets"
MONTH = {"period_from": "2026-10-01", "period_to": "2026-11-01"}
# Heading → the lines that print, as JSON, rows, kWh, complete days, and what a day's start is.
PRINTED = {
    "pandas": "print(json.dumps([len(days), days['import_kwh'].sum(), int(days['complete'].sum()),"
    " str(days['interval_start'].iloc[24])]))",
    "Polars": "print(json.dumps([len(days), days['import_kwh'].sum(), days['complete'].sum(),"
    " str(days['interval_start'][24])]))",
    "DuckDB": 'print(json.dumps(duckdb.sql("select count(*), coalesce(sum(import_kwh), 0),'
    " count(*) filter (where complete), strftime((select interval_start at time zone"
    " 'Europe/London' from 'days.parquet' limit 1 offset 24), '%Y-%m-%d %H:%M:%S')"
    " from 'days.parquet'\").fetchall()[0]))",
    "R": "cat(sprintf('[%d, %.9f, %d, \"%s\"]', nrow(days), sum(days$import_kwh, na.rm = TRUE),"
    " sum(days$complete), format(days$interval_start[25], '%Y-%m-%d %H:%M:%S')))",
}


def example(heading: str, language: str, stack: Stack) -> str:
    """Return the first block of a language below a heading, asked of the stack."""
    section = PAGE.read_text().split(f"{heading}\n", 1)[1].split("\n## ")[0]
    code = re.search(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert code, heading
    return code[1].replace("http://127.0.0.1:8000", stack.contract["base_url"])


@pytest.mark.parametrize("heading", PRINTED)
def test_three_lines_read_what_json_says(stack: Stack, tmp_path: Path, heading: str) -> None:
    environment = os.environ | {"TOKEN": stack.contract["escos"]["wlce"]["read_token"]}
    code = example(TITLE, "bash", stack)  # the addresses
    if heading == "R":
        if not (rscript := shutil.which("Rscript")):
            pytest.skip("there is no Rscript: install r-base-core")
        lines = example("## R", "r", stack)
        command = [rscript, "-e", lines + PRINTED[heading]]
    else:
        lines = example(f"## {heading}", "python", stack)
        command = [sys.executable, "-c", f"import json\n{lines}{PRINTED[heading]}"]
    assert len([line for line in lines.splitlines() if line]) == 3
    if heading == "DuckDB":
        code += example("## DuckDB", "bash", stack)
    done = subprocess.run(
        ["bash", "-euc", code + '"$@"', "bash", *command],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows, kwh, complete, start = json.loads(done.stdout.splitlines()[-1])
    with stack.client("wlce") as client:
        expected = client.get("/v1/energy", params=MONTH).json()["rows"]
    assert (rows, complete) == (len(expected), sum(row["complete"] for row in expected))
    assert kwh == pytest.approx(sum(row["import_kwh"] or 0 for row in expected))
    assert start[:19] == expected[24]["interval_start"][:19].replace("T", " ")


def test_what_excel_asks_for_is_what_it_reads(stack: Stack) -> None:
    """Excel does not run here: its query is sent, and its cells are those that it has types for."""
    query = example("## Excel", "powerquery", stack)
    address = re.search(r'Web\.Contents\("([^"]+)"', query)
    (record,) = re.findall(r"Query = \[([^\]]+)\]", query)
    asked = dict(re.findall(r'(\w+) = "([^"]+)"', record))
    assert address is not None
    assert asked == MONTH | {"times": "local", "format": "csv"}
    with stack.client("wlce") as client:
        answer = client.get(address[1], params=asked)
        expected = client.get("/v1/energy", params=MONTH).json()["rows"]
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(answer.text.splitlines()))
    assert len(rows) == len(expected) > 24
    for row, known in zip(rows, expected, strict=True):
        start = datetime.strptime(row["interval_start"], "%Y-%m-%d %H:%M:%S")
        assert start.isoformat() == known["interval_start"][:19]
        assert row["complete"] == str(known["complete"]).lower()
        assert row["import_kwh"] == ("" if known["import_kwh"] is None else
                                     repr(known["import_kwh"]))  # fmt: skip
