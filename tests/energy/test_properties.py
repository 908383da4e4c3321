"""Every report of /v1 equals a plain calculation from the raw half-hours, whatever the mapping.

Examples have random mappings, gaps, unknown values, zones and both clock changes, in an ESCO of
their own.
"""

import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any
from uuid import UUID, uuid5
from zoneinfo import ZoneInfo

import httpx
import psycopg
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from app.auth.tokens import Grant
from tests.conftest import Stack
from tests.energy import model
from tests.energy.model import HALF_HOUR, Ask, Mapped, World

# Days around both clock changes of each zone. Kathmandu has none, but its days begin at 18:15 UTC.
CHANGES = {
    "Europe/London": ["2025-10-26", "2026-03-29"],
    "Australia/Sydney": ["2025-10-05", "2026-04-05"],
    "Australia/Lord_Howe": ["2025-10-05", "2026-04-05"],
    "Asia/Kathmandu": ["2025-12-31"],
}
COVERAGE = [
    "expected_intervals", "present_intervals", "derived_intervals", "meters_expected",
    "meters_reporting", "complete",
]  # fmt: skip
SPACE = UUID("bbbbbbbb-0000-4000-8000-000000000000")


def _id(name: str) -> str:
    return str(uuid5(SPACE, name))


SITES = {"north": _id("north"), "south": _id("south")}
CIRCUITS: dict[str, dict[str, str | None]] = {
    _id("c1"): {"circuit_type": "power", "site": SITES["north"]},
    _id("c2"): {"circuit_type": "heat", "site": SITES["north"]},
    _id("c3"): {"circuit_type": "solar", "site": SITES["south"]},
    _id("c4"): {"circuit_type": "power", "site": None},
}
# Meter → its registers and the properties on its service head.
METERS: dict[str, tuple[list[str], list[str]]] = {
    "PROP1": (["r1", "r2"], ["p1", "p2"]),
    "PROP2": (["r3", "r4"], ["p2"]),
    "PROP3": (["r5"], []),
}
REGISTERS: dict[str, dict[str, list[str | None]]] = {
    _id(register): {
        "esco": ["prop"],
        "meter": [serial],
        "property": [_id(name) for name in houses] or [None],
        "feeder": [_id("feeder") if houses else None],
        "register": [_id(register)],
    }
    for serial, (registers, houses) in METERS.items()
    for register in registers
}


@pytest.fixture(scope="module")
def community(stack: Stack) -> Iterator[tuple[psycopg.Connection[Any], httpx.Client]]:
    """An ESCO with sites, properties, meters, registers and circuits; no mapping or reading."""
    with psycopg.connect(stack.contract["database_url"], autocommit=True) as admin:
        _build(admin)
        grant = Grant("flc_properties", "public_backend", UUID(_id("esco")), "prop", ("read",))
        token = stack.issue(grant)
        headers = {"Authorization": f"Bearer {token}"}
        with httpx.Client(
            base_url=stack.contract["base_url"], headers=headers, timeout=30
        ) as client:
            yield admin, client
        _empty(admin)


def _build(admin: psycopg.Connection[Any]) -> None:
    def insert(table: str, **row: Any) -> None:
        names, places = ", ".join(row), ", ".join(["%s"] * len(row))
        admin.execute(f"insert into flows.{table} ({names}) values ({places})", [*row.values()])

    insert("escos", id=_id("esco"), code="prop", name="Property")
    for name, site in SITES.items():
        insert("sites_new", id=site, esco=_id("esco"), name=name, code=f"prop-{name}")
    insert("feeder_registry", id=_id("feeder"), name="prop-feeder", esco=_id("esco"))
    for house in ("p1", "p2"):
        insert("properties", id=_id(house), plot=house, site=SITES["north"])
    for circuit, attributes in CIRCUITS.items():
        insert("circuits", id=circuit, type=attributes["circuit_type"], site=attributes["site"])
    for serial, (registers, houses) in METERS.items():
        insert("meter_registry", id=_id(serial), serial=serial, name=serial, esco=_id("esco"))
        for register in registers:
            insert("meter_registers", register_id=_id(register), meter_id=_id(serial))
        if houses:
            head = _id(f"head of {serial}")
            insert("service_head_registry", id=head, name=head, feeder=_id("feeder"))
            insert("service_head_meter", service_head=head, meter=_id(serial))
            for house in houses:
                insert("properties_service_head", property=_id(house), service_head=head)


