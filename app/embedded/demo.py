"""The demo data: three energy communities with 90 days of plausible half-hours up to now.

Random numbers are seeded and ids derived from names, so every demo has the same homes.
"""

import math
import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any
from uuid import NAMESPACE_DNS, UUID, uuid5

import psycopg
from psycopg.types.json import Jsonb

HALF_HOUR = timedelta(minutes=30)
DAYS = 90
ESCOS = {"bfce": ("Brookfield Energy", 3), "hmce": ("Hazelmead Energy", 6),
         "wlce": ("Water Lilies Energy", 12)}  # code → name, homes  # fmt: skip
NATURES = {"A": "power", "B": "heat"}
# Nature → the lowest and highest random factor on its usual energy.
CHANCES = {"power": (0.6, 1.5), "heat": (0.6, 1.3), "solar": (0.2, 1.0)}
SERIES = {
    "meter_csq": "csq",
    "meter_voltage": "voltage",
    "meter_3p_voltage": "voltage_l1, voltage_l2, voltage_l3",
    "meter_prepay_balance": "balance, emergency_credit",
    "meter_event_log": "event_type, event_set",
    "meter_health_history": "health, reason",
}
# Kinds of events in meter_event_log_type: power off, power on, cover of the terminals removed.
EVENTS = (34, 33, 4)
TARIFF = {
    "standing_charge": 0.25,
    "unit_rate_element_a": 0.24,
    "unit_rate_element_b": 0.18,
    "prepayment_ecredit_availability": 5,
    "prepayment_debt_recovery_rate": 0,
    "prepayment_emergency_credit": 5,
}


RowProgress = Callable[[int, int], None]


