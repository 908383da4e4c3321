"""`flows import`: all or nothing, safe to repeat, and reflected in /v1/energy."""

import csv
import json
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.conftest import Stack
from tests.ingest.command import Admin, run, stored

AUSGRID = Path(__file__).parents[3] / "shared" / "data" / "ausgrid_customer12_2011-2012.csv"


def energy(stack: Stack, esco: str, circuit: str, **params: str) -> list[dict[str, Any]]:
    """Return the rows of GET /v1/energy for one circuit."""
    with stack.client(esco) as client:
        answer = client.get("/v1/energy", params={"circuit": circuit, **params})
    assert answer.status_code == 200, answer.text
    rows: list[dict[str, Any]] = answer.json(parse_float=Decimal)["rows"]
    return rows


def test_a_file_is_imported_once_and_shows_in_the_energy(
    stack: Stack, home: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "day.csv"
    lines = [f"{half // 2:02}:{30 * (half % 2):02}" for half in range(48)]
    file.write_text("when,use\n" + "".join(f"2021-06-01T{t}Z,0.1\n" for t in lines))
    options = ("--import-column", "use", "--json")
    first = run(stack, file, home["register"], *options)
    assert first.returncode == 0, first.stderr
    summary = json.loads(first.stdout)
    assert (summary["read"], summary["written"], summary["unchanged"]) == (48, 48, 0)
    again = json.loads(run(stack, file, home["register"], *options).stdout)
    assert (again["read"], again["written"], again["unchanged"]) == (48, 0, 48)
    period = {"period_from": "2021-06-01T00:00Z", "period_to": "2021-06-02T00:00Z"}
    (day,) = energy(stack, "wlce", home["circuit"], timezone="UTC", **period)
    assert (day["import_kwh"], day["export_kwh"]) == (Decimal("4.8"), None)
    assert day["present_intervals"] == day["expected_intervals"] == 48


def test_one_bad_row_leaves_nothing_of_the_file(
    stack: Stack, home: dict[str, str], admin: Admin, tmp_path: Path
) -> None:
    file = tmp_path / "bad.csv"
    file.write_text(
        "when,use\n2021-06-01T00:00Z,0.1\n2021-06-01T00:30Z,-4\n2021-06-01T00:00Z,0.2\n"
    )
    refused = run(stack, file, home["register"], "--import-column", "use")
    assert refused.returncode == 1
    assert "nothing was written: 2 of 3 rows refused" in refused.stdout
    assert "line 3: -4 is negative" in refused.stdout
    assert "line 4: is the same half-hour as line 2" in refused.stdout
    # Rows repeat a half-hour, so there are more than are due.
    report = run(stack, file, home["register"], "--import-column", "use", "--json").stdout
    assert json.loads(report)["missing"] == 0
    found = admin.execute(
        "select count(*) from flows.register_interval_hh where register_id = %s",
        (home["register"],),
    ).fetchone()
    assert found == (0,)


def test_an_unknown_register_is_one_line(stack: Stack, tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_text("when,use\n2021-06-01T00:00Z,0.1\n")
    refused = run(stack, file, str(uuid4()), "--import-column", "use")
    assert refused.returncode == 1
    assert "there is no register" in refused.stderr
    assert refused.stderr.count("\n") == 1


@pytest.mark.skipif(not AUSGRID.exists(), reason="the Ausgrid year is not here")
def test_a_real_year_adds_up_to_the_watt_hour(stack: Stack, home: dict[str, str]) -> None:
    imported = run(
        stack, AUSGRID, home["register"], "--import-column", "GC", "--export-column", "GG",
        "--timezone", "Australia/Sydney", "--json",
    )  # fmt: skip
    assert imported.returncode == 0, imported.stdout + imported.stderr
    summary = json.loads(imported.stdout)
    # The file has 48 rows for every day of wall-clock time: two at times that the clock change
    # skipped, and the repeated hour only once.
    assert (summary["read"], summary["written"]) == (17_568, 17_566)
    assert (summary["skipped"], summary["missing"]) == (2, 2)
    with AUSGRID.open(newline="") as text:
        rows = list(csv.DictReader(text))
    for granularity in ("PT30M", "P1D"):
        year = energy(
            stack, "wlce", home["circuit"], granularity=granularity, timezone="Australia/Sydney",
            period_from="2011-07-01T00:00+10:00", period_to="2012-07-01T00:00+10:00",
        )  # fmt: skip
        for column, name in (("GC", "import_kwh"), ("GG", "export_kwh")):
            expected = sum(Decimal(row[column]) for row in rows)
            found = sum(row[name] for row in year if row[name] is not None)
            assert round(found, 3) == round(expected, 3)
    months = energy(
        stack, "wlce", home["circuit"], granularity="P1M", timezone="Australia/Sydney",
        period_from="2011-07-01T00:00+10:00", period_to="2012-07-01T00:00+10:00",
    )  # fmt: skip
    assert len(months) == 12
    for month in months:
        for column, name in (("GC", "import_kwh"), ("GG", "export_kwh")):
            # The file has Sydney's times, so a local month is the rows labelled with it.
            of_month = (row for row in rows if row[""][:7] == month["interval_start"][:7])
            expected = sum(Decimal(row[column]) for row in of_month)
            assert round(month[name], 3) == round(expected, 3)
    with stack.client("hmce") as client:
        foreign = client.get(
            "/v1/energy",
            params={
                "circuit": home["circuit"],
                "period_from": "2011-07-01T00:00Z",
                "period_to": "2011-08-01T00:00Z",
            },
        )
    assert foreign.status_code == 404


def test_a_file_from_a_spreadsheet_is_read(
    stack: Stack, home: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "sheet.csv"
    file.write_bytes(b'\xef\xbb\xbf"time"\t"use"\r\n2026-01-05 10:00\t"0,25"\r\n')
    columns = ("--time-column", "time", "--import-column", "use", "--timezone", "UTC")
    sheet = ("--delimiter", r"\t", "--decimal", ",", "--json")
    done = run(stack, file, home["register"], *columns, *sheet)
    assert (done.returncode, json.loads(done.stdout)["written"]) == (0, 1), done.stderr
    piped = subprocess.run(
        [sys.executable, "-m", "app.cli", "import", "-", "--register", home["register"],
         *columns, *sheet],
        env=os.environ | {"FLOWS_HOME": str(stack.home), "LC_ALL": "C"},
        input=file.read_bytes(), capture_output=True, check=False,
    )  # fmt: skip
    assert json.loads(piped.stdout)["unchanged"] == 1, piped.stderr


@pytest.mark.parametrize("delimiter", ["", ";;", '"'])
def test_a_delimiter_that_separates_nothing_is_one_line(
    stack: Stack, home: dict[str, str], tmp_path: Path, delimiter: str
) -> None:
    (tmp_path / "x.csv").write_text("time,use\n")
    options = ("--import-column", "use", "--delimiter", delimiter)
    done = run(stack, tmp_path / "x.csv", home["register"], *options)
    assert done.returncode == 1
    assert done.stderr.startswith("error: --delimiter: ")
    assert done.stderr.count("\n") == 1


def test_hours_are_refused_and_then_spread_as_estimates_that_measurements_replace(
    stack: Stack, home: dict[str, str], admin: Admin, tmp_path: Path
) -> None:
    file = tmp_path / "hours.csv"
    file.write_text("when,use\n2021-06-01T00:00Z,1\n2021-06-01T01:00Z,2\n2021-06-01T02:00Z,1\n")
    options = ("--import-column", "use")
    refused = run(stack, file, home["register"], *options)
    assert (refused.returncode, stored(admin, home["register"])) == (1, [])
    assert "lines 2 to 4 are 60 minutes apart, not 30 minutes: --interval 60m" in refused.stderr
    spread = (*options, "--interval", "60m", "--spread", "even", "--json")
    done = json.loads(run(stack, file, home["register"], *spread).stdout)
    assert (done["written"], done["estimated"], done["interval"]) == (6, 6, "60m")
    admin.rollback()
    assert [row[1:] for row in stored(admin, home["register"])][1:3] == [
        (Decimal("0.5"), None, True),
        (Decimal(1), None, True),
    ]
    measured = tmp_path / "halves.csv"
    measured.write_text("when,use\n2021-06-01T00:00Z,0.7\n2021-06-01T00:30Z,0.3\n")
    assert run(stack, measured, home["register"], *options).returncode == 0
    again = json.loads(run(stack, file, home["register"], *spread).stdout)
    assert (again["written"], again["kept"]) == (0, 2)
    admin.rollback()
    assert [row[1:] for row in stored(admin, home["register"])][:3] == [
        (Decimal("0.7"), None, False),
        (Decimal("0.3"), None, False),
        (Decimal(1), None, True),
    ]
    period = {"period_from": "2021-06-01T00:00Z", "period_to": "2021-06-02T00:00Z"}
    for quality, kwh, present, derived in (("all", 4, 6, 4), ("measured", 1, 2, 0)):
        (day,) = energy(
            stack, "wlce", home["circuit"], timezone="UTC", quality=quality, **period
        )  # fmt: skip
        assert (day["import_kwh"], day["present_intervals"]) == (kwh, present)
        assert day["derived_intervals"] == derived


def test_quarters_are_summed_where_both_are_there(
    stack: Stack, home: dict[str, str], admin: Admin, tmp_path: Path
) -> None:
    file = tmp_path / "quarters.csv"
    times = ("00:00", "00:15", "00:30", "00:45", "01:15", "01:30", "01:45")
    rows = [f"2021-06-01T{time}Z,{number}\n" for number, time in enumerate(times, start=1)]
    file.write_text("when,use\n" + "".join(rows))
    options = ("--import-column", "use", "--interval", "15m", "--json")
    done = json.loads(run(stack, file, home["register"], *options).stdout)
    assert (done["written"], done["incomplete"], done["missing"]) == (3, 1, 1)
    assert [row[1] for row in stored(admin, home["register"])] == [3, 7, 13]
    file.write_text("when,use\n" + "".join(rows) + rows[3])
    again = run(stack, file, home["register"], *options)
    (refused,) = json.loads(again.stdout)["refused"]
    assert (again.returncode, refused["line"]) == (1, 9)
    assert refused["reason"] == "is the same time as line 5"


def test_readings_of_a_counter_are_refused_as_energy_and_taken_as_reads(
    stack: Stack, home: dict[str, str], admin: Admin, tmp_path: Path
) -> None:
    file = tmp_path / "counter.csv"
    rows = (f"2021-06-01T{n // 2:02}:{n % 2 * 30:02}Z,{12345 + n / 4}\n" for n in range(5))
    file.write_text("when,use\n" + "".join(rows))
    options = ("--import-column", "use", "--json")
    refused = run(stack, file, home["register"], *options)
    assert (refused.returncode, stored(admin, home["register"])) == (1, [])
    assert "from 12,345 to 12,346 kWh: these are readings of a counter" in refused.stderr
    try:
        done = json.loads(run(stack, file, home["register"], *options, "--reads").stdout)
        assert (done["written"], done["unchanged"]) == (5, 0)
        again = json.loads(run(stack, file, home["register"], *options, "--reads").stdout)
        assert (again["written"], again["unchanged"]) == (0, 5)
        admin.rollback()
        reads = stored(admin, home["register"], "register_import")
        assert [row[1] for row in reads][-1] == 12346
        derived = stored(admin, home["register"])
        assert [row[1:] for row in derived] == [(Decimal("0.25"), None, True)] * 4
        period = {"period_from": "2021-06-01T00:00Z", "period_to": "2021-06-02T00:00Z"}
        (day,) = energy(stack, "wlce", home["circuit"], timezone="UTC", **period)
        assert (day["present_intervals"], day["derived_intervals"]) == (4, 4)
    finally:
        admin.rollback()
        admin.execute(
            "delete from flows.register_import where register_id = %s", (home["register"],)
        )
        admin.commit()


def test_values_nobody_believes_are_refused_by_the_rating_or_a_setting(
    stack: Stack, home: dict[str, str], admin: Admin, tmp_path: Path
) -> None:
    file = tmp_path / "large.csv"
    file.write_text("when,use\n2021-06-01T00:00Z,30\n2021-06-01T00:30Z,501\n")
    options = ("--import-column", "use")
    refused = run(stack, file, home["register"], *options)
    assert "line 3: 501 kWh is more than the 500 kWh believed\n" in refused.stdout
    assert "line 2:" not in refused.stdout
    admin.execute("update flows.circuits set rating_amps = 60 where id = %s", (home["circuit"],))
    admin.commit()
    rated = run(stack, file, home["register"], *options)
    assert rated.returncode == refused.returncode == 1
    assert "line 2: 30 kWh is more than the 25.9 kWh believed at a rating of 60 A" in rated.stdout
    assert stored(admin, home["register"]) == []


def test_half_hours_that_no_circuit_shows_are_told(
    stack: Stack, home: dict[str, str], admin: Admin, tmp_path: Path
) -> None:
    admin.execute(
        "update flows.circuit_register set start_time = '2021-06-01T01:00Z' where circuit = %s",
        (home["circuit"],),
    )
    admin.commit()
    file = tmp_path / "early.csv"
    rows = (f"2021-06-01T{n // 2:02}:{n % 2 * 30:02}Z,0.1\n" for n in range(5))
    file.write_text("when,use\n" + "".join(rows))
    done = run(stack, file, home["register"], "--import-column", "use")
    assert done.returncode == 0
    assert "for 2 half-hours no circuit has the register" in done.stdout
    assert "add the time to circuit_register" in done.stdout
    again = run(stack, file, home["register"], "--import-column", "use", "--json")
    assert json.loads(again.stdout)["without_circuit"] == 2
