"""The SQL of energy per group and interval; nothing here asks the database.

Per group and interval there are interval_start, g, import_kwh, export_kwh, register_intervals,
present_intervals and meters_reporting; intervals in which nothing was reported are left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from app.energy.groups import Groups
from app.energy.intervals import Granularity, Instant, Intervals, moment
from app.energy.sources import HALF_HOURS, Piece


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL with its parameters."""

    sql: str
    parameters: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Window:
    """Which of the rows are asked for: (interval start, group) from `since` up to `until`."""

    since: tuple[Instant, int] | None = None
    until: tuple[Instant, int] | None = None


def energy(
    groups: Groups,
    intervals: Intervals,
    granularity: Granularity,
    pieces: Sequence[Piece],
    window: Window,
    fields: str,
) -> Statement:
    """Build (start, group, register half-hours, `fields`), by the first two.

    From the circuits' aggregates where they fit, else from registers; `fields` is SQL over the
    columns named above.
    """
    if groups.circuits is None:
        statement = _from_registers(groups, intervals, granularity)
    elif groups.single:
        statement = _from_single_circuits(groups, intervals, granularity, pieces)
    else:
        statement = _from_circuits(groups, intervals, granularity, pieces)
    conditions = _conditions(window, statement.parameters)
    return Statement(
        f"select {epoch('interval_start')}, g, register_intervals::bigint,"
        f" {fields} from ({statement.sql}) as e{conditions} order by interval_start, g",
        statement.parameters,
    )


def _conditions(window: Window, parameters: dict[str, Any]) -> str:
    conditions = []
    for name, sign, place in (("since", ">=", window.since), ("until", "<", window.until)):
        if place:
            conditions.append(f"(interval_start, g) {sign} (%({name}_start)s, %({name}_group)s)")
            parameters |= {f"{name}_start": moment(place[0]), f"{name}_group": place[1]}
    return " where " + " and ".join(conditions) if conditions else ""


def epoch(column: str) -> str:
    """The SQL of a moment as an Instant."""
    return f"date_part('epoch', {column})::bigint"


def bounds(intervals: Intervals) -> dict[str, Any]:
    """The parameter of `interval`: where intervals longer than half-hours begin."""
    return {"bounds": [moment(bound) for bound in intervals.bounds]}


def interval(column: str, granularity: Granularity) -> str:
    """The SQL of the start of the interval that holds `column`."""
    if granularity == "PT30M":
        return column
    listed = "%(bounds)s::timestamptz[]"
    return f"({listed})[width_bucket({column}, {listed})]"


def _members(groups: Groups) -> dict[str, Any]:
    assert groups.circuits is not None  # noqa: S101  (the caller looked)
    return {
        "circuits": [circuit for circuit, _ in groups.circuits],
        "groups": [group for _, group in groups.circuits],
    }


def _parts(
    pieces: Sequence[Piece], granularity: Granularity, parameters: dict[str, Any]
) -> list[str]:
    """One SELECT for each piece: a row per member of a group and unit of the piece's source."""
    parts = []
    for number, piece in enumerate(pieces):
        source = piece.source
        parameters[f"from_{number}"] = moment(piece.first)
        parameters[f"to_{number}"] = moment(piece.last)
        unit = f's."{source.column}"'
        present = "1" if source is HALF_HOURS else "s.present_intervals"
        parts.append(
            f"select {interval(unit, granularity)} as interval_start, m.g, {unit} as unit_start,"
            f" {source.end(unit)} as unit_end, s.total_import_kwh, s.total_export_kwh,"
            f" s.register_intervals, {present} as present_intervals, s.meters"
            f" from {source.relation} as s"
            " inner join unnest(%(circuits)s::uuid[], %(groups)s::integer[])"
            " as m (circuit, g) on s.circuit_id = m.circuit"
            " where s.circuit_id = any(%(circuits)s::uuid[])"
            f" and {unit} >= %(from_{number})s and {unit} < %(to_{number})s"
        )
    return parts


def _from_single_circuits(
    groups: Groups, intervals: Intervals, granularity: Granularity, pieces: Sequence[Piece]
) -> Statement:
    """A group is a circuit, so what a unit says of its half-hours can be added up."""
    parameters = _members(groups)
    if granularity != "PT30M":
        parameters |= bounds(intervals)
    parts = _parts(pieces, granularity, parameters)
    if granularity not in UNITS:
        return Statement(_sums(" union all ".join(parts)), parameters)
    # An interval is one unit of its piece; only the days that the period cuts are sums.
    rows = [
        _as_it_is(part) if piece.source.unit == UNITS[granularity] else _sums(part)
        for piece, part in zip(pieces, parts, strict=True)
    ]
    return Statement(" union all ".join(rows), parameters)


UNITS = {"PT30M": "30 minutes", "P1D": "1 day"}


def _as_it_is(units: str) -> str:
    return (
        "select interval_start, g, total_import_kwh as import_kwh, total_export_kwh as export_kwh,"
        " register_intervals, present_intervals, cardinality(meters) as meters_reporting"
        f" from ({units}) as u"
    )


