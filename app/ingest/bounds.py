"""Bounds of times and values, the same for every file and as in the database, each with its words.

A half-hour may have the energy that the ratings of its circuit or of its service head's fuse allow,
with a margin; where neither is known, a setting's.
"""

from datetime import UTC, datetime, timedelta

EARLIEST_TIME = datetime(2000, 1, 1, tzinfo=UTC)
LATEST_TIME = datetime(2100, 1, 1, tzinfo=UTC)
# Clocks of data loggers are off by minutes; nobody knows energy an hour before it flows.
AHEAD = timedelta(hours=1)
LARGEST_READ = 100_000_000.0  # kWh: no counter has more than eight digits before the point

# Registers with their largest energy in a half-hour, kWh, and the rating in A that it comes from,
# if one is known: three phases of 230 V for half an hour, and a quarter on top.
LIMITS = """
    select t.key, t.register_id, rating.amps,
        coalesce(round(rating.amps * 3 * 0.23 / 2 * 1.25, 1), %(largest)s) as largest_kwh
    from targets as t
    cross join lateral (
        select coalesce(
            (
                select max(c.rating_amps) from flows.circuit_register as cr
                join flows.circuits as c on c.id = cr.circuit
                where cr.register = t.register_id
            ),
            (
                select max(head.fuse_rating) from flows.meter_registers as r
                join flows.service_head_meter as shm on shm.meter = r.meter_id
                join flows.service_head_registry as head on head.id = shm.service_head
                where r.register_id = t.register_id
            )
        ) as amps
    ) as rating
"""


def describe_energy(kwh: float, largest: float, amps: float | None = None) -> str:
    """Return the reason to refuse a value above its bound."""
    because = f" at a rating of {amps:g} A" if amps else ""
    return f"{kwh:,.15g} kWh is more than the {largest:,.15g} kWh believed{because}"


def describe_time(text: str, moment: datetime | None) -> str:
    """Return the reason to refuse a time outside the bounds; `moment` is None if it is far off."""
    if moment is None or not EARLIEST_TIME <= moment < LATEST_TIME:
        return f"{text} is not between 2000 and 2100"
    return f"{text} is more than an hour in the future"
