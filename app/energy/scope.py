"""Registers that a request covers: its filters and groups, looked up with the caller's rights."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.rows import tuple_row

from app.db.session import Connection
from app.energy.groups import Dimension, Groups, Key, Mapping, assemble, gather, register_groups
from app.energy.intervals import HALF_HOUR, Instant, moment
from app.energy.parameters import Filters
from app.errors import NotFound

# Filter → the query that looks its values up; every value must be found.
LOOKUPS = {
    "circuit": "select id, id::text as name from api.circuits where id = any(%s::uuid[])",
    "site": "select id, v as name from api.sites_new, unnest(%s::text[]) as v"
    " where v = code or lower(v) = id::text",
    "property": "select id, id::text as name from api.properties where id = any(%s::uuid[])",
    "meter": "select id, serial as name from api.meter_registry where serial = any(%s::text[])",
    "feeder": "select id, v as name from api.feeder_registry, unnest(%s::text[]) as v"
    " where v = name or lower(v) = id::text",
    "esco": "select id, code as name from api.escos where code = any(%s::text[])",
}

# Filter → the query for the registers and circuits whose changes concern it.
TOUCHED = {
    "circuit": "select array(select mapping.register from api.circuit_register as mapping"
    " where mapping.circuit = any(%(values)s::uuid[])) as registers,"
    " %(values)s::uuid[] as circuits",
    "meter": "select array(select register.register_id from api.meter_registers as register"
    " inner join api.meter_registry as meter on register.meter_id = meter.id"
    " where meter.serial = any(%(values)s::text[])) as registers, null::uuid[] as circuits",
}

# Joins that a mapping needs for these names only: each view costs the checks of its policies.
BESIDE = (
    (
        {"meter", "esco"},
        " inner join api.meter_registry as meter on register.meter_id = meter.id",
    ),
    (
        {"site", "circuit_type", "esco"},
        " inner join api.circuits as circuit on mapping.circuit = circuit.id",
    ),
    (
        {"esco"},
        " left join api.sites_new as site on circuit.site = site.id"
        " left join api.escos as esco on esco.id = coalesce(site.esco, meter.esco)",
    ),
    (
        {"property", "feeder"},
        " left join api.service_head_meter as on_head on register.meter_id = on_head.meter"
        " left join api.service_head_registry as head on on_head.service_head = head.id"
        " left join api.properties_service_head as at_head on head.id = at_head.service_head",
    ),
)
MAPPED = """
    api.circuit_register as mapping
    inner join api.meter_registers as register on mapping.register = register.register_id
    {beside}"""
# Where a filter selects registers, all registers of their circuits are needed: only if all are
# selected can a circuit's stored sums be used.
WITH_SELECTED = (
    "mapping.circuit = any(array(select mapping.circuit from {mapped} where {selected}))"
)
# The part of each mapping in the period; empty for one outside of it.
MAPPINGS = """
    select mapping.circuit, mapping.register, register.meter_id as meter,
        date_part('epoch', mapping.start_time) as began,
        least(greatest(mapping.start_time, %(period_from)s), %(period_to)s) as first,
        greatest(least(mapping.end_time, %(period_to)s), %(period_from)s) as last,
        coalesce({selected}, false) as selected, {columns}
    from {mapped} where {wanted}
"""
HALF_HOUR_FROM = f"(ceil(date_part('epoch', {{}}) / {HALF_HOUR})::bigint * {HALF_HOUR})"
BOUNDS = f"{HALF_HOUR_FROM.format('first')} as first, {HALF_HOUR_FROM.format('last')} as last"
OF_SELECTED = """
    select {bounds}, meter::text, register::text, {by}
    from ({mappings}) as mapped where first < last and selected order by {order}
"""
EACH = """
    select circuit::text, register::text, meter::text, began, {bounds}, selected, {by}
    from ({mappings}) as mapped where first < last
"""
# Mappings of a group over the same half-hours, put together: the number of their meters and
# registers, and their circuits. A meter whose mappings differ, or which may have a register in
# several (one of two registers has not), has a row for each, with its id and the register's.
TOGETHER = """
    with mapped as materialized ({mappings}), meters as (
        select {by}, meter, min(first) as first, max(last) as last, count(*) as registers,
            min(first) = max(first) and min(last) = max(last) and (
                count(*) = 1 or count(*) = 2 and min(register::text) < max(register::text)
            ) as alike,
            {apart} as apart, {circuits} as circuits
        from mapped where first < last group by {by}, meter
    )
    select {bounds}, meters, registers, meter, register, circuits, apart, {by} from (
        select first, last, count(*) as meters, sum(registers)::bigint as registers,
            null as meter, null as register, {together} as circuits,
            bool_and(apart) as apart, {by}
        from meters where alike group by {by}, first, last
        union all
        select mapped.first, mapped.last, 1, 1, mapped.meter::text, register::text, {alone},
            apart, {mapped_by}
        from meters inner join mapped using (meter)
        where mapped.first < mapped.last and not alike
            and row({mapped_by}) is not distinct from row({meters_by})
    ) as span order by {order}
