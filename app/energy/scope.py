"""Registers that a request covers: its filters and groups, looked up with the caller's rights."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any
from uuid import UUID

from app.db.batch import EarlyRows, Query
from app.db.session import Connection
from app.energy.groups import (
    OF_TENANT,
    Dimension,
    Groups,
    Key,
    Mapping,
    Sources,
    assemble,
    gather,
    register_groups,
)
from app.energy.intervals import HALF_HOUR, Instant, moment
from app.energy.parameters import Filters
from app.energy.sql_files import read_sql
from app.errors import NotFound

# Filter → the query that looks its values up; every value must be found.
LOOKUPS = {
    "circuit": "select id, id::text as name from flows.circuits where id = {ids}",
    "site": "select id, v as name from api.sites_new, unnest(%(values)s::text[]) as v"
    " where v = code or lower(v) = id::text",
    "property": "select id, id::text as name from api.properties where id = {ids}",
    "meter": "select id, serial as name from flows.meter_registry where serial = {texts}",
    "feeder": "select id, v as name from api.feeder_registry, unnest(%(values)s::text[]) as v"
    " where v = name or lower(v) = id::text",
    "esco": "select id, code as name from api.escos where code = {texts}",
}

# Filter → the query for the registers and circuits whose changes concern it.
TOUCHED = {
    "circuit": "select array(select mapping.register from flows.circuit_register as mapping"
    " where mapping.circuit = any(%(values)s::uuid[])) as registers,"
    " %(values)s::uuid[] as circuits",
    "meter": "select array(select register.register_id from flows.meter_registers as register"
    " inner join flows.meter_registry as meter on register.meter_id = meter.id"
    " where meter.serial = any(%(values)s::text[])) as registers, null::uuid[] as circuits",
}

# Joins that a mapping needs for these names only: each view costs the checks of its policies.
BESIDE = (
    (
        {"meter", "esco"},
        " inner join flows.meter_registry as meter on register.meter_id = meter.id",
    ),
    (
        {"site", "circuit_type", "esco"},
        " inner join flows.circuits as circuit on mapping.circuit = circuit.id",
    ),
    (
        {"esco"},
        " left join api.sites_new as site on circuit.site = site.id"
        " left join api.escos as esco on esco.id = coalesce(site.esco, meter.esco)",
    ),
    (
        {"property", "feeder"},
        " left join flows.service_head_meter as on_head on register.meter_id = on_head.meter"
        " left join flows.service_head_registry as head on on_head.service_head = head.id"
        " left join flows.properties_service_head as at_head on head.id = at_head.service_head",
    ),
)
MAPPED = """
    {mappings} as mapping
    inner join flows.meter_registers as register on mapping.register = register.register_id
    {beside}"""
# Where a filter selects registers, all registers of their circuits are needed: only if all are
# selected can a circuit's stored sums be used.
WITH_SELECTED = (
    "mapping.circuit = any(array(select mapping.circuit from {mapped} where {selected}))"
)
MAPPINGS = read_sql("mappings")
HALF_HOUR_FROM = f"(ceil(date_part('epoch', {{}}) / {HALF_HOUR})::bigint * {HALF_HOUR})"
BOUNDS = f"{HALF_HOUR_FROM.format('first')} as first, {HALF_HOUR_FROM.format('last')} as last"
OF_SELECTED = read_sql("groups_of_registers")
EACH = read_sql("groups_of_mappings")
TOGETHER = read_sql("groups_of_circuits")
APART = "min(uuid_hash_extended(circuit, 0)) = max(uuid_hash_extended(circuit, 0))"
# All circuits are in the group, and not named; null if there is a mapping of a register that is not
# the caller's any more.
ALL = "case when (select count(*) from mapped) = (select count(*) from {source}) then '' end"
EVERY_CIRCUIT = {"apart": APART, "circuits": "''", "together": ALL, "alone": ALL}
AVAILABLE = read_sql("available")
EVER_AVAILABLE = (
    "select min(available_from) as first, max(available_to) as last"
    " from api.circuit_register_extent"
)
# The same, for all of an ESCO, in a quarter of the time.
EVER_OWN = "select first, last from flows.ever_available()"
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

    `tenant` is true if the caller sees one ESCO alone. `sources` are what it reads.
    """

    path: dict[str, list[str]]
    query: Filters
    tenant: bool = True
    sources: Sources = OF_TENANT

    @property
    def narrow(self) -> bool:
        """True if the request is restricted to one circuit, meter or property."""
        return any(
            len(values) == 1
            for named in self.named()
            for name, values in named.items()
            if name in NARROWING
        )

    def plan(self) -> list[Query]:
        """Let joins be by hashes where a request names no circuit, meter or property.

        The planner takes every ESCO for one of average size, and a nested loop for many rows more
        takes minutes, a sort several times as long; for few rows hashes take no longer.
        """
        names = {name for named in self.named() for name in named}
        return [] if names & NARROWING else [Query(BY_HASHES)]

    def lookups(self) -> list[Query]:
        """Return the queries for the ids of the filters' values, in the order of the filters."""
        return [
            Query(
                LOOKUPS[name].format(
                    ids=among("%(values)s::uuid[]", values),
                    texts=among("%(values)s::text[]", values),
                ),
                {"values": values},
            )
            for named in self.named()
            for name, values in named.items()
        ]

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