def _empty(admin: psycopg.Connection[Any]) -> None:
    """Delete all that `_build` and the examples created."""
    _load(admin, World(REGISTERS, {}, [], {}))
    for table, column, ids in (
        ("properties_service_head", "property", [_id("p1"), _id("p2")]),
        ("service_head_meter", "meter", [_id(serial) for serial in METERS]),
        ("service_head_registry", "feeder", [_id("feeder")]),
        ("meter_registers", "register_id", [*REGISTERS]),
        ("meter_registry", "esco", [_id("esco")]),
        ("circuits", "id", [*CIRCUITS]),
        ("properties", "id", [_id("p1"), _id("p2")]),
        ("feeder_registry", "id", [_id("feeder")]),
        ("sites_new", "esco", [_id("esco")]),
        ("escos", "id", [_id("esco")]),
    ):
        admin.execute(f"delete from flows.{table} where {column} = any(%s::uuid[])", (ids,))


def _load(admin: psycopg.Connection[Any], world: World) -> None:
    registers = ([*REGISTERS],)
    admin.execute("delete from flows.circuit_register where register = any(%s::uuid[])", registers)
    admin.execute(
        "delete from flows.register_interval_hh where register_id = any(%s::uuid[])", registers
    )
    admin.execute(
        "delete from flows.derived_register where register_id = any(%s::uuid[])", registers
    )
    columns = '(register_id, "timestamp", import_kwh, export_kwh, derived)'
    with admin.cursor() as cursor:
        with cursor.copy(f"copy flows.register_interval_hh {columns} from stdin") as copy:
            for (register, at), reading in world.readings.items():
                copy.write_row((register, at, *reading, (register, at) in world.derived))
        cursor.execute(
            "insert into flows.derived_register (register_id) select unnest(%s::uuid[])",
            (list({register for register, _ in world.derived}),),
        )
        cursor.executemany(
            "insert into flows.circuit_register (circuit, register, start_time, end_time)"
            " values (%s, %s, %s, %s)",
            [(m.circuit, m.register, m.start, m.end) for m in world.mappings],
        )
    admin.execute("call flows.follow()")


@st.composite
def worlds(draw: st.DrawFn) -> tuple[World, Ask]:
    """Draw a community around a clock change, and a request that overlaps it."""
    name = draw(st.sampled_from(sorted(CHANGES)))
    zone = ZoneInfo(name)
    change = datetime.fromisoformat(draw(st.sampled_from(CHANGES[name]))).replace(tzinfo=zone)
    origin = change.astimezone(UTC).replace(hour=0, minute=0) - timedelta(days=1)
    minutes = st.one_of(
        st.integers(0, 3 * 48).map(lambda count: 30 * count), st.integers(0, 3 * 1440)
    )

    def moment() -> datetime:
        return origin + timedelta(minutes=draw(minutes))

    mappings: list[Mapped] = []
    for _ in range(draw(st.integers(1, 7))):
        circuit, register = draw(st.sampled_from([*CIRCUITS])), draw(st.sampled_from([*REGISTERS]))
        start = moment() if draw(st.booleans()) else origin - timedelta(days=400)
        end = draw(st.one_of(st.none(), st.just(moment())))
        mapped = Mapped(circuit, register, start, end)
        # The database refuses a register that is on a circuit twice at one time.
        if (end is None or end > start) and not any(map(mapped.overlaps, mappings)):
            mappings.append(mapped)
    chance = random.Random(draw(st.integers(0, 2**32)))  # noqa: S311
    share, estimates = draw(st.sampled_from([0.2, 0.9, 1.0])), draw(st.sampled_from([0, 0.1, 0.9]))
    readings: dict[tuple[str, datetime], model.Reading] = {}
    derived = set()
    for number, register in enumerate(REGISTERS):
        for count in range(4 * 48):
            if chance.random() < share:
                readings[register, origin + count * HALF_HOUR] = (_kwh(chance), _kwh(chance))
                if number and chance.random() < estimates:  # the first has measurements alone
                    derived.add((register, origin + count * HALF_HOUR))
    first, last = sorted((moment(), moment()))
    whole = draw(st.booleans())
    if whole:
        first = change - timedelta(days=draw(st.integers(0, 1)))
        last = change + timedelta(days=draw(st.integers(1, 2)))
    last = max(last, first + timedelta(minutes=1))
    dimensions = ["esco", "site", "property", "feeder", "circuit", "circuit_type", "meter",
                  "register"]  # fmt: skip
    by = draw(st.lists(st.sampled_from(dimensions), min_size=1, max_size=3, unique=True))
    filters = draw(
        st.sampled_from([
            {}, {}, {"circuit_type": "power"}, {"meter": "PROP1"}, {"site": SITES["north"]},
            {"property": _id("p2")}, {"feeder": _id("feeder")}, {"circuit": _id("c1")},
            {"meter": "PROP2", "circuit_type": "power"},
        ])
    )  # fmt: skip
    circuits = {identity: {"circuit": identity, **its} for identity, its in CIRCUITS.items()}
    world = World(REGISTERS, circuits, mappings, readings, frozenset(derived))
    return world, Ask(first, last, zone, by, filters)


