"""Registers that a request covers: its filters and groups, looked up with the caller's rights."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from app.db.session import Connection
from app.energy.groups import Dimension, Groups, Key, Mapping, gather
from app.energy.intervals import Instant, half_hour_from, moment
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
# When one register of a circuit is selected, all of them are returned: only if all are selected can
# the circuit's stored sums be used. Mappings outside the period give the time data are available.
MAPPINGS = """
    select circuit, register, began, start_time, end_time, meter_id, available_from, available_to,
        selected, {dimensions}
    from (
        select mapping.circuit, mapping.register, mapping.start_time::text as began,
            greatest(mapping.start_time, %(period_from)s) as start_time,
            least(mapping.end_time, %(period_to)s) as end_time,
            register.meter_id, extent.available_from, extent.available_to,
            ({selected}) as selected,
            bool_or({selected}) over (partition by mapping.circuit) as wanted,
            {columns}
        from api.circuit_register as mapping
        inner join api.meter_registers as register on mapping.register = register.register_id
        left join api.circuit_register_extent as extent
            on mapping.circuit = extent.circuit and mapping.register = extent.register
            and mapping.start_time = extent.start_time
        {beside}
        where {wanted}
    ) as mapped
    where wanted
"""
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
OF_CIRCUITS = {"circuit": "mapping.circuit", "site": "circuit.site", "esco": "esco.id"}
OF_REGISTERS = {
    "property": "at_head.property",
    "meter": "register.meter_id",
    "feeder": "head.feeder",
}


@dataclass(frozen=True, slots=True)
class Selection:
    """The filters of a request: the path's own and the query's; both must hold."""

    path: dict[str, list[str]]
    query: Filters

    @property
    def narrow(self) -> bool:
        """True if the request is restricted to one circuit, meter or property."""
        return any(
            len(values) == 1
            for named in self.named()
            for name, values in named.items()
            if name in ("circuit", "meter", "property")
        )

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


@dataclass(frozen=True, slots=True)
class Available:
    """Start of the first and end of the last half-hour that a selection has, in any period."""

    first: datetime | None
    last: datetime | None


async def groups(
    connection: Connection, scope: Selection, by: Sequence[Dimension], first: Instant, last: Instant
) -> tuple[Groups, Available]:
    """Return the groups mapped from `first` up to `last`, and the time data are available for.

    The latter does not depend on the period.
    """
    parameters: dict[str, Any] = {"period_from": moment(first), "period_to": moment(last)}
    wanted, selected = [], []
    found = await resolve(connection, scope)
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
    sql = MAPPINGS.format(
        dimensions=", ".join(f"by_{name}" for name in by) or "null",
        columns=", ".join(f"{COLUMNS[name]} as by_{name}" for name in by) or "null",
        selected=f"coalesce({' and '.join(selected)}, false)" if selected else "true",
        wanted=" and ".join(wanted) or "true",
        beside="".join(joins for names, joins in BESIDE if names & asked),
    )
    rows = await (await connection.execute(sql.encode(), parameters)).fetchall()
    firsts = [row["available_from"] for row in rows if row["selected"] and row["available_from"]]
    lasts = [row["available_to"] for row in rows if row["selected"] and row["available_to"]]
    available = Available(min(firsts, default=None), max(lasts, default=None))
    return gather(_mappings(rows, by)), available


def _mappings(rows: Iterable[dict[str, Any]], by: Sequence[Dimension]) -> list[Mapping]:
    """Merge the rows of a mapping: the query returns one for each way it belongs to a group."""
    together: dict[tuple[UUID, UUID, str], tuple[dict[str, Any], set[Key]]] = {}
    for row in rows:
        identity = (row["circuit"], row["register"], row["began"])
        _, keys = together.setdefault(identity, (row, set()))
        if row["selected"]:
            keys.add(tuple(row[f"by_{name}"] for name in by))
    mappings = []
    for row, keys in together.values():
        start, end = half_hour_from(row["start_time"]), half_hour_from(row["end_time"])
        if start < end:
            mappings.append(
                Mapping(
                    row["circuit"],
                    row["register"],
                    row["meter_id"],
                    start,
                    end,
                    frozenset(keys),
                    bool(keys),
                )
            )
    return mappings