def among(array: str, values: Sequence[object]) -> str:
    """Return what SQL compares a column with by `=`, to find the values of an array.

    PostgreSQL takes an array that it does not know for one of ten values. So it would never keep a
    plan for one, and plan each request anew: the longer, the more its statistics know.
    """
    return f"({array})[1]" if len(values) == 1 else f"any({array})"


async def resolve(
    connection: Connection, scope: Selection, early: EarlyRows
) -> list[tuple[str, list[UUID]]]:
    """Return (filter, ids) for each filter, and let the planner know the extent of the request.

    NotFound if a value does not exist; a value of another ESCO's gives the same error.
    """
    asked = [(name, values) for named in scope.named() for name, values in named.items()]
    lookups = scope.lookups()
    answers = await early.rows(connection, [*scope.plan(), *lookups])
    found = []
    for (name, values), rows in zip(asked, answers[-len(asked) :] if asked else [], strict=True):
        ids = rows.dicts()
        if {row["name"] for row in ids} != set(values):
            raise NotFound(f"There is no such {name}.")
        found.append((name, _ids(row["id"] for row in ids)))
    return found


def _ids(ids: Iterable[UUID]) -> list[UUID]:
    return sorted(set(ids))


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


@dataclass(frozen=True, slots=True)
class GroupQueries:
    """The queries for groups, of which the first is enough mostly, and for what is available.

    `ways` is for each query how it names circuits. `are_apart` is true if the first query has a row
    for each mapping.
    """

    groups: list[Query]
    available: Query
    ways: list[dict[str, str]]
    are_apart: bool


def group_queries(
    scope: Selection,
    found: list[tuple[str, list[UUID]]],
    by: Sequence[Dimension],
    first: Instant,
    last: Instant,
    *,
    stored: bool,
) -> GroupQueries:
    """Return the queries for the groups of filters whose ids are known."""
    if scope.tenant:
        found = [(name, ids) for name, ids in found if name != "esco"]
    parameters: dict[str, Any] = {"period_from": moment(first), "period_to": moment(last)}
    parameters |= {f"ids_{number}": ids for number, (_, ids) in enumerate(found)}
    if types := scope.query.circuit_type:
        parameters["types"] = list(types)
    filters = tuple(
        (name, among(f"%(ids_{number})s", ids)) for number, (name, ids) in enumerate(found)
    )
    sql = _group_sql(
        filters,
        tuple(by),
        typed=bool(types),
        tenant=scope.tenant,
        source=scope.sources.mappings,
    )
    groups = sql.groups if stored else sql.groups[-1:]
    return GroupQueries(
        [Query(query, parameters, keep=scope.narrow) for query in groups],
        Query(sql.available, parameters if filters or types else {}, keep=scope.narrow),
        sql.ways,
        sql.are_apart,
    )


