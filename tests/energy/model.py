"""A model of /v1: the expected figures, calculated in plain Python from raw half-hours."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

HALF_HOUR = timedelta(minutes=30)
Reading = tuple[Decimal | None, Decimal | None]
Key = tuple[str | None, ...]


@dataclass(frozen=True)
class Mapped:
    """The mapping of a register to a circuit from `start` up to `end` (None: open-ended)."""

    circuit: str
    register: str
    start: datetime
    end: datetime | None

    def overlaps(self, other: "Mapped") -> bool:
        """Return whether both map the register to the circuit at some time."""
        return (
            (self.circuit, self.register) == (other.circuit, other.register)
            and (other.end is None or self.start < other.end)
            and (self.end is None or other.start < self.end)
        )


@dataclass(frozen=True)
class World:
    """A community: attributes of registers and circuits, mappings, and readings.

    `derived` are the readings that are no measurements.
    """

    registers: dict[str, dict[str, list[str | None]]]
    circuits: dict[str, dict[str, str | None]]
    mappings: list[Mapped]
    readings: dict[tuple[str, datetime], Reading]
    derived: frozenset[tuple[str, datetime]] = frozenset()

    def measured(self) -> "World":
        """Return the same community without derived readings."""
        left = {place: own for place, own in self.readings.items() if place not in self.derived}
        return replace(self, readings=left)

    def count_derived(self, cell: "Cell") -> int:
        """Return in how many half-hours of a cell any reading is derived."""
        return len({at for _, at in cell.readings.keys() & self.derived})

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        """Show a failing example without its thousands of readings."""
        printer.text(f"World({self.mappings}, {len(self.readings)} readings)")


@dataclass
class Cell:
    """The data of a group in an interval."""

    readings: dict[tuple[str, datetime], Reading] = field(default_factory=dict)
    expected: set[tuple[str, datetime]] = field(default_factory=set)

    def total(self, direction: int) -> Decimal | None:
        known = [r[direction] for r in self.readings.values() if r[direction] is not None]
        return sum((k for k in known if k is not None), Decimal(0)) if known else None

    @property
    def half_hours(self) -> set[datetime]:
        return {at for _, at in self.readings}

    @property
    def complete(self) -> bool:
        return bool(self.expected) and self.expected == self.readings.keys()


@dataclass(frozen=True)
class Ask:
    """A request: a period, a zone, groups, and filters as {dimension: value}."""

    period_from: datetime
    period_to: datetime
    zone: ZoneInfo
    group_by: list[str]
    filters: dict[str, str]

    def half_hours(self) -> Iterator[datetime]:
        at = datetime.fromtimestamp(self.period_from.timestamp() // 1800 * 1800, UTC)
        while at < self.period_to:
            if at >= self.period_from:
                yield at
            at += HALF_HOUR


def cells(world: World, ask: Ask) -> dict[tuple[Key, datetime], Cell]:
    """Return the cells of each group, for each half-hour in which a register is mapped to it."""
    found: dict[tuple[Key, datetime], Cell] = defaultdict(Cell)
    for at in ask.half_hours():
        for mapped in world.mappings:
            if not (mapped.start <= at and (mapped.end is None or at < mapped.end)):
                continue
            ways: dict[str, list[str | None]] = {
                **world.registers[mapped.register],
                **{name: [value] for name, value in world.circuits[mapped.circuit].items()},
            }
            for way in _ways(ways):
                if any(way[name] != value for name, value in ask.filters.items()):
                    continue
                cell = found[tuple(way[name] for name in ask.group_by), at]
                identity = (mapped.register, at)
                cell.expected.add(identity)
                if identity in world.readings:
                    cell.readings[identity] = world.readings[identity]
    return found


def _ways(ways: dict[str, list[str | None]]) -> Iterator[dict[str, str | None]]:
    """Yield every combination of one value per attribute."""
    picked: list[dict[str, str | None]] = [{}]
    for name, values in ways.items():
        picked = [{**one, name: value} for one in picked for value in values]
    yield from picked


def interval(at: datetime, granularity: str, zone: ZoneInfo) -> date | datetime:
    """Return a half-hour's interval: itself, or the first day of its day, week, month or year."""
    day = at.astimezone(zone).date()
    return {
        "PT30M": at,
        "P1D": day,
        "P1W": day - timedelta(days=day.weekday()),
        "P1M": day.replace(day=1),
        "P1Y": day.replace(month=1, day=1),
    }[granularity]


def energy(world: World, ask: Ask, granularity: str) -> dict[tuple[Any, Key], dict[str, Any]]:
    """Return (interval, key) → the values of its row."""
    known = cells(world, ask)
    groups = {key for key, _ in known}
    calendar: dict[Any, list[datetime]] = defaultdict(list)
    for at in ask.half_hours():
        calendar[interval(at, granularity, ask.zone)].append(at)
    rows = {}
    for which, half_hours in calendar.items():
        for key in groups:
            cell = Cell()
            used = Decimal(0)
            for at in half_hours:
                part = known.get((key, at), Cell())
                cell.readings |= part.readings
                cell.expected |= part.expected
                used += min(part.total(0) or Decimal(0), part.total(1) or Decimal(0))
            rows[which, key] = {
                "import_kwh": cell.total(0),
                "export_kwh": cell.total(1),
                "used": used,
                **_coverage(world, cell, len(half_hours)),
            }
    return rows


