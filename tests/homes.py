"""Residents of the demo's homes, and a model of what each of them may read."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import psycopg

from app.auth.tokens import Grant
from app.db.principal import RESIDENT
from tests.conftest import Stack

Admin = psycopg.Connection[Any]
Stay = tuple[datetime, datetime | None]
FOR_EVER = datetime.max.replace(tzinfo=UTC)
TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
ISSUER = "https://residents.example"
OF_PLOT = """
    select
        p.id::text as house, p.site::text as site, p.esco::text as esco,
        h.service_head::text as head, m.meter::text as meter,
        array(select r.register_id::text from flows.meter_registers as r where r.meter_id = m.meter
            order by 1) as registers,
        array(select c.circuit::text from flows.meter_registers as r
            join flows.circuit_register as c on c.register = r.register_id
            where r.meter_id = m.meter order by 1) as circuits
    from flows.properties as p
    join flows.escos as e on e.id = p.esco
    join flows.properties_service_head as h on h.property = p.id
    join flows.service_head_meter as m on m.service_head = h.service_head
    where e.code = %s and p.plot = %s
"""


@dataclass(frozen=True)
class Home:
    """A home of the demo and what supplies it."""

    house: str
    site: str
    esco: str
    head: str
    meter: str
    registers: tuple[str, ...]
    circuits: tuple[str, ...]

    @property
    def ids(self) -> set[str]:
        """The ids that are of this home alone."""
        return {self.house, self.head, self.meter, *self.registers, *self.circuits}


@dataclass(frozen=True)
class Resident:
    """A member, with the homes that it has or had, each with its stay."""

    member: str
    esco: str
    stays: tuple[tuple[Home, Stay], ...] = field(default=())

    def stays_of(self, key: str) -> list[Stay]:
        """Return the times in which a thing with this id is the resident's."""
        return [stay for home, stay in self.stays if key in home.ids]

    def had(self, key: str, first: datetime, end: datetime | None = None) -> bool:
        """Return whether a moment, or all of an interval, lies within one stay there."""
        return any(
            start <= first
            and (first < (stop or FOR_EVER) if end is None else end <= (stop or FOR_EVER))
            for start, stop in self.stays_of(key)
        )

    def has_now(self, key: str) -> bool:
        """Return whether the resident lives there now."""
        return self.had(key, datetime.now(UTC))


def token_of(stack: Stack, resident: Resident) -> str:
    """Return a token as an app gets it for a resident of Water Lilies."""
    esco = UUID(resident.esco)
    grant = Grant("fla_00000000000000aa", RESIDENT, esco, "wlce", ("read",), resident.member)
    return stack.issue(grant)


def home_of(admin: Admin, plot: str, esco: str = "wlce") -> Home:
    """Return a home of the demo, as the administrator of the database."""
    admin.execute("reset role")
    row = admin.execute(OF_PLOT, (esco, plot)).fetchone()
    assert row is not None
    house, site, owner, head, meter, registers, circuits = row
    return Home(house, site, owner, head, meter, tuple(registers), tuple(circuits))


def add_resident(
    admin: Admin, number: int, stays: Iterable[tuple[Home, Stay]], esco: str = "wlce"
) -> Resident:
    """Add a resident with its homes, as the administrator of the database."""
    admin.execute("reset role")
    admin.execute(
        "insert into gateway.issuer (url, audiences) values (%s, '{flows}') on conflict do nothing",
        (ISSUER,),
    )
    member = f"flm_{number:016x}"
    row = admin.execute(
        "insert into gateway.member (id, issuer, subject, esco, name, scopes, resident)"
        " select %s, i.id, %s, e.id, 'A resident', '{read}', true"
        " from gateway.issuer as i, flows.escos as e where i.url = %s and e.code = %s"
        " returning esco::text",
        (member, member, ISSUER, esco),
    ).fetchone()
    assert row is not None
    resident = Resident(member, row[0], tuple(stays))
    for home, (start, end) in resident.stays:
        admin.execute(
            "insert into gateway.residence (member, property, esco, start_time, end_time)"
            " values (%s, %s, %s, %s, %s)",
            (member, home.house, home.esco, start, end),
        )
    return resident


def add_residents(admin: Admin) -> dict[str, Resident]:
    """Add one who stays, the former and the next one of a home, and one who moved.

    Nobody lives next door, in the home of plot 5.
    """
    first, second, third, fourth = (home_of(admin, plot) for plot in "1234")
    moved_in, moved_out = (
        TODAY - timedelta(days=40, minutes=-615),
        TODAY - timedelta(days=21, hours=-12),
    )
    changed = TODAY - timedelta(days=30)
    return {
        "settled": add_resident(admin, 1, [(first, (TODAY - timedelta(days=400), None))]),
        "former": add_resident(admin, 2, [(second, (moved_in, moved_out))]),
        "next": add_resident(admin, 3, [(second, (moved_out, None))]),
        "moved": add_resident(
            admin, 4, [(third, (TODAY - timedelta(days=60), changed)), (fourth, (changed, None))]
        ),
    }


# Relation → the id columns that all must be the resident's now.
PRESENT = {
    "service_head_registry": ("id",),
    "meter_registry": ("id",),
    "meter_registers": ("register_id",),
    "circuits": ("id",),
    "properties_service_head": ("property", "service_head"),
    "service_head_meter": ("service_head", "meter"),
    "circuit_register": ("circuit", "register"),
    **dict.fromkeys(
        ("meter_shadows", "meter_shadows_tariffs", "meters_low_balance", "meters_offline_all",
         "meters_offline_recently", "meters_clock_drift"),
        ("id",),
    ),
}  # fmt: skip
UNITS = {
    "timestamp": timedelta(minutes=30), "date": timedelta(days=1), "day": timedelta(days=1),
}  # fmt: skip


def may_read(resident: Resident, relation: str, row: dict[str, Any]) -> bool | None:
    """Return whether a resident may read a row; None where another test says so."""
    if relation == "escos":
        return bool(row["id"] == resident.esco)
    if relation == "sites_new":
        return bool(row["id"] in {home.site for home, _ in resident.stays})
    if relation == "properties":
        return bool(resident.stays_of(row["id"]))
    if relation in PRESENT:
        return all(resident.has_now(row[column]) for column in PRESENT[relation])
    if relation == "circuit_register_extent":
        return None
    key = next(column for column in ("register_id", "meter_id", "circuit_id") if column in row)
    label = next(column for column in ("timestamp", "day", "month", "date") if column in row)
    start = datetime.fromisoformat(row[label])
    start = start if start.tzinfo else start.replace(tzinfo=UTC)
    if "interval" not in relation and label == "timestamp":
        return resident.had(row[key], start)
    return resident.had(row[key], start, _end(relation, label, start))


def _end(relation: str, label: str, start: datetime) -> datetime:
    if label == "month":
        return (start + timedelta(days=32)).replace(day=1)
    if relation.endswith("_london"):
        local = start.astimezone(ZoneInfo("Europe/London"))
        return (local + timedelta(days=1)).astimezone(UTC)
    return start + UNITS[label]