@dataclass(frozen=True, slots=True)
class GroupSql:
    """The texts of `GroupQueries`; of `groups`, the last is for registers."""

    groups: list[str]
    available: str
    ways: list[dict[str, str]]
    are_apart: bool


@lru_cache(500)
def _group_sql(
    filters: tuple[tuple[str, str], ...],
    by: tuple[Dimension, ...],
    *,
    typed: bool,
    tenant: bool,
    source: str,
) -> GroupSql:
    """Build the SQL for filters as (name, ids in SQL), and for types of circuits if `typed`.

    `source` is the relation of the mappings.
    """
    wanted, selected = [], []
    for name, ids in filters:
        if name in OF_CIRCUITS:
            wanted.append(f"{OF_CIRCUITS[name]} = {ids}")
        else:
            selected.append(f"{OF_REGISTERS[name]} = {ids}")
    asked: set[str] = {*by, *(name for name, _ in filters)}
    if typed:
        asked.add("circuit_type")
        wanted.append("circuit.type = any(%(types)s)")
    columns = COLUMNS
    if tenant:
        asked.discard("esco")
        columns = COLUMNS | {"esco": OWN_ESCO}
    beside = "".join(join for names, join in BESIDE if names & asked)
    parts = {
        "mapped": MAPPED.format(mappings=source, beside=beside),
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
    if tenant and not wanted and by == ("esco",):
        ways = [EVERY_CIRCUIT, *ways]
    queries = [
        TOGETHER.format(**{k: text.format(source=source) for k, text in way.items()}, **shape)
        for way in ways
    ]
    apart = bool(selected) or not BY_CIRCUIT.issuperset(by)
    if apart:
        queries = [EACH.format(**shape)]
    queries.append(OF_SELECTED.format(**shape))
    # An extent is told of a mapping, whichever part of it is the caller's.
    whole = parts | {"mapped": MAPPED.format(mappings=OF_TENANT.mappings, beside=beside)}
    extent = EVER_OWN if tenant and source == OF_TENANT.mappings else EVER_AVAILABLE
    if wanted:
        extent = AVAILABLE.format(**whole)
    return GroupSql(queries, extent, ways, apart)


def early_queries(
    scope: Selection, by: Sequence[Dimension], first: Instant, last: Instant, *, stored: bool
) -> list[Query]:
    """Return the queries of `groups` that can be sent before any other has been answered.

    They are all of them where no other values are given than ids of circuits.
    """
    queries = [*scope.plan(), *scope.lookups()]
    named = scope.named()
    if all(name == "circuit" for filters in named for name in filters):
        ids = [
            (name, _ids(map(UUID, values))) for filters in named for name, values in filters.items()
        ]
        asked = group_queries(scope, ids, by, first, last, stored=stored)
        queries += [asked.groups[0], asked.available]
    return queries


async def groups(
    connection: Connection,
    scope: Selection,
    by: Sequence[Dimension],
    first: Instant,
    last: Instant,
    early: EarlyRows | None = None,
    *,
    stored: bool,
) -> tuple[Groups, Available]:
    """Return the groups mapped from `first` up to `last`, and the time data are available for.

    The latter does not depend on the period. Sums of circuits are used only if `stored`.
    """
    early = early or EarlyRows()
    found = await resolve(connection, scope, early)
    asked = group_queries(scope, found, by, first, last, stored=stored)
    rows, extent = await early.rows(connection, [asked.groups[0], asked.available])
    available = Available(*extent.tuples()[0])
    for number, query in enumerate(asked.groups):
        if number:
            (rows,) = await early.rows(connection, [query])
        if number == len(asked.groups) - 1:
            return register_groups(rows), available
        groups = (
            gather(_mappings(rows))
            if asked.are_apart
            else assemble(rows, by, everything=asked.ways[number] is EVERY_CIRCUIT)
        )
        if groups is not None:
            return groups, available
    raise AssertionError("the last query always gives groups")


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
