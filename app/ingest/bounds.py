"""Bounds of times and values, as the database has them for every door, each with its words.

A half-hour may have the energy that the ratings of its circuit or of its service head's fuse allow,
with a margin; where neither is known, what the table `flows.bounds` says.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

# Beyond these the calendar of a file is misread, whatever the bounds.
FIRST_YEAR, LAST_YEAR = 1999, 2100

BOUNDS_ROW = """
    select b.earliest, extract(epoch from b.ahead)::float as ahead,
        flows.largest_number()::float as largest_number
    from flows.bounds as b
"""
# Registers with their largest energy in a half-hour, kWh, and the rating in A that it comes from,
# if one is known.
LIMITS = """
    select t.key, t.register_id, bound.amps, bound.largest_kwh
    from targets as t cross join lateral flows.energy_bound(t.register_id) as bound
"""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The bounds of all times and numbers; the defaults are those of a new database."""

    earliest: datetime = datetime(2000, 1, 1, tzinfo=UTC)
    # Clocks of data loggers are off by minutes; nobody knows energy an hour before it flows.
    ahead: timedelta = timedelta(hours=1)
    largest_number: float = 100_000_000.0

    def describe_time(self, text: str, moment: datetime | None) -> str:
        """Return the reason to refuse a time outside the bounds; None if it is far off."""
        if moment is None or not (self.earliest <= moment and moment.year < LAST_YEAR):
            return f"{text} is not between {self.earliest.year} and {LAST_YEAR}"
        return f"{text} is more than {_describe(self.ahead)} in the future"


def read_bounds(connection: psycopg.Connection[Any]) -> Bounds:
    """Return the bounds of a database."""
    row = connection.execute(BOUNDS_ROW).fetchone()
    assert row is not None  # noqa: S101  (the table has one row)
    return Bounds(row[0].astimezone(UTC), timedelta(seconds=row[1]), row[2])


def _describe(length: timedelta) -> str:
    return "an hour" if length == timedelta(hours=1) else str(length)


def describe_energy(kwh: float, largest: float, amps: float | None = None) -> str:
    """Return the reason to refuse a value above its bound."""
    because = f" at a rating of {amps:g} A" if amps else ""
    return f"{kwh:,.15g} kWh is more than the {largest:,.15g} kWh believed{because}"