def _check(
    client: httpx.Client, world: World, ask: Ask, granularity: str, quality: str = "all"
) -> None:
    """Compare energy and balance with the plain calculation."""
    ever = world
    world = world.measured() if quality == "measured" else world
    expected = model.energy(world, ask, granularity)
    by = {"group_by": ",".join(ask.group_by), "granularity": granularity, "quality": quality}
    for path in ("/v1/energy", "/v1/balance"):
        answer = _get(client, path, ask, **by)
        rows = {
            (_interval(row, granularity), tuple(row[name] for name in ask.group_by)): row
            for row in answer["rows"]
        }
        assert len(rows) == len(answer["rows"])
        assert rows.keys() == expected.keys()
        for place, row in rows.items():
            want = expected[place]
            assert row["partial"] == _is_cut(row, ask)
            if path == "/v1/energy":
                assert {name: row[name] for name in want if name != "used"} == {
                    name: value for name, value in want.items() if name != "used"
                }, place
                continue
            for name in COVERAGE:
                assert row[name] == want[name], (place, name)
            for name, value in model.balance(want).items():
                assert _close(row[name], value), (place, name, row, value)
    for total in answer["totals"]:
        key = tuple(total[name] for name in ask.group_by)
        parts = [row for (_, group), row in expected.items() if group == key]
        for name in ("generation_kwh", "consumption_kwh"):
            way = {"generation_kwh": "export_kwh", "consumption_kwh": "import_kwh"}[name]
            known = [part[way] for part in parts if part[way] is not None]
            assert _close(total[name], sum(known) if known else None)
        for name, value in model.coverage(world, ask, key).items():
            assert total[name] == value, (key, name)
    first, last = model.available(ever, ask)
    for name, at in (("available_from", first), ("available_to", last)):
        assert (answer[name] and datetime.fromisoformat(answer[name])) == at


def _is_cut(row: dict[str, Any], ask: Ask) -> bool:
    """Return whether a half-hour of the interval is outside of the period."""
    start, end = (datetime.fromisoformat(row[name]) for name in ("interval_start", "interval_end"))
    whole = Ask(start, end, ask.zone, [], {}).half_hours()
    asked = set(ask.half_hours())
    return any(at not in asked for at in whole)


def _kwh(chance: random.Random) -> Decimal | None:
    """Return a random energy: mostly small, sometimes zero, rarely unknown."""
    kind = chance.random()
    return (
        None if kind < 0.1 else Decimal(0) if kind < 0.3 else Decimal(chance.randint(0, 999)) / 1000
    )


def _get(client: httpx.Client, path: str, ask: Ask, **params: Any) -> Any:
    asked = {
        "period_from": ask.period_from.isoformat(),
        "period_to": ask.period_to.isoformat(),
        "timezone": ask.zone.key,
        **ask.filters,
        **params,
    }
    answer = client.get(path, params=asked)
    assert answer.status_code == 200, answer.text
    return json.loads(answer.text, parse_float=Decimal)


def _interval(row: dict[str, Any], granularity: str) -> Any:
    start = datetime.fromisoformat(row["interval_start"])
    assert datetime.fromisoformat(row["interval_end"]) > start
    return start.astimezone(UTC) if granularity == "PT30M" else start.date()


def _close(found: Any, expected: Any) -> bool:
    return found is expected is None or (
        found is not None and expected is not None and abs(float(found) - float(expected)) < 1e-6
    )