def load_demo(connection: psycopg.Connection[Any], progress: RowProgress) -> None:
    """Load the communities if missing, and half-hours since the last start, in a transaction.

    `progress` takes the half-hours loaded so far and their total.
    """
    now = datetime.now(UTC)
    end = now.replace(minute=30 * (now.minute // 30), second=0, microsecond=0)
    with connection.transaction():
        for code, (name, homes) in ESCOS.items():
            _load_community(connection, code, name, homes, end - timedelta(days=DAYS))
        _load_platform(connection)
        _load_state(connection, end)
        newest = connection.execute(
            'select max("timestamp") from flows.register_interval_hh where register_id = any(%s)',
            (list(_registers()),),
        )
        last = (newest.fetchone() or (None,))[0]
        start = max(last + HALF_HOUR, end - timedelta(days=DAYS)) if last else None
        _load_half_hours(connection, start or end - timedelta(days=DAYS), end, progress)


def home_id(code: str, number: int) -> UUID:
    """Return the id of the property of an ESCO's home; homes count from 1."""
    return _id(code, "property", number)


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
    _insert(connection, "ev_chargers", id=_id(code, "charger"), esco=esco,
            serial=f"EV{code.upper()}01", pin="0000", position="car park")  # fmt: skip
    for home in range(1, homes + 1):
        house = home_id(code, home)
        head, meter = (_id(code, kind, home) for kind in ("head", "meter"))
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
            _map(connection, circuit, register, start - timedelta(days=365))
    meter, register, circuit = (_id(code, "solar", kind) for kind in ("meter", "SINGLE", "circuit"))
    _insert(connection, "meter_registry", id=meter, serial=f"{code.upper()}PV01",
            name="Solar roof", esco=esco, site=site, mode="passive")  # fmt: skip
    _insert(connection, "meter_registers", register_id=register, meter_id=meter,
            element="SINGLE", nature="solar")  # fmt: skip
    _insert(connection, "circuits", id=circuit, type="solar", site=site, name="Solar roof")
    _map(connection, circuit, register, start - timedelta(days=365))


@cache
def _registers() -> dict[UUID, str]:
    """Return the demo's own registers, beside which visitors add others, and their natures."""
    found: dict[UUID, str] = {}
    for code, (_, homes) in ESCOS.items():
        for home in range(1, homes + 1):
            found |= {_id(code, element, home): nature for element, nature in NATURES.items()}
        found[_id(code, "solar", "SINGLE")] = "solar"
    return found


def _map(
    connection: psycopg.Connection[Any], circuit: UUID, register: UUID, start: datetime
) -> None:
    """Map a register to its circuit, unless it is mapped already from an earlier `start`."""
    connection.execute(
        "insert into flows.circuit_register (circuit, register, start_time) select %(circuit)s,"
        " %(register)s, %(start)s where not exists (select from flows.circuit_register"
        " where circuit = %(circuit)s and register = %(register)s)",
        {"circuit": circuit, "register": register, "start": start},
    )


def _load_platform(connection: psycopg.Connection[Any]) -> None:
    """Insert the rows that belong to no ESCO."""
    _insert(connection, "regions", code="sw", name="South West England")
    connection.execute("update flows.escos set region = 'sw' where region is null")


def _load_state(connection: psycopg.Connection[Any], end: datetime) -> None:
    """Insert a daily sample of each meter's other series, and shadows that match the last ones."""
    if connection.execute("select from flows.meter_csq limit 1").fetchone() is not None:
        return
    series: dict[str, list[tuple[Any, ...]]] = {name: [] for name in SERIES}
    meters = connection.execute("select id, mode from flows.meter_registry").fetchall()
    for meter, mode in meters:
        chance = random.Random(meter.int)  # noqa: S311
        signal, balance = chance.randint(9, 28), chance.uniform(5, 60)
        for day in range(DAYS, 0, -1):
            time = end - timedelta(days=day)
            balance += -chance.uniform(0.5, 3) + (30 if balance < chance.uniform(2, 12) else 0)
            volts = [round(chance.gauss(241, 2.5), 1) for _ in range(3)]
            series["meter_csq"].append((meter, time, signal + chance.randint(-3, 3)))
            if mode == "passive":
                series["meter_3p_voltage"].append((meter, time, *volts))
            else:
                series["meter_voltage"].append((meter, time, volts[0]))
                series["meter_prepay_balance"].append((meter, time, round(balance, 2), 5))
            if chance.random() < 0.02:
                series["meter_event_log"].append((meter, time, chance.choice(EVENTS), 1))
        series["meter_event_log"].append((meter, end - timedelta(hours=30), EVENTS[0], 1))
        healthy = chance.random() < 0.9
        series["meter_health_history"].append((meter, end - timedelta(days=DAYS), "healthy", None))
        connection.execute(
            "update flows.meter_shadows set health = %s, clock_time_diff_seconds = %s,"
            " tariffs_active = %s, emnify_connectivity_status = %s, balance_updated_at = %s,"
            " backlight = 'off', load_switch = 'on' where id = %s",
            ("healthy" if healthy else "unhealthy", chance.choice((0, 2, 7, 95)), Jsonb(TARIFF),
             "online" if healthy else "offline", end, meter),
        )  # fmt: skip
        _insert(connection, "meter_tophat_registry", id=_id(meter, "tophat"), meter=meter,
                iccid=f"8944{meter.int % 10**15:015}")  # fmt: skip
    for name, rows in series.items():
        columns = '(meter_id, "timestamp", ' + SERIES[name] + ")"
        with connection.cursor().copy(f"copy flows.{name} {columns} from stdin") as copy:
            for row in rows:
                copy.write_row(row)
    connection.execute(
        "update flows.meter_shadows as s set balance = l.balance, emergency_credit = 5"
        " from (select distinct on (meter_id) meter_id, balance from flows.meter_prepay_balance"
        ' order by meter_id, "timestamp" desc) as l where l.meter_id = s.id'
    )
    for counter in ("import", "export"):
        connection.execute(
            f'insert into flows.register_{counter} (register_id, "timestamp", read)'  # noqa: S608
            " select r.register_id, day, 1000 + 7 * row_number() over (partition by r.register_id"
            " order by day) from flows.meter_registers as r, generate_series(%s::timestamptz, %s,"
            " '1 day') as day",
            (end - timedelta(days=DAYS), end),
        )


def _load_half_hours(
    connection: psycopg.Connection[Any], start: datetime, end: datetime, progress: RowProgress
) -> None:
    known = connection.execute(
        "select r.register_id from flows.meter_registers as r where r.register_id = any(%s)",
        (list(_registers()),),
    ).fetchall()
    registers = [(register, _registers()[register]) for (register,) in known]
    times = [start + n * HALF_HOUR for n in range((end - start) // HALF_HOUR)]
    usual = {nature: [_usual(nature, time) for time in times] for nature in CHANCES}
    columns = '(register_id, "timestamp", import_kwh, export_kwh)'
    for done, (register, nature) in enumerate(registers):
        progress(done * len(times), len(registers) * len(times))
        lines = _half_hours(register, nature, times, usual[nature])
        with connection.cursor().copy(
            f"copy flows.register_interval_hh {columns} from stdin"
        ) as copy:
            copy.write("".join(lines))
    progress(len(registers) * len(times), len(registers) * len(times))


def _half_hours(
    register: UUID, nature: str, times: Sequence[datetime], usual: Sequence[float]
) -> list[str]:
    """Return lines for COPY: register, start of the half-hour, import kWh, export kWh.

    The random numbers depend only on register and day, so a later start of the demo continues the
    series as the first would have.
    """
    size = random.Random(register.int).uniform(0.7, 1.4)  # noqa: S311  (plausible, not secret)
    low, high = CHANCES[nature]
    lines = []
    day, chances = None, [0.0]
    for time, energy in zip(times, usual, strict=True):
        if time.date() != day:
            day = time.date()
            draw = random.Random(f"{register}{day}").random  # noqa: S311
            chances = [low + (high - low) * draw() for _ in range(48)]
        energy *= chances[2 * time.hour + time.minute // 30]
        if nature == "solar":
            lines.append(f"{register}\t{time}\t0\t{energy:.3f}\n")
        else:
            lines.append(f"{register}\t{time}\t{size * energy:.3f}\t0\n")
    return lines


def _usual(nature: str, time: datetime) -> float:
    """Return the usual energy of a half-hour for a register of this nature, kWh."""
    hour = time.hour + time.minute / 60
    winter = (1 + math.cos(2 * math.pi * (time.timetuple().tm_yday - 15) / 365)) / 2
    if nature == "solar":
        half_day = 6 - 2 * winter  # hours from noon to dusk
        if abs(hour - 12.5) >= half_day:
            return 0.0
        height = max(0.0, math.cos((hour - 12.5) / half_day * math.pi / 2))
        return height * (1 - 0.6 * winter) * 6
    if nature == "heat":
        return winter * (0.1 + 0.5 * _peak(hour, 6.5, 1.5) + 0.6 * _peak(hour, 18.5, 3))
    return 0.06 + 0.12 * _peak(hour, 7.5, 1.2) + 0.35 * _peak(hour, 18.5, 2)


def _peak(hour: float, centre: float, width: float) -> float:
    return math.exp(-(((hour - centre) / width) ** 2))
