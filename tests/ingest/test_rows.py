"""Conversion of CSV rows into half-hours, refusals with a reason, or skipped rows."""

from datetime import UTC, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest

from app.ingest.rows import CsvFormat, FormatError, HalfHour, Refused, Skipped, read_rows

SYDNEY = ZoneInfo("Australia/Sydney")
LORD_HOWE = ZoneInfo("Australia/Lord_Howe")


def read(text: str, **form: object) -> list[HalfHour | Refused | Skipped]:
    """Read the rows of a file with columns time, use and made."""
    given = {"import_column": "use", "timezone": SYDNEY} | form
    return list(read_rows(["time,use,made\n", *text.splitlines(keepends=True)], CsvFormat(**given)))  # type: ignore[arg-type]


def starts(text: str, **form: object) -> list[str]:
    """Return the starts of a file's half-hours, in UTC."""
    rows = read(text, **form)
    return [f"{row.start:%m-%d %H:%M}" for row in rows if isinstance(row, HalfHour)]


def test_energy_is_exact_and_without_binary_noise() -> None:
    (row,) = read("2011-07-01 01:30,0.48200000000000004,0.0\n", export_column="made")
    assert row == HalfHour(
        2, datetime(2011, 6, 30, 15, 30, tzinfo=UTC), Decimal("0.482"), Decimal(0)
    )


@pytest.mark.parametrize(("unit", "kwh"), [("Wh", "0.25"), ("kWh", "250"), ("MWh", "250000")])
def test_units_become_kwh(unit: str, kwh: str) -> None:
    (row,) = read("2011-07-01 01:30,250,\n", unit=unit)
    assert isinstance(row, HalfHour)
    assert row.import_kwh == Decimal(kwh)


def test_an_end_label_is_half_an_hour_later() -> None:
    assert starts("2011-07-01 00:00,1,\n", label="end") == ["06-30 13:30"]


def test_an_offset_in_the_file_wins_over_the_timezone() -> None:
    assert starts("2011-07-01T00:00+01:00,1,\n2011-07-01T00:00Z,1,\n") == [
        "06-30 23:00",
        "07-01 00:00",
    ]


def test_a_repeated_hour_is_before_and_then_after_the_clock_change() -> None:
    passes = "".join(f"2012-04-01 {time},1,\n" for time in ("02:00", "02:30", "02:00", "02:30"))
    assert starts(passes) == ["03-31 15:00", "03-31 15:30", "03-31 16:00", "03-31 16:30"]


def test_a_repeated_hour_that_is_in_the_file_once_is_before_the_clock_change() -> None:
    once = "".join(f"2012-04-01 {time},1,\n" for time in ("01:30", "02:00", "02:30", "03:00"))
    assert starts(once) == ["03-31 14:30", "03-31 15:00", "03-31 15:30", "03-31 17:00"]


@pytest.mark.parametrize("written", ["02:00", "03:00"])
def test_the_half_hour_that_ends_as_the_clocks_jump_may_be_labelled_by_either_clock(
    written: str,
) -> None:
    labels = "".join(f"2011-10-02 {time},1,\n" for time in ("01:30", written, "03:30"))
    assert starts(labels, label="end") == ["10-01 15:00", "10-01 15:30", "10-01 16:00"]
    (row,) = read("2011-10-02 02:30,1,\n", label="end")
    assert isinstance(row, Refused)


def test_a_decimal_comma_is_read_when_configured() -> None:
    (row,) = read("2011-07-01 01:30,0.5,\n")
    text = ["time;use\n", "2011-07-01 01:30;0,5\n"]
    form = {"import_column": "use", "timezone": SYDNEY, "delimiter": ";"}
    assert list(read_rows(text, CsvFormat(**form, decimal=","))) == [row]  # type: ignore[arg-type]
    (refused,) = read_rows(text, CsvFormat(**form))  # type: ignore[arg-type]
    assert refused == Refused(2, "'0,5' is not a number; --decimal , reads a decimal comma")
    with pytest.raises(FormatError, match="cannot separate both"):
        read("2011-07-01 01:30,1,\n", decimal=",")


@pytest.mark.parametrize("cell", ["1_000", "\u0661", "1,000.5", "0x10", "Infinity", "1e4000"])
def test_a_cell_that_is_not_a_number_is_refused(cell: str) -> None:
    (row,) = read(f'2011-07-01 01:30,"{cell}",\n')
    assert isinstance(row, Refused)
    assert "is not a number" in row.reason


def test_a_file_cut_off_within_quotes_is_refused() -> None:
    with pytest.raises(FormatError, match="line 3 is not CSV"):
        read('2011-07-01 01:30,1,2\n2011-07-01 02:00,1,"2\n')


def test_clocks_that_move_by_half_an_hour() -> None:
    passes = "".join(f"2012-04-01 {time},1,\n" for time in ("01:00", "01:30", "01:30", "02:00"))
    assert starts(passes, timezone=LORD_HOWE) == [
        "03-31 14:00",
        "03-31 14:30",
        "03-31 15:00",
        "03-31 15:30",
    ]


def test_a_time_that_does_not_exist_is_skipped_only_when_it_is_zero() -> None:
    zero, energy = read("2011-10-02 02:00,0.0,\n2011-10-02 02:30,0.3,\n")
    assert zero == Skipped(2)
    assert isinstance(energy, Refused)
    assert "does not exist in Australia/Sydney" in energy.reason


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("2011-07-01 00:10,1,", "is not on the hour or half-hour"),
        ("2011-07-01 00:00:01,1,", "is not on the hour or half-hour"),
        ("yesterday,1,", "is not a time like"),
        ("2011-07-01 00:00,-1,", "is negative"),
        ("2011-07-01 00:00,much,", "is not a number"),
        ("2011-07-01 00:00,NaN,", "is not a number"),
        ("2011-07-01 00:00,1e30,", "is more than any circuit"),
        ("2011-07-01 00:00,,", "has no energy"),
        ("2011-07-01 00:00,1", "has 2 columns, the header has 3"),
        ("9999-12-31 23:59,1,", "9999"),
        ("0001-01-01 00:00,1,", "is outside the calendar"),
    ],
)
def test_a_bad_row_is_refused_with_its_line_and_reason(row: str, reason: str) -> None:
    good, bad = read(f"2011-07-01 12:00,1,\n{row}\n")
    assert isinstance(good, HalfHour)
    assert isinstance(bad, Refused)
    assert bad.line == 3
    assert reason in bad.reason


def test_a_time_without_offset_needs_a_timezone() -> None:
    (row,) = read("2011-07-01 00:00,1,\n", timezone=None)
    assert isinstance(row, Refused)
    assert "--timezone" in row.reason


@pytest.mark.parametrize(
    ("form", "said"),
    [({"import_column": "GC"}, "'use'"), ({"import_column": None}, "--import-column")],
)
def test_a_missing_column_is_named_with_those_that_are_there(
    form: dict[str, str | None], said: str
) -> None:
    with pytest.raises(FormatError, match=said):
        read("", **form)