def _coverage(world: World, cell: Cell, half_hours: int) -> dict[str, Any]:
    meters = world.registers
    return {
        "expected_intervals": half_hours,
        "present_intervals": len(cell.half_hours),
        "derived_intervals": world.count_derived(cell),
        "meters_expected": len({meters[r]["meter"][0] for r, _ in cell.expected}),
        "meters_reporting": len({meters[r]["meter"][0] for r, _ in cell.readings}),
        "complete": cell.complete,
    }


def coverage(world: World, ask: Ask, key: Key) -> dict[str, Any]:
    """Return the coverage of a group over the whole period."""
    whole = Cell()
    for (group, _), cell in cells(world, ask).items():
        if group == key:
            whole.readings |= cell.readings
            whole.expected |= cell.expected
    return _coverage(world, whole, len(list(ask.half_hours())))


def balance(row: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of a balance for a row of `energy`."""
    generated, consumed, used = row["export_kwh"], row["import_kwh"], row["used"]
    known = generated is not None and consumed is not None
    return {
        "generation_kwh": generated,
        "consumption_kwh": consumed,
        "self_consumption_kwh": used if known else None,
        "from_grid_kwh": consumed - used if known else None,
        "to_grid_kwh": generated - used if known else None,
        "self_consumption_ratio": used / generated if known and generated else None,
        "self_sufficiency_ratio": used / consumed if known and consumed else None,
    }


def profile(world: World, ask: Ask, classes: list[str]) -> dict[tuple[Key, str, str], Any]:
    """Return (key, days, time of day) → (expected, [cells])."""
    known = cells(world, ask)
    rows: dict[tuple[Key, str, str], Any] = {}
    for key in {key for key, _ in known}:
        for at in ask.half_hours():
            local = at.astimezone(ask.zone)
            is_weekend = local.weekday() >= 5
            names = {
                "all": "all",
                "weekday": None if is_weekend else "weekday",
                "weekend": "weekend" if is_weekend else None,
                "month": f"{local:%Y-%m}",
            }
            for days in (names[one] for one in classes):
                if days:
                    row = rows.setdefault((key, days, f"{local:%H:%M}"), [0, []])
                    row[0] += 1
                    if known.get((key, at), Cell()).readings:
                        row[1].append(known[key, at])
    return rows


def peaks(world: World, ask: Ask, direction: int, top: int) -> dict[Key, list[tuple[Any, ...]]]:
    """Return key → its highest half-hours as (start, kW)."""
    found: dict[Key, list[tuple[Any, ...]]] = defaultdict(list)
    for (key, at), cell in cells(world, ask).items():
        if energy := cell.total(direction):
            found[key].append((at, 2 * energy))
    return {
        key: sorted(rows, key=lambda row: (-row[1], row[0]))[:top] for key, rows in found.items()
    }


def gaps(
    world: World, ask: Ask
) -> dict[str, tuple[int, int, int, list[tuple[datetime, datetime]]]]:
    """Return register → (expected, present, derived, gaps)."""
    by_register: dict[str, dict[datetime, bool]] = defaultdict(dict)
    for cell in cells(world, ask).values():
        for register, at in cell.expected:
            by_register[register][at] = (register, at) in cell.readings
    found = {}
    for register, half_hours in by_register.items():
        missing: list[tuple[datetime, datetime]] = []
        for at in sorted(half_hours):
            if half_hours[at]:
                continue
            if missing and missing[-1][1] == at:
                missing[-1] = missing[-1][0], at + HALF_HOUR
            else:
                missing.append((at, at + HALF_HOUR))
        derived = sum((register, at) in world.derived for at in half_hours if half_hours[at])
        found[register] = len(half_hours), sum(half_hours.values()), derived, missing
    return found


def available(world: World, ask: Ask) -> tuple[datetime | None, datetime | None]:
    """Return start of the first and end of the last half-hour of a selection, in any period."""
    times = [at for _, at in world.readings] or [ask.period_from]
    ever = Ask(min(times), max(times) + HALF_HOUR, ask.zone, ask.group_by, ask.filters)
    present = [at for (_, at), cell in cells(world, ever).items() if cell.readings]
    return min(present, default=None), max(present) + HALF_HOUR if present else None


def latest(world: World, ask: Ask) -> dict[str, tuple[datetime | None, Any, Any, int]]:
    """Return serial → newest half-hour, its import and export, number of registers reporting.

    Filters apply to the meter's own attributes or to the circuits its registers are mapped to now.
    """
    found = {}
    for serial in {its["meter"][0] for its in world.registers.values()}:
        own = {r: its for r, its in world.registers.items() if its["meter"][0] == serial}
        now = [world.circuits[m.circuit] for m in world.mappings if m.register in own and not m.end]
        if not all(
            any(circuit.get(name) == value for circuit in now)
            or any(value in its.get(name, []) for its in own.values())
            for name, value in ask.filters.items()
        ):
            continue
        newest = max((at for r, at in world.readings if r in own), default=None)
        cell = Cell({place: r for place, r in world.readings.items() if place[0] in own})
        cell.readings = {place: r for place, r in cell.readings.items() if place[1] == newest}
        found[str(serial)] = newest, cell.total(0), cell.total(1), len(cell.readings)
    return found


def quantile(values: list[Decimal], share: float) -> float:
    """Return a quantile, interpolated linearly between the two nearest values."""
    ordered = sorted(float(value) for value in values)
    place = (len(ordered) - 1) * share
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