def _sums(units: str) -> str:
    return (
        "select interval_start, g, sum(total_import_kwh) as import_kwh,"
        " sum(total_export_kwh) as export_kwh, sum(register_intervals) as register_intervals,"
        f" sum(present_intervals) as present_intervals, {DISTINCT_METERS} as meters_reporting"
        f" from ({units}) as u group by 1, 2"
    )


DISTINCT_METERS = (
    "(select count(distinct meter) from unnest(string_to_array(string_agg("
    "array_to_string(meters, ','), ','), ',')) as meter)"
)


def _from_circuits(
    groups: Groups, intervals: Intervals, granularity: Granularity, pieces: Sequence[Piece]
) -> Statement:
    """A group has several circuits: the same half-hours may be present in more than one of them.

    Where one circuit has every half-hour of a unit, so has the group; else they are counted.
    """
    parameters = _members(groups)
    if granularity != "PT30M":
        parameters |= bounds(intervals)
    units = " union all ".join(_parts(pieces, granularity, parameters))
    return Statement(
        f"with units as materialized ({units}), by_unit as ("
        "select interval_start, g, unit_start, unit_end, sum(total_import_kwh) as import_kwh,"
        " sum(total_export_kwh) as export_kwh, sum(register_intervals) as register_intervals,"
        " max(present_intervals) as present_intervals"
        " from units group by 1, 2, 3, 4"
        "), counted as ("
        "select interval_start, g, import_kwh, export_kwh, register_intervals,"
        " case when present_intervals * interval '30 minutes' >= unit_end - unit_start"
        " then present_intervals else ("
        'select count(distinct hh."timestamp") from api.circuit_interval_hh as hh'
        " where hh.circuit_id = any(array(select m.circuit from"
        " unnest(%(circuits)s::uuid[], %(groups)s::integer[]) as m (circuit, g)"
        " where m.g = by_unit.g))"
        ' and hh."timestamp" >= unit_start and hh."timestamp" < unit_end'
        ") end as present_intervals from by_unit"
        "), reporting as ("
        "select interval_start, g, count(distinct meter) as meters_reporting"
        " from units cross join unnest(meters) as meter group by 1, 2"
        ") select interval_start, g, sum(import_kwh) as import_kwh,"
        " sum(export_kwh) as export_kwh, sum(register_intervals) as register_intervals,"
        " sum(present_intervals) as present_intervals,"
        " min(meters_reporting) as meters_reporting"
        " from counted left join reporting using (interval_start, g) group by 1, 2",
        parameters,
    )


def half_hours(groups: Groups, intervals: Intervals) -> Statement:
    """Build (start, g, import_kwh, export_kwh, register_intervals) per group and half-hour."""
    if groups.circuits is None:
        return Statement(
            'select r."timestamp" as start, s.g, sum(r.import_kwh) as import_kwh,'
            " sum(r.export_kwh) as export_kwh, count(*) as register_intervals"
            f"{SPANS} group by 1, 2",
            spans(groups, intervals.first, intervals.last),
        )
    parameters = _members(groups)
    (units,) = _parts([Piece(HALF_HOURS, intervals.first, intervals.last)], "PT30M", parameters)
    columns = "total_import_kwh", "total_export_kwh", "register_intervals"
    values = columns if groups.single else [f"sum({column})" for column in columns]
    return Statement(
        f"select interval_start as start, g, {values[0]} as import_kwh, {values[1]} as export_kwh,"
        f" {values[2]} as register_intervals from ({units}) as u"
        + ("" if groups.single else " group by 1, 2"),
        parameters,
    )


def spans(groups: Groups, first: Instant, last: Instant) -> dict[str, Any]:
    """The parameters of `SPANS`, for the half-hours from `first` up to `last`."""
    return {
        "registers": [span.register for span in groups.spans],
        "span_groups": [span.group for span in groups.spans],
        "meters": [span.meter for span in groups.spans],
        "firsts": [moment(span.first) for span in groups.spans],
        "lasts": [moment(span.last) for span in groups.spans],
        "first": moment(first),
        "last": moment(last),
    }


# Half-hours of registers (r) that count into groups (s.g).
SPANS = (
    " from unnest(%(registers)s::uuid[], %(span_groups)s::integer[], %(meters)s::uuid[],"
    " %(firsts)s::timestamptz[], %(lasts)s::timestamptz[])"
    " as s (register, g, meter, first, last)"
    " inner join api.register_interval_hh as r on r.register_id = s.register"
    ' and r."timestamp" >= s.first and r."timestamp" < s.last'
    " where r.register_id = any(%(registers)s::uuid[])"
    ' and r."timestamp" >= %(first)s and r."timestamp" < %(last)s'
)


def _from_registers(groups: Groups, intervals: Intervals, granularity: Granularity) -> Statement:
    parameters = spans(groups, intervals.first, intervals.last)
    if granularity != "PT30M":
        parameters |= bounds(intervals)
    start = interval('r."timestamp"', granularity)
    return Statement(
        f"select {start} as interval_start, s.g,"
        " sum(r.import_kwh) as import_kwh, sum(r.export_kwh) as export_kwh,"
        ' count(*) as register_intervals, count(distinct r."timestamp") as present_intervals,'
        f" count(distinct s.meter) as meters_reporting{SPANS} group by 1, 2",
        parameters,
    )