"""
APART = "min(circuit::text) = max(circuit::text)"
# All circuits are in the group, and not named; null if there is a mapping of a register that is not
# the caller's any more.
ALL = (
    "case when (select count(*) from mapped) = (select count(*) from api.circuit_register)"
    " then '' end"
)
EVERY_CIRCUIT = {"apart": APART, "circuits": "''", "together": ALL, "alone": ALL}
# A barrier view is joined without its index, so the circuits are named beside.
AVAILABLE = """
    with mapped as materialized (
        select mapping.circuit, mapping.register, mapping.start_time
        from {mapped} where {wanted} and {selected}
    )
    select min(available_from) as first, max(available_to) as last
    from api.circuit_register_extent as extent
    inner join mapped using (circuit, register, start_time)
    where extent.circuit = any(array(select mapped.circuit from mapped))
"""
EVER_AVAILABLE = (
    "select min(available_from) as first, max(available_to) as last"
    " from api.circuit_register_extent"
)
COLUMNS: dict[str, str] = {
    "esco": "esco.code",
    "site": "circuit.site::text",
    "property": "at_head.property::text",
    "feeder": "head.feeder::text",
    "circuit": "mapping.circuit::text",
    "circuit_type": "circuit.type",
    "meter": "meter.serial",
    "register": "mapping.register::text",
}
BY_HASHES = (
    "select set_config('enable_nestloop', 'off', true), set_config('enable_mergejoin', 'off', true)"
)
# A tenant sees one ESCO, its own.
OWN_ESCO = "(select own.code from api.escos as own)"
# Groups by these have whole circuits.
BY_CIRCUIT = {"esco", "site", "circuit", "circuit_type"}
OF_CIRCUITS = {"circuit": "mapping.circuit", "site": "circuit.site", "esco": "esco.id"}
OF_REGISTERS = {
    "property": "at_head.property",
    "meter": "register.meter_id",
    "feeder": "head.feeder",
}


# Filters whose values have few registers each.
NARROWING = {"circuit", "meter", "property"}


@dataclass(frozen=True, slots=True)
class Selection:
    """The filters of a request: the path's own and the query's; both must hold.

    `tenant` is true if the caller sees one ESCO alone.
    """

    path: dict[str, list[str]]
    query: Filters
    tenant: bool = True

    @property
    def narrow(self) -> bool:
        """True if the request is restricted to one circuit, meter or property."""
        return any(
            len(values) == 1
            for named in self.named()
            for name, values in named.items()
            if name in NARROWING
        )

    async def plan(self, connection: Connection) -> None:
        """Let joins be by hashes where a request names no circuit, meter or property.

        The planner takes every ESCO for one of average size, and a nested loop for many rows more
        takes minutes, a sort several times as long; for few rows hashes take no longer.
        """
        names = {name for named in self.named() for name in named}
        if not names & NARROWING:
            await connection.execute(BY_HASHES)

    def named(self) -> list[dict[str, list[str]]]:
        """Return the filters whose values must exist: name → values, which are alternatives."""
        query = self.query
        asked = {
            "circuit": [str(circuit) for circuit in query.circuit],
            "site": query.site,
            "property": [str(house) for house in query.property_],
            "meter": query.meter,
            "feeder": query.feeder,
        }
        return [self.path, {name: values for name, values in asked.items() if values}]


async def resolve(connection: Connection, scope: Selection) -> list[tuple[str, list[UUID]]]:
    """Return (filter, ids) for each filter.

    NotFound if a value does not exist; a value of another ESCO's gives the same error.
    """
    found = []
    for named in scope.named():
        for name, values in named.items():
            cursor = await connection.execute(LOOKUPS[name].encode(), (values,))
            rows = await cursor.fetchall()
            if {row["name"] for row in rows} != set(values):
                raise NotFound(f"There is no such {name}.")
            found.append((name, [row["id"] for row in rows]))
    return found


async def touched(
    connection: Connection, scope: Selection
) -> tuple[list[UUID] | None, list[UUID] | None]:
    """Return the registers and circuits whose changes concern a request; None for all.

    They are those of a filter for circuits or meters, if there is one.
    """
    for name, sql in TOUCHED.items():
        for named in scope.named():
            if name in named:
                cursor = await connection.execute(sql.encode(), {"values": named[name]})
                row = await cursor.fetchone() or {}
                return row["registers"], row["circuits"]
    return None, None


@dataclass(frozen=True, slots=True)
class Available:
    """Start of the first and end of the last half-hour that a selection has, in any period."""

    first: datetime | None
    last: datetime | None


async def groups(
    connection: Connection,
    scope: Selection,
    by: Sequence[Dimension],
    first: Instant,
    last: Instant,
    *,
    stored: bool,
) -> tuple[Groups, Available]:
    """Return the groups mapped from `first` up to `last`, and the time data are available for.

    The latter does not depend on the period. Sums of circuits are used only if `stored`.
    """
    await scope.plan(connection)
    found = await resolve(connection, scope)
    if scope.tenant:
        found = [(name, ids) for name, ids in found if name != "esco"]
    parameters: dict[str, Any] = {"period_from": moment(first), "period_to": moment(last)}
    wanted, selected = [], []
    for number, (name, ids) in enumerate(found):
        parameters[f"ids_{number}"] = ids
        condition = f"{{}} = any(%(ids_{number})s)"
        if name in OF_CIRCUITS:
            wanted.append(condition.format(OF_CIRCUITS[name]))
        else:
            selected.append(condition.format(OF_REGISTERS[name]))
    asked = {*by, *(name for name, _ in found)}
    if scope.query.circuit_type:
        asked.add("circuit_type")
        wanted.append("circuit.type = any(%(types)s)")
        parameters["types"] = list(scope.query.circuit_type)
    columns = COLUMNS
    if scope.tenant:
        asked.discard("esco")
        columns = COLUMNS | {"esco": OWN_ESCO}
    parts = {
        "mapped": MAPPED.format(beside="".join(join for names, join in BESIDE if names & asked)),
        "selected": " and ".join(selected) or "true",
    }
    if selected:
        wanted.append(WITH_SELECTED.format(**parts))
    parts["wanted"] = " and ".join(wanted) or "true"
    mappings = MAPPINGS.format(
        columns=", ".join(f"{columns[name]} as by_{name}" for name in by), **parts
    )
    names = [f"by_{name}" for name in by]
    shape = {
        "mappings": mappings,
        "bounds": BOUNDS,
        "by": ", ".join(names),
        "mapped_by": ", ".join(f"mapped.{name}" for name in names),
        "meters_by": ", ".join(f"meters.{name}" for name in names),
        "order": ", ".join(f'{name} collate "C" nulls last' for name in names),
    }
    ways = [_named(by)]
    if scope.tenant and not wanted and by == ["esco"]:
        ways = [EVERY_CIRCUIT, *ways]
    queries = [TOGETHER.format(**circuits, **shape) for circuits in ways]
    apart = bool(selected) or not BY_CIRCUIT.issuperset(by)
    if apart:
        queries = [EACH.format(**shape)]
    if not stored:
        queries = []
    queries.append(OF_SELECTED.format(**shape))
    extent = AVAILABLE.format(**parts) if wanted else EVER_AVAILABLE
    first_rows, ((first_at, last_at),) = await _rows(connection, [queries[0], extent], parameters)
    available = Available(first_at, last_at)
    found_rows = [first_rows]
    for number, query in enumerate(queries):
        if number:
            found_rows = await _rows(connection, [query], parameters)
        if number == len(queries) - 1:
            return register_groups(found_rows[0]), available
        groups = (
            gather(_mappings(found_rows[0]))
            if apart
            else assemble(found_rows[0], by, everything=ways[number] is EVERY_CIRCUIT)
        )
        if groups is not None:
            return groups, available
    raise AssertionError("the last query always gives groups")


async def _rows(
    connection: Connection, queries: Sequence[str], parameters: dict[str, Any]
) -> list[list[tuple[Any, ...]]]:
    """Return the rows of several queries, sent in one round trip."""
    cursors = []
    async with connection.pipeline():
        for query in queries:
            cursor = connection.cursor(row_factory=tuple_row)
            cursors.append(await cursor.execute(query.encode(), parameters))
    return [await cursor.fetchall() for cursor in cursors]


def _named(by: Sequence[Dimension]) -> dict[str, str]:
    """Return the SQL that names a meter's circuits and a span's, unless the group's key does."""
    if "circuit" in by:
        return {"apart": "true", "circuits": "''", "together": "''", "alone": "''"}
    return {
        "apart": APART,
        "circuits": "string_agg(circuit::text, ',')",
        "together": "string_agg(circuits, ',')",
        "alone": "circuit::text",
    }


def _mappings(rows: Iterable[tuple[Any, ...]]) -> list[Mapping]:
    """Merge the rows of a mapping: the query returns one for each way it belongs to a group."""
    together: dict[tuple[str, str, float], Mapping] = {}
    for circuit, register, meter, began, first, last, selected, *key in rows:
        if first >= last:
            continue  # no half-hour begins in it
        keys = frozenset({tuple(key)}) if selected else frozenset[Key]()
        before = together.get((circuit, register, began))
        if before is not None:
            keys |= before.keys
        mapping = Mapping(circuit, register, meter, first, last, keys, bool(keys))
        together[circuit, register, began] = mapping
    return list(together.values())
