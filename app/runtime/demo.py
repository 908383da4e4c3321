"""The demo's data: three energy communities with 90 days of plausible half-hours up to now.

Everything follows from a seed, so every demo shows the same homes; ids are derived from names.
"""

import math
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import NAMESPACE_DNS, UUID, uuid5

import psycopg

HALF_HOUR = timedelta(minutes=30)
DAYS = 90
ESCOS = {"bfce": ("Brookfield Energy", 3), "hmce": ("Hazelmead Energy", 6),
         "wlce": ("Water Lilies Energy", 12)}  # code → name, homes  # fmt: skip
NATURES = {"A": "power", "B": "heat"}


def load_demo(connection: psycopg.Connection[Any]) -> None:
    """Load the communities once, and the half-hours since the last start; one transaction."""
    now = datetime.now(UTC)
    end = now.replace(minute=30 * (now.minute // 30), second=0, microsecond=0)
    with connection.transaction():
        for code, (name, homes) in ESCOS.items():
            _load_community(connection, code, name, homes, end - timedelta(days=DAYS))
        newest = connection.execute('select max("timestamp") from flows.register_interval_hh')
        last = (newest.fetchone() or (None,))[0]
        start = max(last + HALF_HOUR, end - timedelta(days=DAYS)) if last else None
        _load_half_hours(connection, start or end - timedelta(days=DAYS), end)


def _id(*names: object) -> UUID:
    return uuid5(NAMESPACE_DNS, "/".join(("flows-demo", *map(str, names))))


def _insert(connection: psycopg.Connection[Any], table: str, **row: object) -> None:
    columns = psycopg.sql.SQL(", ").join(map(psycopg.sql.Identifier, row))
    places = psycopg.sql.SQL(", ").join(psycopg.sql.Placeholder() * len(row))
    statement = psycopg.sql.SQL("insert into flows.{} ({}) values ({}) on conflict do nothing")
    table_name = psycopg.sql.Identifier(table)
    connection.execute(statement.format(table_name, columns, places), list(row.values()))


def _load_community(
    connection: psycopg.Connection[Any], code: str, name: str, homes: int, start: datetime
) -> None:
    esco, site, feeder = _id(code), _id(code, "site"), _id(code, "feeder")
    _insert(connection, "escos", id=esco, code=code, name=name)
    _insert(connection, "sites_new", id=site, esco=esco, name=f"{name} site", code=f"{code}-1")
    _insert(connection, "feeder_registry", id=feeder, name=f"{code}-feeder-1", esco=esco)
    for home in range(1, homes + 1):
        house, head, meter = (_id(code, kind, home) for kind in ("property", "head", "meter"))
        _insert(connection, "properties", id=house, plot=f"{home}", site=site, type="house")
        _insert(connection, "service_head_registry", id=head, name=f"{code}-head-{home}",
                feeder=feeder, phase=1 + home % 3)  # fmt: skip
        _insert(connection, "meter_registry", id=meter, serial=f"{code.upper()}{home:04}",
                name=f"Plot {home}", esco=esco, site=site, installation_status="enabled",
                prepay_enabled=True)  # fmt: skip
        _insert(connection, "service_head_meter", service_head=head, meter=meter)
        _insert(connection, "properties_service_head", property=house, service_head=head)
        for element, nature in NATURES.items():
            circuit, register = _id(code, nature, home), _id(code, element, home)
            _insert(connection, "meter_registers", register_id=register, meter_id=meter,
                    element=element, nature=nature)  # fmt: skip
            _insert(connection, "circuits", id=circuit, type=nature, site=site,
                    name=f"Plot {home} {nature}")  # fmt: skip
            _insert(connection, "circuit_register", circuit=circuit, register=register,
                    start_time=start - timedelta(days=365))  # fmt: skip
    meter, register, circuit = (_id(code, "solar", kind) for kind in ("meter", "SINGLE", "circuit"))
    _insert(connection, "meter_registry", id=meter, serial=f"{code.upper()}PV01",
            name="Solar roof", esco=esco, site=site, mode="passive")  # fmt: skip
    _insert(connection, "meter_registers", register_id=register, meter_id=meter,
            element="SINGLE", nature="solar")  # fmt: skip
    _insert(connection, "circuits", id=circuit, type="solar", site=site, name="Solar roof")
    _insert(connection, "circuit_register", circuit=circuit, register=register,
            start_time=start - timedelta(days=365))  # fmt: skip


def _load_half_hours(connection: psycopg.Connection[Any], start: datetime, end: datetime) -> None:
    registers = connection.execute(
        "select r.register_id, r.nature from flows.meter_registers as r where r.notes is null"
    ).fetchall()
    columns = '(register_id, "timestamp", import_kwh, export_kwh)'
    with connection.cursor().copy(f"copy flows.register_interval_hh {columns} from stdin") as copy:
        for register, nature in registers:
            for row in _half_hours(register, nature, start, end):
                copy.write_row(row)


def _half_hours(
    register: UUID, nature: str, start: datetime, end: datetime
) -> Iterator[tuple[UUID, datetime, float, float]]:
    """Yield (register, start of the half-hour, import kWh, export kWh)."""
    habit = random.Random(register.int)  # noqa: S311  (plausible, not secret)
    size = habit.uniform(0.7, 1.4)
    time = start
    while time < end:
        chance = random.Random(f"{register}{time}")  # noqa: S311
        hour = time.hour + time.minute / 60
        winter = (1 + math.cos(2 * math.pi * (time.timetuple().tm_yday - 15) / 365)) / 2
        imported = exported = 0.0
        if nature == "solar":
            half_day = 6 - 2 * winter  # hours from noon to dusk
            height = max(0.0, math.cos((hour - 12.5) / half_day * math.pi / 2))
            sun = height if abs(hour - 12.5) < half_day else 0.0
            exported = sun * (1 - 0.6 * winter) * 6 * chance.uniform(0.2, 1)
        elif nature == "heat":
            morning, evening = _peak(hour, 6.5, 1.5), _peak(hour, 18.5, 3)
            imported = size * winter * (0.1 + 0.5 * morning + 0.6 * evening)
            imported *= chance.uniform(0.6, 1.3)
        else:
            imported = size * (0.06 + 0.12 * _peak(hour, 7.5, 1.2) + 0.35 * _peak(hour, 18.5, 2))
            imported *= chance.uniform(0.6, 1.5)
        yield register, time, round(imported, 3), round(exported, 3)
        time += HALF_HOUR


def _peak(hour: float, centre: float, width: float) -> float:
    return math.exp(-(((hour - centre) / width) ** 2))
