"""Files of something other than half-hourly energy are recognised by all of their rows."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest

from app.ingest.faults import FormatError
from tests.ingest.text import Staged, staged


def file(
    minutes: int, rows: int, value: Callable[[int], float] = lambda n: n % 7 / 10, begin: str = ""
) -> str:
    """Return a file in UTC with a row for each interval from 2024-01-01, or from `begin`."""
    start = datetime.fromisoformat(begin or "2024-01-01T00:00:00+00:00").astimezone(UTC)
    times = (start + n * timedelta(minutes=minutes) for n in range(rows))
    return "time,use\n" + "".join(
        f"{time:%Y-%m-%d %H:%M}Z,{value(n):.4f}\n" for n, time in enumerate(times)
    )


def read(text: str, **given: Any) -> Staged:
    return staged(text, **({"import_column": "use", "timezone": "Europe/London"} | given))


def reversed_rows(text: str) -> str:
    header, *rows = text.splitlines()
    return "\n".join([header, *rows[::-1]]) + "\n"


def shuffled_rows(text: str) -> str:
    header, *rows = text.splitlines()
    Random(1).shuffle(rows)  # noqa: S311
    return "\n".join([header, *rows]) + "\n"


@pytest.mark.parametrize("ordered", [lambda text: text, reversed_rows, shuffled_rows])
@pytest.mark.parametrize(
    ("minutes", "said", "option"),
    [(60, "60 minutes", "60m"), (15, "15 minutes", "15m"), (1440, "1 day", "1d"), (5, "5 m", "5m")],
)
def test_another_interval_than_half_hours_is_said_and_refused(
    minutes: int, said: str, option: str, ordered: Callable[[str], str]
) -> None:
    with pytest.raises(FormatError, match=f"lines 2 to 101 are {said}.*--interval {option} takes"):
        read(ordered(file(minutes, 100)))


def test_two_rows_an_hour_apart_are_no_half_hours() -> None:
    with pytest.raises(FormatError, match="60 minutes apart"):
        read(file(60, 2))
    assert len(read(file(60, 2), interval="30m").rows) == 2


@pytest.mark.parametrize("ordered", [lambda text: text, reversed_rows, shuffled_rows])
def test_half_hours_with_gaps_are_half_hours(ordered: Callable[[str], str]) -> None:
    header, *rows = file(30, 400).splitlines(keepends=True)
    kept = header + "".join(row for number, row in enumerate(rows) if number % 9 or number > 300)
    found = read(ordered(kept))
    assert not found.refused
    assert found.summary.interval == "30m"


def test_a_file_that_changes_its_interval_is_refused() -> None:
    text = file(30, 400) + file(60, 100, begin="2025-01-01T00:00:00+00:00").partition("\n")[2]
    with pytest.raises(FormatError, match="partly 30 minutes and partly 60 minutes apart"):
        read(text)
    assert len(read(text, interval="30m").rows) == 500


def test_finer_rows_than_the_interval_named_are_refused() -> None:
    with pytest.raises(FormatError, match="30 minutes apart, which contradicts --interval 60m"):
        read(file(30, 10), interval="60m", spread="even")


def test_quarters_of_an_hour_are_parts_of_half_hours() -> None:
    found = read(file(15, 8, lambda n: n), interval="15m")
    assert [row["minutes"] for row in found.rows] == [15] * 8
    assert sum(row["import"] for row in found.rows) == 28


def test_hours_are_spread_only_when_told_and_are_estimates() -> None:
    with pytest.raises(FormatError, match="--spread even"):
        read(file(60, 3), interval="60m")
    found = read(file(60, 3, lambda n: n + 0.0001), interval="60m", spread="even")
    assert [row["import"] for row in found.rows] == [
        0.00005, 0.00005, 0.50005, 0.50005, 1.00005, 1.00005,
    ]  # fmt: skip
    assert all(row["estimated"] for row in found.rows)


def test_a_day_whose_midnight_a_clock_change_skips_begins_at_the_change() -> None:
    days = "".join(f"2024-03-{day:02},{day}\n" for day in range(9, 12))
    found = read(f"time,use\n{days}", timezone="America/Havana", interval="1d", spread="even")
    assert found.refused == []
    assert [round(sum(row["import"] for row in found.rows if row["line"] == line), 6)
            for line in (2, 3, 4)] == [9, 10, 11]  # fmt: skip
    starts = [at for at in found.starts if at.endswith(" 05:00")]
    assert starts == ["03-09 05:00", "03-10 05:00", "03-11 05:00"]
    assert len(found.rows) == 48 + 46 + 48
    assert len(set(found.starts)) == len(found.rows)


@pytest.mark.parametrize(("day", "halves"), [("03-31", 46), ("06-01", 48), ("10-27", 50)])
def test_a_day_is_spread_over_its_half_hours_without_losing_a_watt_hour(
    day: str, halves: int
) -> None:
    found = read(f"time,use\n2024-{day},10.001\n", interval="1d", spread="even")
    assert len(found.rows) == halves
    assert sum(round(row["import"] * 10**7) for row in found.rows) == 100_010_000
    end = f"time,use\n{datetime(2024, 1, 1):%Y}-{day}T24:00,10.001\n"
    assert read(end, interval="1d", spread="even", label="end").starts == found.starts


def test_power_is_energy_over_the_interval() -> None:
    hour = read(file(60, 2, lambda n: 3), interval="60m", spread="even", unit="kW")
    quarter = read(file(15, 4, lambda n: 3), interval="15m", unit="kW")
    assert [row["import"] for row in hour.rows] == [1.5] * 4
    assert [row["import"] for row in quarter.rows] == [0.75] * 4


@pytest.mark.parametrize("ordered", [lambda text: text, reversed_rows])
@pytest.mark.parametrize(
    ("rows", "value"),
    [
        (4, lambda n: 12345.1 + n / 2),
        (4, lambda n: 12345.1 + n // 2),
        (200, lambda n: 0.6 * n),  # a new meter's
    ],
)
def test_a_counter_is_no_energy(
    rows: int, value: Callable[[int], float], ordered: Callable[[str], str]
) -> None:
    with pytest.raises(FormatError, match=r"import column only rises.*--reads"):
        read(ordered(file(30, rows, value)))


def test_energy_that_rises_for_hours_is_energy() -> None:
    assert len(read(file(30, 48, lambda n: n * n / 500)).rows) == 48
    assert len(read(file(30, 960, lambda n: n / 1000)).rows) == 960


def test_readings_are_taken_at_any_time() -> None:
    text = "time,use\n2024-01-01 00:07:12Z,12345.1\n2024-01-01 03:00Z,12346.1\n"
    found = read(text, reads=True)
    assert found.imports == [("01-01 00:07", 12345.1), ("01-01 03:00", 12346.1)]
