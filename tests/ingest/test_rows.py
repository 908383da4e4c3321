"""A row per interval: texts become half-hours in UTC and kWh, or refusals with a reason."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.ingest.faults import FormatError, Refused
from tests.ingest.text import Staged, staged

SYDNEY = "Australia/Sydney"
LORD_HOWE = "Australia/Lord_Howe"
LONDON = "Europe/London"


def read(text: str, **given: Any) -> Staged:
    """Read the rows of a file with columns time, use and made."""
    options = {"import_column": "use", "timezone": SYDNEY} | given
    return staged("time,use,made\n" + text, **options)


def starts(text: str, **given: Any) -> list[str]:
    """Return the starts of a file's half-hours, in UTC."""
    return read(text, **given).starts


def reason(text: str, **given: Any) -> str:
    """Return the reason for which the only row is refused."""
    (row,) = read(text, **given).refused
    return row.reason


def test_energy_is_exact_and_without_binary_noise() -> None:
    (row,) = read("2011-07-01 01:30,0.48200000000000004,0.0\n", export_column="made").rows
    assert (row["line"], row["import"], row["export"]) == (2, 0.482, 0)
    assert row["timestamp"] == datetime(2011, 6, 30, 15, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("unit", "kwh"),
    [
        ("Wh", 0.25), ("kWh", 250), ("MWh", 250_000), ("W", 0.125), ("kW", 125), ("MW", 125_000),
        ("J", 0.0000694), ("kJ", 0.0694444), ("MJ", 69.4444444), ("GJ", 69_444.4444444),
    ],
)  # fmt: skip
def test_units_become_kwh(unit: str, kwh: float) -> None:
    (row,) = read("2011-07-01 01:30,250,\n", unit=unit).rows
    assert row["import"] == kwh


def test_an_end_label_is_half_an_hour_later() -> None:
    assert starts("2011-07-01 00:00,1,\n", label="end") == ["06-30 13:30"]


def test_an_offset_in_the_file_wins_over_the_timezone() -> None:
    rows = "2011-07-01T00:00+01:00,1,\n2011-06-30T23:30Z,1,\n2011-07-01 00:00:00+00:00,1,\n"
    assert starts(rows) == ["06-30 23:00", "06-30 23:30", "07-01 00:00"]


def test_a_repeated_hour_is_before_and_then_after_the_clock_change() -> None:
    passes = "".join(f"2012-04-01 {time},1,\n" for time in ("02:00", "02:30", "02:00", "02:30"))
    assert starts(passes) == ["03-31 15:00", "03-31 15:30", "03-31 16:00", "03-31 16:30"]


def test_a_repeated_hour_that_is_in_the_file_once_is_before_the_clock_change() -> None:
    once = "".join(f"2012-04-01 {time},1,\n" for time in ("01:30", "02:00", "02:30", "03:00"))
    assert starts(once) == ["03-31 14:30", "03-31 15:00", "03-31 15:30", "03-31 17:00"]
    assert read(once).summary.once == 2


@pytest.mark.parametrize("forward", [True, False])
@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (
            ("00:30", "01:00", "01:30", "01:00", "01:30", "02:00"),
            ("25 23:30", "26 00:00", "26 00:30", "26 01:00", "26 01:30", "26 02:00"),
        ),
        (("00:30", "01:30", "01:00", "01:30"), ("25 23:30", "26 00:30", "26 01:00", "26 01:30")),
        (("00:30", "01:00", "01:00", "02:00"), ("25 23:30", "26 00:00", "26 01:00", "26 02:00")),
        (("00:30", "01:30", "01:30", "02:00"), ("25 23:30", "26 00:30", "26 01:30", "26 02:00")),
    ],
)
def test_the_order_of_the_rows_decides_the_pass(
    times: tuple[str, ...], expected: tuple[str, ...], forward: bool
) -> None:
    rows = [f"2025-10-26 {time},{number},\n" for number, time in enumerate(times, start=1)]
    text = "".join(rows if forward else rows[::-1])
    found = read(text, timezone=LONDON, interval="30m")
    assert not found.refused
    assert found.imports == [(f"10-{at}", number) for number, at in enumerate(expected, start=1)]


@pytest.mark.parametrize(
    "times",
    [
        ("00:30", "01:00", "01:00", "01:30", "01:30", "02:00"),  # sorted by the clock
        ("01:00", "00:30", "01:30", "02:00", "01:00", "01:30"),
        ("01:00", "01:00"),
        ("00:30", "01:00", "01:30", "01:00", "01:30", "01:00", "02:00"),
    ],
)
def test_an_order_that_does_not_decide_the_pass_is_refused_with_its_lines(
    times: tuple[str, ...],
) -> None:
    text = "".join(f"2025-10-26 {time},1,\n" for time in times)
    found = read(text, timezone=LONDON, interval="30m")
    repeated = [line for line, time in enumerate(times, start=2) if "01:00" <= time < "02:00"]
    assert [row.line for row in found.refused] == repeated
    lines = ", ".join(map(str, repeated))
    assert all(f"order of lines {lines} does not tell" in row.reason for row in found.refused)


