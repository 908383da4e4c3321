"""A year written in any zone, order, layout and unit is read back to the watt-hour."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.ingest.values import KWH_PER_UNIT
from tests.ingest.text import staged

HALF_HOUR = timedelta(minutes=30)
ZONES = (
    "Europe/London", "Europe/Brussels", "Australia/Sydney", "Australia/Lord_Howe",
    "America/New_York", "America/St_Johns", "America/Havana", "Atlantic/Azores",
    "Africa/Casablanca", "Asia/Kolkata", "UTC",
)  # fmt: skip
Year = list[tuple[datetime, int]]  # starts, and watt-hours


def local_year(zone: ZoneInfo, year: int, seed: int) -> Year:
    """Return the half-hours of a local year, with an energy that no other nearby one has."""
    start = datetime(year, 1, 1, tzinfo=zone).astimezone(UTC)
    stop = datetime(year + 1, 1, 1, tzinfo=zone).astimezone(UTC)
    count = (stop - start) // HALF_HOUR
    return [(start + n * HALF_HOUR, (n * 7919 + seed) % 4999) for n in range(count)]


def number(watt_hours: int, unit: str) -> str:
    """Return an energy, or the mean power that gives it, as a number with twelve digits."""
    kwh = watt_hours / 1000
    return f"{kwh * 2 if unit == 'kW' else kwh / KWH_PER_UNIT[unit]:.12g}"


def as_rows(label: timedelta, offset: bool) -> Callable[[Year, ZoneInfo, str, int], str]:
    def write(rows: Year, zone: ZoneInfo, unit: str, order: int) -> str:
        form = "%Y-%m-%dT%H:%M:%S%z" if offset else "%Y-%m-%d %H:%M"
        lines = [
            f"{(at + label).astimezone(zone).strftime(form)},{number(energy, unit)}\n"
            for at, energy in rows[::order]
        ]
        return "time,use\n" + "".join(lines)

    return write


def as_long(rows: Year, zone: ZoneInfo, unit: str, order: int) -> str:
    lines = [
        f"{kind},{at.astimezone(zone):%Y-%m-%d %H:%M},{number(energy * times, unit)}\n"
        for at, energy in rows[::order]
        for kind, times in (("import", 1), ("export", 0))
    ]
    return "kind,time,use\n" + "".join(lines)


def as_days(rows: Year, zone: ZoneInfo, unit: str, order: int) -> str:
    days: dict[str, list[str]] = {}
    for at, energy in rows:
        days.setdefault(f"{at.astimezone(zone):%Y-%m-%d}", []).append(number(energy, unit))
    header = "date," + ",".join(map(str, range(1, 51))) + "\n"
    lines = [
        ",".join([day, *values, *[""] * (50 - len(values))]) + "\n" for day, values in days.items()
    ]
    return header + "".join(lines[::order])


LAYOUTS: dict[str, tuple[Callable[[Year, ZoneInfo, str, int], str], dict[str, Any]]] = {
    "starts": (as_rows(timedelta(), False), {"import_column": "use"}),
    "ends": (as_rows(HALF_HOUR, False), {"import_column": "use", "label": "end"}),
    "offsets": (as_rows(timedelta(), True), {"import_column": "use"}),
    "long": (
        as_long,
        {"time_column": "time", "quantity_column": "kind", "value_column": "use"},
    ),
    "days": (as_days, {"layout": "days"}),
}


@settings(max_examples=15)
@given(
    zone=st.sampled_from(ZONES),
    # Newfoundland moved its clocks a minute after midnight until 2011.
    year=st.integers(2012, 2024),
    order=st.sampled_from([1, -1]),
    layout=st.sampled_from(sorted(LAYOUTS)),
    unit=st.sampled_from(["Wh", "kWh", "MWh", "J", "MJ", "kW"]),
    seed=st.integers(0, 4998),
)
# Cuba's clocks skip midnight in spring.
@example(zone="America/Havana", year=2024, order=1, layout="days", unit="kWh", seed=1)
@example(zone="America/Havana", year=2024, order=-1, layout="starts", unit="kWh", seed=1)
@example(zone="America/Havana", year=2024, order=1, layout="ends", unit="kWh", seed=1)
def test_a_year_is_read_back_to_the_watt_hour(
    zone: str, year: int, order: int, layout: str, unit: str, seed: int
) -> None:
    write, options = LAYOUTS[layout]
    rows = local_year(ZoneInfo(zone), year, seed)
    text = write(rows, ZoneInfo(zone), unit, order)
    found = staged(text, timezone=zone, unit=unit, **options)
    assert found.refused == []
    read = {row["timestamp"]: row["import"] for row in found.rows if row["import"] is not None}
    assert len(read) == len(rows)
    assert {at: round(kwh * 1000) for at, kwh in read.items()} == dict(rows)
