"""Files of known origins are recognised by themselves; each profile has a small sample of ours."""

import io
import re
from pathlib import Path
from typing import Any

import pytest

from app.ingest.faults import FormatError
from app.ingest.profiles import list_profiles
from tests.ingest.text import Staged, staged

SAMPLES = Path(__file__).parent / "samples"
REGISTER = "e4b61855-d5f6-5584-b44a-b2267f125525"
# Profile → rows read, first and last start in UTC, kWh of import and export, half-hours or parts
# marked as estimates.
EXPECTED = {
    "datadis": (24, "06-01 21:30", 30, 2.4, 48),
    "datadis-hours": (25, "10-27 22:30", 32.5, 0, 50),
    "enedis-consumption": (50, "10-27 22:30", 6.375, 0, 0),
    "enedis-production": (50, "10-27 22:30", 0, 6.375, 0),
    "esb-hdf": (100, "10-27 23:30", 63.75, 0.5, 0),
    "fluvius": (200, "10-27 22:45", 5.05, 0.99, 4),
    "fluvius-before-2025": (200, "10-27 22:45", 5.05, 0.99, 4),
    "fluvius-english": (200, "10-27 22:45", 5.05, 0.99, 4),
    "green-button": (192, "10-27 23:45", 46.56, 0.48, 1),
    "n3rgy": (48, "10-27 23:30", 11.76, 0, 0),
    "nem12": (4, "10-28 13:00", 16.46, 0.96, 49),
    "nem13": (3, "09-30 14:00", 3331.25, 111, 1),
    "octopus": (50, "10-27 23:30", 12.75, 0, 0),
}
HOURLY = {"datadis", "datadis-hours"}


def sample(name: str) -> bytes:
    (path,) = SAMPLES.glob(f"{name}.*")
    return path.read_bytes()


def read(name: str, **given: Any) -> Staged:
    """Read a profile's sample into one register."""
    spread = {"spread": "even"} if name in HOURLY else {}
    return staged(sample(name), **({"register_id": REGISTER} | spread | given))


def test_every_profile_has_a_sample_and_every_sample_a_profile() -> None:
    names = {profile.name for profile in list_profiles()}
    assert names == set(EXPECTED) == {path.stem for path in SAMPLES.iterdir()}
    assert all(profile.title for profile in list_profiles())


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_sample_is_recognised_and_read_to_the_watt_hour(name: str) -> None:
    found = read(name)
    rows, last, imported, exported, estimated = EXPECTED[name]
    assert f"profile {name}" in found.summary.found
    assert found.refused == []
    assert found.summary.read == rows
    assert max(f"{row['timestamp']:%m-%d %H:%M}" for row in found.rows) == last
    assert round(sum(row["import"] or 0 for row in found.rows), 6) == imported
    assert round(sum(row["export"] or 0 for row in found.rows), 6) == exported
    assert sum(row["estimated"] for row in found.rows) == estimated
    named = read(name, profile=name)
    assert named.rows == found.rows


@pytest.mark.parametrize(
    "name",
    ["esb-hdf", "octopus", "fluvius", "fluvius-english", "fluvius-before-2025",
     "enedis-consumption"],
)  # fmt: skip
def test_the_autumn_day_of_a_sample_rises_from_the_first_half_hour_to_the_last(name: str) -> None:
    imports = [row for row in read(name).rows if row["import"] is not None]
    values = [row["import"] for row in sorted(imports, key=lambda row: row["timestamp"])]
    assert len({row["timestamp"] for row in imports}) == len(imports)
    assert len(values) in (50, 100)
    assert values == sorted(values)


def test_a_sample_in_any_order_of_days_and_rows_is_the_same() -> None:
    header, *rows = sample("esb-hdf").decode().splitlines()
    turned = "\n".join([header, *rows[::-1]]) + "\n"
    # Newest first or last: only the lines differ.
    without_lines = [
        [{**row, "line": 0} for row in staged(text, register_id=REGISTER).rows]
        for text in (turned, sample("esb-hdf"))
    ]
    key = str
    assert sorted(map(key, without_lines[0])) == sorted(map(key, without_lines[1]))


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("esb-hdf", {"20000001"}),
        ("fluvius", {"1SAG1000000001"}),
        ("datadis", {"ES0000000000000001AA"}),
        ("nem12", {"6000000001"}),
        ("nem13", {"6000000001"}),
        ("green-button", {"1"}),
    ],
)
def test_without_a_register_the_file_names_the_meter(name: str, keys: set[str]) -> None:
    assert {row["key"] for row in read(name, register_id=None).rows} == keys


def test_what_is_named_goes_before_the_profile() -> None:
    halved = read("octopus", unit="Wh")
    assert halved.rows[0]["import"] == 0.00001
    exported = read("octopus", direction="export")
    assert [row["import"] for row in exported.rows[:1]] == [None]
    assert sum(row["export"] for row in exported.rows) == pytest.approx(12.75)
    with pytest.raises(FormatError, match="--spread even"):
        read("datadis", spread=None)