def test_equal_times_in_pairs_are_the_two_passes_only_when_named() -> None:
    times = ["00:00", "00:30", "01:00", "01:00", "01:30", "01:30", "02:00", "02:30"]
    text = "".join(f"2025-10-26 {time},{number},\n" for number, time in enumerate(times, start=1))
    named = read(text, timezone=LONDON, clock_change="pairs")
    assert not named.refused
    assert [kwh for _, kwh in named.imports] == [1, 2, 3, 5, 4, 6, 7, 8]
    assert named.starts[2:6] == ["10-26 00:00", "10-26 00:30", "10-26 01:00", "10-26 01:30"]
    refused = read(text, timezone=LONDON).refused
    assert all("--clock-change pairs takes the first" in row.reason for row in refused)
    assert len(refused) == 4
    # The order of the rows is still what decides, where it does.
    passes = "".join(f"2025-10-26 {time},1,\n" for time in (*times[:3], *times[4:3:-1], "01:30"))
    assert read(passes, timezone=LONDON, clock_change="pairs").imports == (
        read(passes, timezone=LONDON).imports
    )
    # The ends of intervals: the last before the change is labelled by either clock.
    for ends in (
        ["01:00", "01:00", "01:30", "01:30", "02:00"],
        ["01:00", "01:30", "01:30", *["02:00"] * 2],
    ):
        text = "".join(f"2025-10-26 {time},1,\n" for time in ("00:00", "00:30", *ends, "02:30"))
        found = read(text, timezone=LONDON, clock_change="pairs", label="end")
        assert (found.refused, len(set(found.starts)), found.starts[-1]) == ([], 8, "10-26 02:00")
    backward = "".join(f"2025-10-26 {time},1,\n" for time in times[::-1])
    assert len(read(backward, timezone=LONDON, clock_change="pairs").refused) == 4


def test_days_newest_first_with_hours_in_order_are_told_apart_within_the_day() -> None:
    halves = [f"{half // 2:02}:{half % 2 * 30:02}" for half in range(48)]
    autumn = [*halves[:4], *halves[2:]]
    days = {"2025-10-27": halves, "2025-10-26": autumn, "2025-10-25": halves}
    text = "".join(f"{day} {time},1,\n" for day, times in days.items() for time in times)
    found = read(text, timezone=LONDON)
    assert (found.refused, len(set(found.starts))) == ([], 146)


@pytest.mark.parametrize("before", ["01:00", "02:00"])
def test_the_end_of_the_hour_before_the_change_may_be_labelled_by_either_clock(
    before: str,
) -> None:
    # The instant of the change is 02:00 by the clock before it moves, 01:00 by the one after.
    times = ["00:30", "01:00", "01:30", before, "01:30", "02:00", "02:30"]
    for rows in (times, times[::-1]):
        text = "".join(f"2025-10-26 {time},1,\n" for time in rows)
        assert starts(text, timezone=LONDON, label="end") == [
            "10-25 23:00", "10-25 23:30", "10-26 00:00", "10-26 00:30", "10-26 01:00",
            "10-26 01:30", "10-26 02:00",
        ]  # fmt: skip


@pytest.mark.parametrize("written", ["02:00", "03:00"])
def test_the_half_hour_that_ends_as_the_clocks_jump_may_be_labelled_by_either_clock(
    written: str,
) -> None:
    labels = "".join(f"2011-10-02 {time},1,\n" for time in ("01:30", written, "03:30"))
    assert starts(labels, label="end") == ["10-01 15:00", "10-01 15:30", "10-01 16:00"]
    assert "does not exist" in reason("2011-10-02 02:30,1,\n", label="end")


def test_a_decimal_comma_is_read_when_configured() -> None:
    text = "time;use\n2011-07-01 01:30;0,5\n"
    options = {"import_column": "use", "timezone": SYDNEY, "delimiter": ";"}
    (row,) = staged(text, decimal=",", **options).rows
    assert row["import"] == 0.5
    refused = staged(text, **options).refused
    assert refused == [Refused(2, "'0,5' is not a number; --decimal , reads a decimal comma")]
    with pytest.raises(FormatError, match="cannot separate both"):
        read("2011-07-01 01:30,1,\n", decimal=",", delimiter=",")


@pytest.mark.parametrize("cell", ["1_000", "\u0661", "1,000.5", "0x10", "Infinity", "1e4000"])
def test_a_cell_that_is_not_a_number_is_refused(cell: str) -> None:
    assert "is not a number" in reason(f'2011-07-01 01:30,"{cell}",\n')


def test_a_file_cut_off_within_quotes_is_refused() -> None:
    with pytest.raises(FormatError, match="line 3 is not CSV"):
        read('2011-07-01 01:30,1,2\n2011-07-01 02:00,1,"2\n')


