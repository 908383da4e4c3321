"""The example of a chart draws what /v1 returns."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Stack

SCRIPT = Path(__file__).parents[2] / "docs/examples/chart.mjs"
MOST_LINES = 60


def test_the_chart_and_the_table_show_the_year(stack: Stack) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    year = stack.midnight(9).year
    period = {"period_from": f"{year}-01-01", "period_to": f"{year + 1}-01-01", "group_by": "esco"}
    token = stack.contract["escos"]["wlce"]["read_token"]
    drawn = subprocess.run(
        [node, str(SCRIPT), stack.contract["base_url"], token, str(year)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert drawn.returncode == 0, drawn.stderr
    with stack.client("wlce") as client:
        days, months = (
            client.get("/v1/energy", params=period | {"granularity": granularity}).json()["rows"]
            for granularity in ("P1D", "P1M")
        )
    bars = re.findall(r"<title>(\S+): (\S+) kWh</title>", drawn.stdout)
    assert [(day, float(kwh)) for day, kwh in bars] == [
        (row["interval_start"][:10], row["import_kwh"])
        for row in days if row["import_kwh"] is not None
    ]  # fmt: skip
    assert bars
    cells = re.findall(r"<tr><td>(\S+)</td><td>wlce</td><td>(\S*)</td>", drawn.stdout)
    assert [(month, float(kwh) if kwh else None) for month, kwh in cells] == [
        (row["interval_start"][:7], row["import_kwh"]) for row in months
    ]


def test_the_chart_is_short() -> None:
    assert len(SCRIPT.read_text().splitlines()) < MOST_LINES