QUALITIES = st.sampled_from(["all", "measured"])
EXAMPLES = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@EXAMPLES
@given(
    case=worlds(), granularity=st.sampled_from(["PT30M", "P1D", "P1W", "P1M", "P1Y"]),
    quality=QUALITIES,
)  # fmt: skip
def test_energy_and_balance(
    community: tuple[psycopg.Connection[Any], httpx.Client], case: tuple[World, Ask],
    granularity: str, quality: str,
) -> None:  # fmt: skip
    admin, client = community
    world, ask = case
    _load(admin, world)
    _check(client, world, ask, granularity, quality)


def test_a_month_that_the_period_cuts_within_a_day(
    community: tuple[psycopg.Connection[Any], httpx.Client],
) -> None:
    """Sum half-hours and days of a month into one row of a circuit."""
    admin, client = community
    start = datetime(2025, 10, 24, tzinfo=UTC)
    readings: dict[tuple[str, datetime], model.Reading] = {
        (_id("r1"), start + count * HALF_HOUR): (Decimal(1), Decimal(0)) for count in range(100)
    }
    circuits = {identity: {"circuit": identity, **its} for identity, its in CIRCUITS.items()}
    mapped = [Mapped(_id("c1"), _id("r1"), start - timedelta(days=400), None)]
    world = World(REGISTERS, circuits, mapped, readings)
    _load(admin, world)
    end = start + timedelta(days=1, hours=23)
    for by in (["circuit"], ["site"]):
        _check(client, world, Ask(start, end, ZoneInfo("Europe/London"), by, {}), "P1M")


def test_a_mapping_that_the_aggregates_have_not_followed(
    community: tuple[psycopg.Connection[Any], httpx.Client],
) -> None:
    """Swap two registers while the aggregates lag: sums and expected counts stay consistent."""
    admin, client = community
    start = datetime(2025, 10, 1, tzinfo=UTC)
    days = [start + count * HALF_HOUR for count in range(4 * 48)]
    readings: dict[tuple[str, datetime], model.Reading] = {
        (_id(register), at): (Decimal(kwh), Decimal(kwh) / 2)
        for register, kwh in (("r1", 1), ("r3", 5))
        for at in days
    }
    ones = [Mapped(_id("c1"), _id("r1"), start, None), Mapped(_id("c2"), _id("r3"), start, None)]
    change = start + timedelta(days=2)
    others = [
        Mapped(_id("c1"), _id("r1"), start, change), Mapped(_id("c2"), _id("r3"), start, None),
        Mapped(_id("c2"), _id("r1"), change, None),
    ]  # fmt: skip
    circuits = {identity: {"circuit": identity, **its} for identity, its in CIRCUITS.items()}
    _load(admin, World(REGISTERS, circuits, ones, readings))
    zone = ZoneInfo("Europe/London")
    asked = start - timedelta(hours=1), start + timedelta(days=4) - timedelta(hours=1)
    with psycopg.connect(admin.info.dsn, password=admin.info.password, autocommit=True) as holder:
        holder.execute("select pg_advisory_lock(hashtext('flows.follow'))")
        admin.execute(
            "update flows.circuit_register set end_time = %s where register = %s",
            (change, _id("r1")),
        )
        admin.execute(
            "insert into flows.circuit_register (circuit, register, start_time)"
            " values (%s, %s, %s)",
            (_id("c2"), _id("r1"), change),
        )
        world = World(REGISTERS, circuits, others, readings)
        for by in (["circuit"], ["site"], ["circuit_type", "meter"]):
            for granularity in ("PT30M", "P1D", "P1M"):
                _check(client, world, Ask(*asked, zone, by, {}), granularity)
    admin.execute("call flows.follow()")
    _check(client, world, Ask(*asked, zone, ["circuit"], {}), "P1D")


