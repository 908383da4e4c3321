"""Several meters in one file: one run, all or nothing, a summary for each register."""

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from uuid import uuid4

import pytest

from tests.conftest import Stack
from tests.ingest.command import Admin, run_import, stored
from tests.ingest.conftest import new_meter

HEADER = "time,meter,use\n"


@pytest.fixture
def second(stack: Stack, admin: Admin) -> Iterator[dict[str, str]]:
    """A second meter of wlce with a register, removed afterwards."""
    with new_meter(stack, admin, "Second") as ids:
        yield ids


def rows(meter: str, value: float, hours: int = 2) -> str:
    return "".join(
        f"2021-06-01T{half // 2:02}:{half % 2 * 30:02}Z,{meter},{value}\n"
        for half in range(2 * hours)
    )


def test_a_file_of_several_meters_goes_to_their_registers_by_serial(
    stack: Stack, home: dict[str, str], second: dict[str, str], admin: Admin, tmp_path: Path
) -> None:
    file = tmp_path / "meters.csv"
    file.write_text(HEADER + rows(home["serial"], 0.5) + rows(second["serial"], 1.5, 3))
    options = ("--import-column", "use", "--serial-column", "meter")
    done = json.loads(run_import(stack, file, *options, "--json").stdout)
    assert (done["read"], done["written"], done["without_circuit"]) == (10, 10, 6)
    found = {row["register_id"]: row for row in done["registers"]}
    assert found[home["register"]]["import_kwh"] == "2"
    assert found[second["register"]]["import_kwh"] == "9"
    assert found[second["register"]]["key"] == second["serial"]
    assert found[second["register"]]["period_to"] == "2021-06-01T03:00:00+00:00"
    assert [row[1] for row in stored(admin, home["register"])] == [Decimal("0.5")] * 4
    assert [row[1] for row in stored(admin, second["register"])] == [Decimal("1.5")] * 6
    shown = run_import(stack, file, *options).stdout
    assert f"6  of {second['register']} ({second['serial']}): import 9.000 kWh" in shown


def test_one_bad_row_of_one_meter_leaves_nothing_of_any(
    stack: Stack, home: dict[str, str], second: dict[str, str], admin: Admin, tmp_path: Path
) -> None:
    file = tmp_path / "meters.csv"
    file.write_text(HEADER + rows(home["register"], 0.5) + rows(second["register"], 501))
    options = ("--import-column", "use", "--register-column", "meter")
    refused = run_import(stack, file, *options)
    assert refused.returncode == 1
    assert "line 6: 501 kWh is more than the 500 kWh believed" in refused.stdout
    assert stored(admin, home["register"]) == []


def test_an_unknown_serial_is_named_and_can_be_mapped(
    stack: Stack, home: dict[str, str], second: dict[str, str], admin: Admin, tmp_path: Path
) -> None:
    file = tmp_path / "meters.csv"
    file.write_text(HEADER + rows("E17", 0.5) + rows(second["serial"], 1.5))
    options = ("--import-column", "use", "--serial-column", "meter")
    unknown = run_import(stack, file, *options)
    assert unknown.returncode == 1
    assert "no register with the MPAN 'E17': --map E17=REGISTER" in unknown.stderr
    assert stored(admin, second["register"]) == []
    mapped = run_import(stack, file, *options, "--map", f"E17={home['register']}")
    assert mapped.returncode == 0, mapped.stderr
    assert len(stored(admin, home["register"])) == len(stored(admin, second["register"])) == 4
    stranger = run_import(stack, file, *options, "--map", f"E17={uuid4()}")
    assert "there is no register" in stranger.stderr


def test_a_supply_point_is_found_by_its_number(
    stack: Stack, home: dict[str, str], second: dict[str, str], admin: Admin, tmp_path: Path
) -> None:
    file = tmp_path / "meters.csv"
    file.write_text(HEADER + rows(home["serial"], 0.5) + rows("2000012345678", 1.5))
    options = ("--import-column", "use", "--serial-column", "meter")
    assert "no register with the MPAN '2000012345678'" in run_import(stack, file, *options).stderr
    named = "update flows.meter_registers set mpan = %s where register_id = any(%s)"
    admin.execute(named, ("2000012345678", [second["register"]]))
    admin.commit()
    assert run_import(stack, file, *options).returncode == 0
    assert [row[1] for row in stored(admin, home["register"])] == [Decimal("0.5")] * 4
    assert [row[1] for row in stored(admin, second["register"])] == [Decimal("1.5")] * 4
    admin.execute(named, ("2000012345678", [home["register"]]))
    admin.commit()
    several = run_import(stack, file, *options)
    assert "'2000012345678' has 2 registers: choose one" in several.stderr