def test_a_profile_of_ones_own_is_a_file(tmp_path: Path) -> None:
    profile = tmp_path / "mine.toml"
    profile.write_text(
        'title = "Loggers of mine"\n[options]\ntime_column = "t"\nimport_column = "e"\n'
        'timezone = "UTC"\nunit = "Wh"\n'
    )
    found = staged("t,e\n2024-05-01 00:00,250\n", profile=str(profile))
    assert found.imports == [("05-01 00:00", 0.25)]
    profile.write_text("[options]\nunit = 7\n")
    with pytest.raises(FormatError, match=r"mine\.toml cannot be read"):
        staged("t,e\n", profile=str(profile))
    profile.write_text('title = "x"\n[options]\nunit = "horses"\n')
    with pytest.raises(FormatError, match=r"mine\.toml: --unit"):
        staged("t,e\n", profile=str(profile))
    with pytest.raises(FormatError, match="there is no profile 'esb'; there are: datadis, "):
        staged("t,e\n", profile="esb")
    with pytest.raises(FormatError, match="there is no profile"):
        staged("t,e\n", profile=str(tmp_path / "other.toml"))


NEM = sample("nem12").decode()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("0.480,A,,,", "A,,,", "has 52 fields|is no quality known"),
        ("300,20241027", "300,20241327", "is not a date like"),
        ("300,20241027", "300,00010101", "is not a date like"),
        (",A,,,20241028", ",X,,,20241028", "'X' is no quality known"),
        ("0.010,", "much,", "'much' is not a number"),
    ],
)
def test_a_bad_day_of_nem12_is_refused_with_its_line(old: str, new: str, said: str) -> None:
    found = staged(NEM.replace(old, new, 1), register_id=REGISTER)
    assert {row.line for row in found.refused} == {3}
    assert any(part in found.refused[0].reason for part in said.split("|"))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("400,47,47", "400,47,49", "intervals that the day does not have"),
        ("900\n", "950\n", "no record of NEM12: '950'"),
        ("200,6000000001,E1B1Q1,1,E1", "201,6000000001,E1B1Q1,1,E1", "no record of NEM12: '201'"),
        (",2,B1,", ",2,E2,", "both import: choose one with --where suffix=E2"),
        (",kWh,30", ",kWh,0", "line 2 describes no data stream"),
        (",kWh,30", ",kWh,-5", "line 2 describes no data stream"),
    ],
)
def test_a_file_that_is_not_nem12_is_refused(old: str, new: str, said: str) -> None:
    with pytest.raises(FormatError, match=said):
        staged(NEM.replace(old, new, 1), register_id=REGISTER)


def test_streams_of_nem12_are_chosen_or_mapped() -> None:
    two = NEM.replace(",2,B1,", ",2,E2,")
    chosen = staged(two, register_id=REGISTER, where=["suffix=E2"])
    assert {row["import"] for row in chosen.rows} == {0.02}
    given = {"map": {"6000000001 E2": REGISTER}}
    assert {row["key"] for row in staged(two, **given).rows} == {"6000000001", "6000000001 E2"}
    five = "100,NEM12,1,A,B\n200,6000000001,E1,1,E1,N1,7,kWh,5,\n300,20241027,"
    five += ",".join(["0.010"] * 288) + ",A,,,20241028090000,\n900\n"
    assert {row["minutes"] for row in staged(five, register_id=REGISTER).rows} == {5}


def test_nem12_is_recognised_without_its_header() -> None:
    without = staged("\n" + NEM.split("\n", 1)[1], register_id=REGISTER)
    assert "profile nem12" in without.summary.found
    assert [row["import"] for row in without.rows] == [row["import"] for row in read("nem12").rows]


NEM13 = sample("nem13").decode()


def test_counters_of_nem13_are_chosen_or_mapped() -> None:
    # The second counter of the meter is read at its own times, so that no reading contradicts.
    night = (
        "250,6000000001,1121,3,21,N2,70000001,E,500,20240801000100,A,,,560,20240901000100,A,,,60,"
        "kWh,,20240902090000,\n900\n"
    )
    two = NEM13.replace("900\n", night)
    with pytest.raises(FormatError, match=r"11' and '6000000001 21' are both import: choose"):
        staged(two)
    chosen = staged(two, where=["suffix=21"])
    assert [row["import"] for row in chosen.rows if row["import"]] == [500, 560]
    mapped = staged(two, map={"6000000001 21": REGISTER})
    assert {row["key"] for row in mapped.rows} == {"6000000001", "6000000001 21"}


def test_counters_of_two_meters_of_nem13_are_told_apart() -> None:
    new = (
        "250,6000000001,11,1,11,N1,70000002,E,0,20241001001000,A,,,60,20241101000100,A,,,60,kWh,,"
        "20241102090000,\n900\n"
    )
    two = NEM13.replace("900\n", new)
    with pytest.raises(FormatError, match="two meters: choose one with --where serial=70000002"):
        staged(two, register_id=REGISTER)
    found = staged(two, serial_column="serial")
    assert {row["key"] for row in found.rows} == {"70000001", "70000002"}