@EXAMPLES
@given(
    case=worlds(),
    classes=st.lists(
        st.sampled_from(["all", "weekday", "weekend", "month"]), min_size=1, unique=True
    ),
    quality=QUALITIES,
)
def test_profile(
    community: tuple[psycopg.Connection[Any], httpx.Client], case: tuple[World, Ask],
    classes: list[str], quality: str,
) -> None:  # fmt: skip
    admin, client = community
    world, ask = case
    _load(admin, world)
    world = world.measured() if quality == "measured" else world
    expected = model.profile(world, ask, classes)
    by = {"group_by": ",".join(ask.group_by), "days": ",".join(classes), "quality": quality}
    rows = _get(client, "/v1/profile", ask, **by)["rows"]
    found = {(tuple(r[n] for n in ask.group_by), r["days"], r["time"]): r for r in rows}
    assert len(found) == len(rows)
    assert found.keys() == expected.keys()
    for place, (count, cells) in expected.items():
        row = found[place]
        note(f"{place} {row}")
        assert row["expected_intervals"] == count
        assert row["present_intervals"] == len(cells)
        assert row["derived_intervals"] == sum(map(bool, map(world.count_derived, cells)))
        assert row["complete_intervals"] == sum(cell.complete for cell in cells)
        whole = model.coverage(world, ask, place[0])
        for name in ("meters_expected", "meters_reporting"):
            assert row[name] == whole[name]
        for direction, name in enumerate(("import", "export")):
            values = [total for c in cells if (total := c.total(direction)) is not None]
            mean = sum(values) / len(values) if values else None
            assert _close(row[f"mean_{name}_kwh"], mean)
            for percent in (10, 50, 90):
                want = model.quantile(values, percent / 100) if values else None
                assert _close(row[f"p{percent}_{name}_kwh"], want)


@EXAMPLES
@given(
    case=worlds(), direction=st.sampled_from(["import", "export"]),
    top=st.sampled_from([1, 3, 10]), quality=QUALITIES,
)  # fmt: skip
def test_peak_and_completeness(
    community: tuple[psycopg.Connection[Any], httpx.Client], case: tuple[World, Ask],
    direction: str, top: int, quality: str,
) -> None:  # fmt: skip
    admin, client = community
    world, ask = case
    _load(admin, world)
    world = world.measured() if quality == "measured" else world
    expected = model.peaks(world, ask, ["import", "export"].index(direction), top)
    cells = model.cells(world, ask)
    by = {"group_by": ",".join(ask.group_by), "direction": direction, "top": top,
          "quality": quality}  # fmt: skip
    found: dict[model.Key, list[tuple[Any, ...]]] = {}
    for row in _get(client, "/v1/peak", ask, **by)["rows"]:
        key = tuple(row[name] for name in ask.group_by)
        start = datetime.fromisoformat(row["interval_start"]).astimezone(UTC)
        ranked = found.setdefault(key, [])
        ranked.append((start, row[f"{direction}_kw"]))
        cell = cells[key, start]
        assert row["rank"] == len(ranked)
        assert row["complete"] == cell.complete
        for name, registers in (
            ("meters_expected", cell.expected), ("meters_reporting", cell.readings)
        ):  # fmt: skip
            assert row[name] == len({REGISTERS[register]["meter"][0] for register, _ in registers})
    assert found == expected

    missing = model.gaps(world, ask)
    rows = _get(client, "/v1/completeness", ask, quality=quality)["rows"]
    assert {row["register"] for row in rows} == missing.keys()
    for row in rows:
        count, present, derived, gaps = missing[row["register"]]
        assert (row["expected_intervals"], row["present_intervals"]) == (count, present)
        assert row["derived_intervals"] == derived
        assert _close(row["share_present"], present / count)
        times = [
            tuple(datetime.fromisoformat(gap[end]).astimezone(UTC) for end in ("start", "end"))
            for gap in row["gaps"]
        ]
        assert times == gaps
        for gap, (start, end) in zip(row["gaps"], gaps, strict=True):
            assert gap["missing_intervals"] == (end - start) / HALF_HOUR
        assert all(one[1] < other[0] for one, other in pairwise(times))


@EXAMPLES
@given(case=worlds())
def test_latest(
    community: tuple[psycopg.Connection[Any], httpx.Client], case: tuple[World, Ask]
) -> None:
    admin, client = community
    world, ask = case
    _load(admin, world)
    answer = client.get("/v1/latest", params={"timezone": ask.zone.key, **ask.filters})
    assert answer.status_code == 200, answer.text
    rows = json.loads(answer.text, parse_float=Decimal)["rows"]
    found = {}
    for row in rows:
        start = row["interval_start"] and datetime.fromisoformat(row["interval_start"])
        ends = row["interval_end"] and datetime.fromisoformat(row["interval_end"])
        assert ends == (start and start + HALF_HOUR)
        figures = row["import_kwh"], row["export_kwh"], row["registers_reporting"]
        found[row["meter"]] = (start, *figures)
    assert [row["meter"] for row in rows] == sorted(found)
    assert found == model.latest(world, ask)
