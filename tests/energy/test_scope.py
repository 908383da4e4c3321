"""Groups that the database puts together are those that are gathered mapping by mapping."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection
from psycopg.rows import dict_row

from app.db.batch import run_batch
from app.db.session import Connection
from app.energy import scope
from app.energy.groups import Dimension, Groups
from app.energy.intervals import HALF_HOUR, Intervals, half_hour_from
from app.energy.parameters import Filters
from app.energy.scope import Selection
from tests.conftest import Stack

# Meters of two registers, one of them in another circuit, from another time on, or in two.
VARIED = (
    "create temporary table m on commit drop as select id as meter,"
    " (%(kinds)s::integer[])[1 + row_number() over (order by id)"
    "  %% cardinality(%(kinds)s::integer[])] as kind"
    " from flows.meter_registry where esco = %(esco)s",
    "create temporary table r on commit drop as select gen_random_uuid() as register, m.* from m",
    "insert into flows.meter_registers (register_id, meter_id, element)"
    " select register, meter, 'B' from r where kind > 0",
    "insert into flows.circuit_register (circuit, register, start_time, end_time)"
    " select c.circuit, r.register,"
    "  case kind when 2 then %(first)s + interval '40 minutes' else '2000-01-01Z' end,"
    "  case when kind in (3, 4) then %(last)s - interval '1 day' end"
    " from r cross join lateral (select c.circuit from flows.circuit_register as c"
    "  join flows.meter_registers as own on c.register = own.register_id"
    "  where own.meter_id = r.meter limit 1) as c where kind > 0",
    "insert into flows.circuit_register (circuit, register, start_time)"
    " select other.id, r.register, case kind when 4 then %(last)s - interval '1 day'"
    "  else '2000-01-01Z' end from r cross join lateral ("
    "  select id from flows.circuits where esco = %(esco)s and id not in"
    "  (select circuit from flows.circuit_register where register = r.register) limit 1"
    " ) as other where kind = 4 or (kind = 5 and %(twice)s)",
)
# A mapping stays behind with its circuit.
MOVED = (
    "insert into flows.meter_registry (id, serial, name, esco)"
    " values (gen_random_uuid(), 'MOVED', 'Moved', flows.current_esco())",
    "insert into flows.meter_registers (meter_id, element)"
    " select id, 'SINGLE' from flows.meter_registry where serial = 'MOVED'",
    "insert into flows.circuit_register (circuit, register, start_time)"
    " select (select id from flows.circuits where esco = m.esco limit 1), register_id,"
    " '2000-01-01Z' from flows.meter_registers join flows.meter_registry as m on m.id = meter_id"
    " where serial = 'MOVED'",
    # Past the triggers, which would leave the register behind.
    "set local session_replication_role = replica",
    "update flows.meter_registers set esco = (select id from flows.escos where code = 'hmce')"
    " where meter_id in (select id from flows.meter_registry where serial = 'MOVED')",
    "update flows.meter_registry set esco = (select id from flows.escos where code = 'hmce')"
    " where serial = 'MOVED'",
    "set local session_replication_role = origin",
)
KINDS = range(6)
BY: list[list[Dimension]] = [
    ["esco"], ["site"], ["circuit_type"], ["circuit"], ["site", "circuit_type"], ["circuit", "esco"]
]  # fmt: skip


async def both(
    connection: Connection, by: list[Dimension], first: datetime, last: datetime
) -> tuple[Groups, Groups]:
    """Return the groups put together by the database, and those gathered by the gateway."""
    bounds = half_hour_from(first), half_hour_from(last)
    found = []
    for together in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            if not together:
                patch.setattr(scope, "BY_CIRCUIT", set())
            selection = Selection({}, Filters(), tenant=True)
            scope._group_sql.cache_clear()
            groups, _ = await scope.groups(connection, selection, by, *bounds, stored=True)
            found.append(groups)
    scope._group_sql.cache_clear()
    return found[0], found[1]


async def tenant(
    stack: Stack, work: Any, twice: bool = False, kinds: Sequence[int] = KINDS
) -> None:
    """Call `work` as a tenant with varied mappings, which are rolled back."""
    first, last = stack.midnight(9), stack.midnight(2)
    esco = stack.contract["escos"]["wlce"]["id"]
    connection = await AsyncConnection.connect(stack.contract["database_url"], row_factory=dict_row)
    async with connection, connection.transaction(force_rollback=True):
        for statement in VARIED:
            asked = {"esco": esco, "first": first, "last": last, "twice": twice, "kinds": [*kinds]}
            client = psycopg.AsyncClientCursor(connection)
            await client.execute(statement.encode(), asked)
        await connection.execute(
            "select set_config('role', 'public_backend', true),"
            " set_config('app.current_esco', %s, true)", (esco,)
        )  # fmt: skip
        await work(connection, first, last)


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("by", BY, ids=",".join)
def test_groups_are_the_same(stack: Stack, by: list[Dimension], twice: bool) -> None:
    async def work(connection: Connection, first: datetime, last: datetime) -> None:
        together, gathered = await both(connection, by, first, last)
        assert list(together.keys) == list(gathered.keys)
        assert together.keys
        assert together.meters_apart == gathered.meters_apart
        assert (together.circuits is None) == (gathered.circuits is None)
        start, end = half_hour_from(first), half_hour_from(last)
        for intervals in (
            Intervals(range(start, end + HALF_HOUR, HALF_HOUR), start, end),
            Intervals([start, start + 3 * 86400 + HALF_HOUR, end], start, end),
        ):
            for ours, theirs in zip(
                together.runs(intervals), gathered.runs(intervals), strict=True
            ):
                # Runs may be cut more finely, but expect the same of each interval.
                assert [
                    (run.meters, run.needed(intervals.expected(index)))
                    for run in ours for index in range(run.start, run.stop)
                ] == [
                    (run.meters, run.needed(intervals.expected(index)))
                    for run in theirs for index in range(run.start, run.stop)
                ]  # fmt: skip
        if together.circuits is not None and gathered.circuits is not None:
            named = {(c, g) for cs, g in together.circuits for c in cs.split(",")}
            assert together.everything or named == set(gathered.circuits)
        assert together.everything == (by == ["esco"] and not twice)
        assert (together.circuits is None) == (twice and "circuit" not in by)
        # Both kinds of rows are there: those of several meters, and those of one register.
        alone = {span.register is None for span in together.spans}
        assert alone == ({False} if together.circuits is None else {True, False})

    asyncio.run(tenant(stack, work, twice))


@pytest.mark.parametrize(
    ("path", "expected"),
    [({}, "off"), ({"site": ["WLCE"]}, "off"), ({"meter": ["WLCE0001"]}, "on")],
)
def test_nested_loops_are_for_few_rows(
    stack: Stack, path: dict[str, list[str]], expected: str
) -> None:
    async def work(connection: Connection, first: datetime, last: datetime) -> None:
        del first, last
        await run_batch(connection, Selection(path, Filters()).plan())
        row = await (await connection.execute("show enable_nestloop")).fetchone()
        assert row == {"enable_nestloop": expected}

    asyncio.run(tenant(stack, work))


@pytest.mark.parametrize("kinds", [KINDS, (2, 3, 4)])
def test_a_register_that_moved_away_is_not_in_the_sum(stack: Stack, kinds: Sequence[int]) -> None:
    async def work(connection: Connection, first: datetime, last: datetime) -> None:
        await connection.execute("reset role")
        for statement in MOVED:
            await connection.execute(statement)
        await connection.execute("set local role public_backend")
        together, gathered = await both(connection, ["esco"], first, last)
        assert not together.everything
        assert together.circuits is not None
        named = {circuit for circuits, _ in together.circuits for circuit in circuits.split(",")}
        assert named == {circuit for circuit, _ in gathered.circuits or ()}

    asyncio.run(tenant(stack, work, kinds=kinds))
