"""A row for each day: named or numbered columns, also where clocks change."""

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from app.ingest.faults import FormatError
from tests.ingest.text import Staged, staged

HALVES = [f"{half // 2:02}:{half % 2 * 30:02}" for half in range(48)]
LONDON = ZoneInfo("Europe/London")


def read(text: str, **given: Any) -> Staged:
    return staged(text, **({"layout": "days", "timezone": "Europe/London"} | given))


def day(date: str, values: list[Any]) -> str:
    return ",".join([date, *map(str, values)]) + "\n"


def instants(date: str) -> list[datetime]:
    """Return the starts of a day's half-hours in London."""
    first = datetime.fromisoformat(date).replace(tzinfo=LONDON)
    at, stop = first.astimezone(UTC), (first + timedelta(days=1)).astimezone(UTC)
    found = []
    while at < stop:
        found.append(at)
        at += timedelta(minutes=30)
    return found


DAYS = ("2024-03-30", "2024-03-31", "2024-04-01", "2024-10-26", "2024-10-27", "2024-10-28")


@pytest.mark.parametrize("prefix", ["", "HH", "hh0", "Period ", "SP_"])
@pytest.mark.parametrize("order", [1, -1])
def test_numbered_columns_are_the_half_hours_of_the_local_day(prefix: str, order: int) -> None:
    header = day("date", [f"{prefix}{number}" for number in range(1, 51)])
    rows: list[str] = []
    expected: dict[datetime, float] = {}
    for date in DAYS:
        starts = instants(date)
        expected |= {at: number / 100 for number, at in enumerate(starts, start=1)}
        values = [number / 100 for number in range(1, len(starts) + 1)]
        rows.append(day(date, [*values, *[""] * (50 - len(values))]))
    found = read(header + "".join(rows[::order]))
    assert found.refused == []
    assert {row["timestamp"]: row["import"] for row in found.rows} == expected


def test_a_value_where_the_day_has_no_half_hour_is_refused() -> None:
    header = day("date", list(range(1, 51)))
    text = header + day("2024-03-31", [1] * 48 + ["", ""])
    assert [row.reason for row in read(text).refused] == [
        "2024-03-31 has no interval 47 in Europe/London",
        "2024-03-31 has no interval 48 in Europe/London",
    ]


@pytest.mark.parametrize(
    ("names", "given", "first"),
    [
        (HALVES, {}, "05-01 23:00"),
        ([f"{half}:00" for half in HALVES], {}, "05-01 23:00"),
        ([f"{a}-{b}" for a, b in zip(HALVES, [*HALVES[1:], "24:00"], strict=True)], {},
         "05-01 23:00"),
        ([*HALVES[1:], "24:00"], {"label": "end"}, "05-01 23:00"),
        ([*HALVES[1:], "00:00"], {"label": "end"}, "05-01 23:00"),
    ],
)  # fmt: skip
def test_columns_named_by_times_are_read(names: list[str], given: Any, first: str) -> None:
    text = day("date", names) + day("2024-05-02", [n / 100 for n in range(48)])
    found = read(text, **given)
    assert found.refused == []
    assert (found.starts[0], len(set(found.starts))) == (first, 48)
    assert [row["import"] for row in found.rows] == [n / 100 for n in range(48)]


def test_the_header_of_days_is_found_behind_other_lines_and_with_its_delimiter() -> None:
    text = "Quarter hours;June\n\n" + day("Giorno", HALVES) + day("01/06/2024", [0.5] * 48)
    text = text.replace(",", ";").replace("0.5", "0,5")
    found = read(text, decimal=",", time_format="%d/%m/%Y %H:%M")
    assert found.refused == []
    assert found.summary.found[:2] == ["delimiter ';'", "header in line 3"]
    assert sum(kwh for _, kwh in found.imports) == 24
    serials = day("serial", ["date", *HALVES]) + day("E1", ["2024-06-01", *[0.5] * 48])
    keyed = read(serials, serial_column="serial")
    assert {(row["key"], row["import"]) for row in keyed.rows} == {("E1", 0.5)}


def test_a_repeated_time_may_have_a_second_column() -> None:
    names = [*HALVES[:4], "01:00 (2)", "01:30 (2)", *HALVES[4:]]
    usual = [1] * 4 + ["", ""] + [1] * 44
    rows = [
        day("2024-10-26", usual), day("2024-10-27", list(range(1, 51))), day("2024-10-28", usual)
    ]  # fmt: skip
    for order in (1, -1):
        found = read(day("date", names) + "".join(rows[::order]))
        assert found.refused == []
        autumn = {row["timestamp"]: row["import"] for row in found.rows}
        assert [autumn[at] for at in instants("2024-10-27")] == list(range(1, 51))


def test_days_of_several_meters_and_directions() -> None:
    header = "meter,kind,date," + ",".join(HALVES) + "\n"
    rows = [
        f"{meter},{kind},2024-05-02," + ",".join(["0.5"] * 48) + "\n"
        for meter in ("a", "b")
        for kind in ("import", "export")
    ]
    given = {
        "serial_column": "meter", "time_column": "date", "quantity_column": "kind",
        "value_column": "00:00",
    }  # fmt: skip
    found = read(header + "".join(rows), **given)
    assert found.refused == []
    sums = {
        (key, name): sum(row[name] or 0 for row in found.rows if row["key"] == key)
        for key in "ab"
        for name in ("import", "export")
    }
    assert set(sums.values()) == {24}


def test_days_of_exported_energy() -> None:
    text = day("date", HALVES) + day("2024-05-02", [0.1] * 48)
    (row, *_) = read(text, direction="export").rows
    assert (row["import"], row["export"]) == (None, 0.1)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([f"{hour:02}:00" for hour in range(24)], "24 columns.* 30 minutes: --interval 60m"),
        (list(range(1, 97)), "96 columns.*--interval 15m"),
        (["use"], "no column named by a time of the day"),
        ([*range(1, 47), 99], "none are numbered from 1"),
    ],
)
def test_columns_that_are_no_half_hours_of_a_day_are_refused(names: list[Any], said: str) -> None:
    with pytest.raises(FormatError, match=said):
        read(day("date", names))


def test_one_column_of_a_day_is_not_taken_for_half_hours() -> None:
    text = day("date", HALVES) + "".join(
        day(f"2024-05-{date:02}", [0.1] * 48) for date in range(1, 20)
    )
    with pytest.raises(FormatError, match="1 day apart"):
        staged(text, import_column="00:00", timezone="Europe/London")