def test_readings_of_nem13_that_contradict_one_another_are_refused() -> None:
    text = NEM13.replace("E,1100.5,", "E,1100.6,")
    (row,) = staged(text, register_id=REGISTER).refused
    assert (row.line, row.reason) == (3, "contradicts the reading at 20240901000000 in line 2")


GREEN = sample("green-button").decode()


def test_a_green_button_feed_must_say_what_its_values_are() -> None:
    with pytest.raises(FormatError, match="declares entities"):
        staged(GREEN.replace("<feed ", '<!DOCTYPE x [<!ENTITY a "b">]>\n<feed ', 1))
    with pytest.raises(FormatError, match="64 deep in one another"):
        staged(GREEN.replace("</feed>", "<a>" * 99))
    for power in ("x", "999999999", "9" * 5000):
        with pytest.raises(FormatError, match="no power of ten"):
            staged(GREEN.replace("Multiplier>0<", f"Multiplier>{power}<", 1))
    with pytest.raises(FormatError, match="line 256 is not XML"):
        staged(GREEN.replace("</feed>", "</fee>") + "\n\n")
    with pytest.raises(FormatError, match="does not say what its values are"):
        staged(GREEN.replace("/ReadingType/1", "/ReadingType/9", 1))
    counter = GREEN.replace("accumulationBehaviour>4<", "accumulationBehaviour>3<", 1)
    with pytest.raises(FormatError, match="readings of a counter"):
        staged(counter)
    bad = staged(GREEN.replace("<espi:value>10<", "<espi:value>ten<", 1))
    assert [row.reason for row in bad.refused] == ["'tene0' is not a number"]
    assert "<espi:value>10<" in GREEN.splitlines()[bad.refused[0].line - 1]
    hourly = GREEN.replace(">900<", ">3600<")
    with pytest.raises(FormatError, match="--spread even"):
        staged(hourly)


def test_usage_points_of_one_name_are_chosen_or_mapped() -> None:
    other = "RetailCustomer/2/UsagePoint/1"
    second = GREEN[GREEN.index("<entry>") : GREEN.index("</feed>")]
    second = second.replace("RetailCustomer/1/UsagePoint/1", other)
    two = GREEN.replace("</feed>", second + "</feed>")
    with pytest.raises(FormatError, match=r"'1/1' and '2/1' are two usage points: .* customer=2"):
        staged(two)
    chosen = staged(two, where=["customer=2"])
    assert [row["import"] for row in chosen.rows] == [row["import"] for row in staged(GREEN).rows]
    mapped = staged(two, map={"2/1": REGISTER})
    assert {row["key"] for row in mapped.rows} == {"1", "2/1"}


def test_meter_readings_of_the_same_time_are_chosen_and_of_other_times_are_joined() -> None:
    begin = GREEN.index("<entry>", GREEN.index("UsagePoint/1/MeterReading/1/") - 700)
    again = GREEN[begin : GREEN.index("</feed>")].replace("MeterReading/1", "MeterReading/9")
    two = GREEN.replace("</feed>", again + "</feed>")
    with pytest.raises(FormatError, match=r"both have import of the same time: .* meter_reading=1"):
        staged(two)
    chosen = staged(two, where=["meter_reading=9"])
    assert sum(row["import"] or 0 for row in chosen.rows) == pytest.approx(46.56)
    week = 7 * 86400
    starts = set(re.findall(r"<espi:start>(\d+)<", again))
    for start in starts:
        again = again.replace(f">{start}<", f">+{int(start) + week}<")
    joined = staged(GREEN.replace("</feed>", again.replace(">+", ">") + "</feed>"))
    assert sum(row["import"] or 0 for row in joined.rows) == pytest.approx(2 * 46.56)


def test_a_reading_of_no_duration_is_refused_and_the_type_says_one_that_is_missing() -> None:
    none = staged(GREEN.replace("<espi:duration>900<", "<espi:duration>0<", 1))
    assert [row.reason for row in none.refused] == ["has no duration of whole minutes"]
    said = staged(GREEN.replace("<espi:duration>900</espi:duration>", ""))
    assert [row["minutes"] for row in said.rows] == [row["minutes"] for row in staged(GREEN).rows]


def test_a_file_of_no_energy_that_is_asked_for_is_refused() -> None:
    with pytest.raises(FormatError, match="none of the 192 rows is energy that is asked for"):
        staged(GREEN.replace("<espi:uom>72<", "<espi:uom>169<"))
    with pytest.raises(FormatError, match="none of the 50 rows is energy"):
        read("octopus", where=["Start=never"])


def test_a_profile_fits_a_workbook_too() -> None:
    text = io.StringIO(sample("fluvius").decode("utf-8-sig"))
    tabbed = text.read().replace(";", "\t")
    found = staged(tabbed, register_id=REGISTER)
    assert "profile fluvius" in found.summary.found
    assert len(found.rows) == 199