def test_a_meter_of_two_registers_needs_a_choice(
    stack: Stack, second: dict[str, str], admin: Admin, tmp_path: Path
) -> None:
    admin.execute(
        "insert into flows.meter_registers (meter_id, element) values (%s, 'B')",
        (second["meter"],),
    )
    admin.commit()
    file = tmp_path / "meters.csv"
    file.write_text(HEADER + rows(second["serial"], 1.5))
    options = ("--import-column", "use", "--serial-column", "meter")
    several = run_import(stack, file, *options)
    assert f"'{second['serial']}' has 2 registers: choose one" in several.stderr
    chosen = run_import(stack, file, *options, "--map", f"{second['serial']}={second['register']}")
    assert chosen.returncode == 0


def test_import_and_export_under_two_keys_meet_in_one_register(
    stack: Stack, home: dict[str, str], admin: Admin, tmp_path: Path
) -> None:
    file = tmp_path / "long.csv"
    file.write_text(
        "time,meter,kind,value\n"
        + "".join(f"2021-06-01T0{n}:{m}Z,in,import,1\n" for n in range(2) for m in ("00", "30"))
        + "".join(f"2021-06-01T0{n}:{m}Z,out,export,2\n" for n in range(3) for m in ("00", "30"))
    )
    options = ("--quantity-column", "kind", "--value-column", "value", "--serial-column", "meter",
               "--map", f"in={home['register']}", "--map", f"out={home['register']}")  # fmt: skip
    done = run_import(stack, file, *options, "--json")
    assert json.loads(done.stdout)["written"] == 6, done.stderr
    assert [row[1:3] for row in stored(admin, home["register"])] == [(1, 2)] * 4 + [(None, 2)] * 2


def test_a_file_names_its_register_once(stack: Stack, home: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "meters.csv"
    file.write_text(HEADER + rows(home["serial"], 1))
    none = run_import(stack, file, "--import-column", "use")
    assert "name the register with --register" in none.stderr
    both = run_import(
        stack, file, "--import-column", "use", "--serial-column", "meter",
        "--register", home["register"],
    )  # fmt: skip
    assert "exclude each other" in both.stderr


def test_a_dry_run_shows_what_would_be_written_and_writes_nothing(
    stack: Stack, home: dict[str, str], admin: Admin, tmp_path: Path
) -> None:
    file = tmp_path / "day.csv"
    times = [(day, f"{half // 2:02}:{half % 2 * 30:02}") for day in (30, 31) for half in range(48)]
    kept = [f"2021-05-{day} {time},{0.1 * (day - 29)}\n" for day, time in times if time != "13:30"]
    file.write_text("time,use\n" + "".join(kept) + "2021-06-01 00:00,0.5\n")
    options = ("--import-column", "use", "--timezone", "Europe/London")
    before = tmp_path / "before.csv"
    before.write_text("time,use\n2021-06-01 00:00,0.5\n2021-05-31 23:30,0.7\n")
    assert run_import(stack, before, "--register", home["register"], *options).returncode == 0
    dry = ("--register", home["register"], *options, "--dry-run")
    shown = run_import(stack, file, *dry)
    assert shown.returncode == 0
    for expected in (
        "would add 93 half-hours, change 1 and leave 1",
        "2021-05-29 23:00  2021-05-30 00:00  import 0.100 kWh",
        "2021-05-31 23:00  2021-06-01 00:00  import 0.500 kWh",
        "2021-05  import 14.100 kWh",
        "2021-06  import 0.500 kWh",
        "in all   import 14.600 kWh",
        "2021-05-30   47  import 4.700 kWh",
        "2 gaps, UTC",
        "2021-05-30 12:30 to 2021-05-30 13:00",
        "▅█",
    ):
        assert expected in shown.stdout
    preview = json.loads(run_import(stack, file, *dry, "--json").stdout)["preview"]
    assert (preview["added"], preview["changed"], preview["unchanged"]) == (93, 1, 1)
    days = [(day["day"], day["half_hours"], day["import_kwh"]) for day in preview["days"]]
    assert days == [("2021-05-30", 47, "4.7"), ("2021-05-31", 47, "9.4"), ("2021-06-01", 1, "0.5")]
    assert len(stored(admin, home["register"])) == 2