def test_lines_are_counted_within_quotes() -> None:
    found = read('2011-07-01 01:30,1,"a\nb"\n2011-07-01 02:00,-1,\n')
    assert [row.line for row in found.refused] == [4]


def test_clocks_that_move_by_half_an_hour() -> None:
    passes = "".join(f"2012-04-01 {time},1,\n" for time in ("01:00", "01:30", "01:30", "02:00"))
    assert starts(passes, timezone=LORD_HOWE) == [
        "03-31 14:00",
        "03-31 14:30",
        "03-31 15:00",
        "03-31 15:30",
    ]


def test_a_time_that_does_not_exist_is_skipped_only_when_it_is_zero() -> None:
    found = read("2011-10-02 02:00,0.0,\n2011-10-02 02:30,0.3,\n")
    assert found.summary.skipped == 1
    (row,) = found.refused
    assert row.line == 3
    assert "does not exist in Australia/Sydney" in row.reason


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("2011-07-01 00:10,1,", "is not on the hour or half-hour"),
        ("2011-07-01 00:00:01,1,", "is not on the hour or half-hour"),
        ("yesterday,1,", "is not a time like"),
        ("2011-07-01 00:00,-1,", "is negative"),
        ("2011-07-01 00:00,much,", "is not a number"),
        ("2011-07-01 00:00,NaN,", "is not a number"),
        ("2011-07-01 00:00,1e30,", "kWh believed"),
        ("2011-07-01 00:00,,", "has no energy"),
        ("2011-07-01 00:00,1", "has 2 columns, the header has 3"),
        ("2011-07-01 00:00,1,,9", "has 4 columns, the header has 3"),
        ("9999-12-31 23:59,1,", "is not between 2000 and 2100"),
        ("1999-12-31 23:30,1,", "is not between 2000 and 2100"),
        ("0001-01-01 00:00,1,", "is not between 2000 and 2100"),
    ],
)
def test_a_bad_row_is_refused_with_its_line_and_reason(row: str, said: str) -> None:
    found = read(f"2011-07-01 12:00,1,\n{row}\n", interval="30m")
    assert len(found.rows) == 1
    (refused,) = found.refused
    assert refused.line == 3
    assert said in refused.reason
    assert found.summary.read == 2


def test_a_time_in_the_future_is_refused() -> None:
    soon = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) + timedelta(hours=2)
    assert reason(f"{soon:%Y-%m-%d %H:%M}Z,1,\n").endswith("is more than an hour in the future")
    assert read(f"{soon - timedelta(hours=2):%Y-%m-%d %H:%M}Z,1,\n").refused == []


def test_a_time_without_offset_needs_a_timezone() -> None:
    assert "--timezone" in reason("2011-07-01 00:00,1,\n", timezone=None)


REPEATED = "start,meter,use,unit,use,unit\n2024-05-01 00:00,7,9,kWh,0.5,kWh\n"


def test_a_column_whose_name_is_repeated_is_named_by_its_number() -> None:
    given = {"timezone": "UTC", "serial_column": "meter"}
    assert staged(REPEATED, import_column="use (2)", **given).imports == [("05-01 00:00", 0.5)]
    assert staged(REPEATED, import_column="Use (1)", **given).imports == [("05-01 00:00", 9)]
    with pytest.raises(FormatError, match=r"there are 2 columns 'use': name one as 'use \(1\)'"):
        staged(REPEATED, import_column="use", **given)
    with pytest.raises(FormatError, match=r"there is no column 'use \(3\)'"):
        staged(REPEATED, import_column="use (3)", **given)


@pytest.mark.parametrize(
    "text",
    [
        "serial,kind,time,use\nA,x,2024-05-01 00:00,0.5\n",
        "use,serial,kind,time\n0.5,A,x,2024-05-01 00:00\n",
    ],
)
def test_without_a_name_the_time_is_in_the_first_column_that_no_option_names(text: str) -> None:
    given = {"serial_column": "serial", "import_column": "use", "where": ["kind=x"]}
    found = staged(text, timezone="UTC", **given)
    assert found.imports == [("05-01 00:00", 0.5)]
    assert "times in column 'time'" in found.summary.found
    with pytest.raises(FormatError, match="name the column of the time with --time-column"):
        staged("use\n1\n", import_column="use", timezone="UTC")


@pytest.mark.parametrize(
    ("given", "said"),
    [({"import_column": "GC"}, "'use'"), ({"import_column": None}, "--import-column")],
)
def test_a_missing_column_is_named_with_those_that_are_there(
    given: dict[str, str | None], said: str
) -> None:
    with pytest.raises(FormatError, match=said):
        read("", **given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"timezone": "Mars/Base"}, "--timezone: 'Mars/Base' is not an IANA time zone"),
        ({"delimiter": ";;"}, "--delimiter: ';;' is not a single character"),
        ({"unit": "horses"}, "--unit: "),
    ],
)
def test_a_bad_option_is_named(given: dict[str, Any], said: str) -> None:
    with pytest.raises(FormatError, match=said):
        read("", **given)
