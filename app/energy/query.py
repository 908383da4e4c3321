"""Builders of the SQL for energy per group and interval; they do not query the database.

The columns are row_index, import_kwh, export_kwh, register_intervals, present_intervals and
meters_reporting; `with_derived` adds derived_intervals. Intervals in which nothing was reported
have no row. `row_index` is the row's index among all rows: index of the interval * number of groups
+ number of the group.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from app.energy.groups import Groups
from app.energy.intervals import HALF_HOUR, Granularity, Instant, Intervals, moment
from app.energy.sources import HALF_HOURS, SourceRange
from app.energy.sql_files import read_sql


@dataclass(frozen=True, slots=True)
class Statement:
    """A SQL statement and its parameters."""

    sql: str
    parameters: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Page:
    """Row indexes from `first` up to `last` (exclusive)."""

    first: int
    last: int


def energy(
    groups: Groups,
    intervals: Intervals,
    granularity: Granularity,
    pieces: Sequence[SourceRange],
    page: Page,
) -> Statement:
    """Build the SQL of the rows of a page, in no order; the module's docstring has the columns.

    It reads the stored sums of circuits if the groups allow it, else the half-hours of registers.
    """
    if groups.circuits is None:
        statement = _from_registers(groups, intervals)
    elif groups.single:
        statement = _from_single_circuits(groups, intervals, granularity, pieces)
    else:
        statement = _from_circuits(groups, intervals, granularity, pieces)
    parameters = statement.parameters | row_index_parameters(groups, intervals)
    conditions = ""
    if (page.first, page.last) != (0, len(intervals) * len(groups)):
        conditions = " where row_index >= %(first_place)s and row_index < %(last_place)s"
        parameters |= {"first_place": page.first, "last_place": page.last}
    return Statement(
        "select row_index, import_kwh, export_kwh, register_intervals::bigint,"
        " present_intervals::bigint, meters_reporting::bigint"
        f" from ({statement.sql}) as e{conditions}",
        parameters,
    )


def epoch(column: str) -> str:
    """Return SQL that converts a timestamp into an Instant."""
    return f"date_part('epoch', {column})::bigint"


def row_index(column: str, intervals: Intervals) -> str:
    """Return SQL for the row index of group `g` in the interval that contains `column`."""
    if intervals.are_half_hours:
        number = f"({epoch(column)} - %(first_bound)s) / {HALF_HOUR}"
    else:
        number = f"(width_bucket({column}, %(bounds)s::timestamptz[]) - 1)"
    return f"({number} * %(group_count)s + g)::integer"


def row_index_parameters(groups: Groups, intervals: Intervals) -> dict[str, Any]:
    """Return the parameters of the SQL of `row_index`."""
    counted = {"group_count": len(groups)}
    if intervals.are_half_hours:
        return counted | {"first_bound": intervals.first}
    return counted | {"bounds": [moment(bound) for bound in intervals.bounds]}


def _members(groups: Groups) -> dict[str, Any]:
    """Return the parameters of the SQL of `MEMBERS`."""
    assert groups.circuits is not None  # noqa: S101  (the caller has checked)
    if groups.everything:
        return {}
    return {
        "circuits": array(circuits for circuits, _ in groups.circuits),
        "groups": array(
            ",".join([str(group)] * (str(circuits).count(",") + 1))
            for circuits, group in groups.circuits
        ),
    }


def array(values: Iterable[object]) -> str:
    """Return numbers or ids as the text of an array, which costs much less than a list of them."""
    return "{" + ",".join(map(str, values)) + "}"


# Circuits and the groups that sum them.
MEMBERS = "unnest(%(circuits)s::uuid[], %(groups)s::integer[])"


def _parts(
    groups: Groups, pieces: Sequence[SourceRange], parameters: dict[str, Any], name: str = "piece"
) -> list[str]:
    """Return one SELECT per piece: a row for each circuit of a group and unit of the source.

    The parameters of the SELECTs are added to `parameters`.
    """
    parts = []
    for number, piece in enumerate(pieces):
        source = piece.source
        parameters[f"{name}_{number}_from"] = moment(piece.first)
        parameters[f"{name}_{number}_to"] = moment(piece.last)
        unit = f's."{source.column}"'
        present = "1" if source is HALF_HOURS else "s.present_intervals"
        inside = f"{unit} >= %({name}_{number}_from)s and {unit} < %({name}_{number}_to)s"
        members = f"(select distinct circuit, g from {MEMBERS} as m (circuit, g))"
        parts.append(
            f"select {'0 as g' if groups.everything else 'm.g'}, {unit} as unit_start,"
            " s.total_import_kwh, s.total_export_kwh,"
            f" s.register_intervals, {present} as present_intervals, s.meters"
            f" from {source.relation} as s"
            + (
                f" where {inside}"
                if groups.everything
                else f" inner join {MEMBERS if groups.single else members}"
                " as m (circuit, g) on s.circuit_id = m.circuit"
                f" where s.circuit_id = any(%(circuits)s::uuid[]) and {inside}"
            )
        )
    return parts


# Granularity → the unit of a source that equals one whole interval.
UNITS = {"PT30M": "30 minutes", "P1D": "1 day", "P1M": "1 month"}


def _from_single_circuits(
    groups: Groups, intervals: Intervals, granularity: Granularity, pieces: Sequence[SourceRange]
) -> Statement:
    """Build the SQL for groups of one circuit each, whose stored counts can be added up."""
    parameters = _members(groups)
    parts = _parts(groups, pieces, parameters)
    at = row_index("unit_start", intervals)
    if granularity not in UNITS:
        return Statement(_sums(at, " union all ".join(parts), PRESENT, DISTINCT_METERS), parameters)
    # Each interval is one unit of its source, except for those cut by the period: of a month, that
    # may be half-hours and days, which are summed together.
    rows, cut = [], []
    for source_range, part in zip(pieces, parts, strict=True):
        if source_range.source.unit == UNITS[granularity]:
            rows.append(_as_it_is(at, part))
        else:
            cut.append(part)
    if cut:
        rows.append(_sums(at, " union all ".join(cut), PRESENT, DISTINCT_METERS))
    return Statement(" union all ".join(rows), parameters)


def _as_it_is(at: str, units: str) -> str:
    return (
        f"select {at} as row_index, total_import_kwh as import_kwh, total_export_kwh as export_kwh,"
        " register_intervals, present_intervals, cardinality(meters) as meters_reporting"
        f" from ({units}) as u"
    )


PRESENT = "sum(present_intervals)"
DISTINCT_METERS = (
    "(select count(distinct meter) from unnest(string_to_array(string_agg("
    "array_to_string(meters, ','), ','), ',')) as meter)"
)


def _meters(groups: Groups) -> str:
    """Return SQL for the number of meters in a half-hour of several circuits."""
    return "sum(cardinality(meters))" if groups.meters_apart else DISTINCT_METERS


def _sums(at: str, units: str, present: str, meters: str, by: str = "") -> str:
    # Group by other columns than the ones sorted by later, or PostgreSQL sorts in order to group.
    return (
        f"select {at} + 0 as row_index, sum(total_import_kwh) as import_kwh,"
        " sum(total_export_kwh) as export_kwh, sum(register_intervals) as register_intervals,"
        f" {present} as present_intervals, {meters} as meters_reporting"
        f" from ({units}) as u group by {by or at}"
    )


def _from_circuits(
    groups: Groups, intervals: Intervals, granularity: Granularity, pieces: Sequence[SourceRange]
) -> Statement:
    """Build the SQL for groups of several circuits, which may have the same half-hours.

    If one circuit has every half-hour of a unit, so has the group; else half-hours are counted.
    """
    parameters = _members(groups)
    parts = _parts(groups, pieces, parameters)
    at = row_index("unit_start", intervals)
    if granularity == "PT30M":
        # A half-hour counts once, in however many circuits it is present.
        sums = _sums(at, " union all ".join(parts), "1", _meters(groups), by="unit_start, g")
        return Statement(sums, parameters)
    own = "true"
    if not groups.everything:
        own = (
            f"hh.circuit_id = any(array(select m.circuit from {MEMBERS} as m (circuit, g)"
            " where m.g = by_unit.g))"
        )
    # Where each interval is one unit, its meters can be added up as well.
    is_unit = all(piece.source.unit == UNITS.get(granularity) for piece in pieces)
    reporting, distinct_meters = "counted.meters", ""
    if not (groups.meters_apart and is_unit):
        reporting = "reporting.meters"
        distinct_meters = (
            "left join (select row_index, count(*) as meters from"
            f" (select distinct {at} as row_index, meter from units"
            " cross join unnest(meters) as meter) as m"
            " group by row_index) as reporting using (row_index)"
        )
    return Statement(
        read_sql("energy_of_circuits").format(
            units=" union all ".join(
                f"select {number} as piece, u.* from ({part}) as u"
                for number, part in enumerate(parts)
            ),
            row_index=at,
            unit_end="case piece "
            + " ".join(
                f"when {number} then {piece.source.end('unit_start')}"
                for number, piece in enumerate(pieces)
            )
            + " end",
            own=own,
            first="%(piece_0_from)s",
            stop=f"%(piece_{len(pieces) - 1}_to)s",
            reporting=reporting,
            distinct_meters=distinct_meters,
        ),
        parameters,
    )


def half_hours(groups: Groups, intervals: Intervals, *, meters: bool = False) -> Statement:
    """Build the SQL of one row per group and half-hour.

    Columns: start, g, import_kwh, export_kwh, register_intervals; with `meters` also
    meters_reporting.
    """
    if groups.circuits is None:
        reporting = ", count(distinct s.meter) as meters_reporting" if meters else ""
        return Statement(
            'select r."timestamp" as start, s.g, sum(r.import_kwh) as import_kwh,'
            f" sum(r.export_kwh) as export_kwh, count(*) as register_intervals{reporting}"
            f" {of_registers(groups)} group by 1, 2",
            spans(groups, intervals.first, intervals.last),
        )
    parameters = _members(groups)
    whole = [SourceRange(HALF_HOURS, intervals.first, intervals.last)]
    (units,) = _parts(groups, whole, parameters, "half_hours")
    columns = "total_import_kwh", "total_export_kwh", "register_intervals"
    values = columns if groups.single else [f"sum({column})" for column in columns]
    counted = "cardinality(meters)" if groups.single else _meters(groups)
    reporting = f", {counted} as meters_reporting" if meters else ""
    return Statement(
        f"select unit_start as start, g, {values[0]} as import_kwh, {values[1]} as export_kwh,"
        f" {values[2]} as register_intervals{reporting} from ({units}) as u"
        + ("" if groups.single else " group by 1, 2"),
        parameters,
    )


def meters_at(groups: Groups, intervals: Intervals, starts: str) -> Statement:
    """Build the SQL of the meters that reported in some half-hours, by their starts.

    Columns: start, g, meters_reporting. `starts` is SQL that returns the starts.
    """
    if groups.circuits is None:
        return Statement(
            'select r."timestamp" as start, s.g, count(distinct s.meter) as meters_reporting'
            f' {of_registers(groups)} and r."timestamp" = any(array({starts})) group by 1, 2',
            spans(groups, intervals.first, intervals.last),
        )
    parameters = _members(groups)
    whole = [SourceRange(HALF_HOURS, intervals.first, intervals.last)]
    (units,) = _parts(groups, whole, parameters, "half_hours")
    return Statement(
        f"select unit_start as start, g, {_meters(groups)} as meters_reporting from ({units}) as u"
        f" where unit_start = any(array({starts})) group by 1, 2",
        parameters,
    )


def spans(groups: Groups, first: Instant, last: Instant) -> dict[str, Any]:
    """Return the parameters of `of_registers`, for the half-hours from `first` up to `last`."""
    return {
        "registers": array(span.register for span in groups.spans),
        "span_groups": array(span.group for span in groups.spans),
        "meters": array(span.meter for span in groups.spans),
        "firsts": array(span.first for span in groups.spans),
        "lasts": array(span.last for span in groups.spans),
        "first": moment(first),
        "last": moment(last),
    }


# Of more registers, all half-hours of the ESCO in the period are read rather than an index.
FEW_REGISTERS = 1000


def of_registers(groups: Groups) -> str:
    """Return SQL from FROM on: the half-hours of registers (r) with the group that sums them (s.g).

    Its parameters are those of `spans`.
    """
    few = len(groups.spans) <= FEW_REGISTERS
    return (
        read_sql("half_hours_of_registers")
        + (" and r.register_id = any(%(registers)s::uuid[])" if few else "")
        + (" and not r.derived" if groups.measured else "")
    )


# Registers that never had any are not read.
DERIVED = " and r.derived and r.register_id = any((select {})::uuid[])"


def derived_half_hours(groups: Groups, intervals: Intervals) -> Statement:
    """Build the SQL of the half-hours of groups of which a reading was derived: start, g."""
    derived = DERIVED.format(groups.sources.derived_registers)
    if groups.circuits is None:
        return Statement(
            f'select distinct r."timestamp" as start, s.g {of_registers(groups)}{derived}',
            spans(groups, intervals.first, intervals.last),
        )
    members = f"inner join {MEMBERS} as m (circuit, g) on mapping.circuit = m.circuit"
    return Statement(
        read_sql("derived_of_circuits").format(
            group="0" if groups.everything else "m.g",
            members="" if groups.everything else members,
            mappings=groups.sources.mappings,
            derived=derived,
        ),
        _members(groups)
        | {"derived_from": moment(intervals.first), "derived_to": moment(intervals.last)},
    )


def with_derived(statement: Statement, groups: Groups, intervals: Intervals) -> Statement:
    """Add the column derived_intervals to a statement of rows, where any can be."""
    if not groups.derived:
        return statement
    derived = derived_half_hours(groups, intervals)
    return Statement(
        "select e.*, coalesce(derived_intervals, 0)::bigint as derived_intervals"
        f" from ({statement.sql}) as e left join ("
        f"select {row_index('start', intervals)} as row_index, count(*) as derived_intervals"
        f" from ({derived.sql}) as d group by 1) as derived using (row_index)",
        statement.parameters | derived.parameters | row_index_parameters(groups, intervals),
    )


def _from_registers(groups: Groups, intervals: Intervals) -> Statement:
    at = row_index("start", intervals)
    return Statement(
        read_sql("energy_of_registers").format(row_index=at, half_hours=of_registers(groups)),
        spans(groups, intervals.first, intervals.last),
    )
