"""The time for which an ESCO has half-hours, told without a look at each of its mappings."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from app.db.isolation import become
from tests.conftest import Stack

Admin = psycopg.Connection[Any]
# Of the registers with the first or the last half-hour, mappings begin or end elsewhere, or never.
CHANGES = (
    "select",
    "update flows.circuit_register set start_time = %(first)s + interval '3 days'",
    "update flows.circuit_register set end_time = %(last)s - interval '3 days'",
    "update flows.circuit_register set end_time = %(last)s",
    "update flows.circuit_register set start_time = %(first)s where circuit in"
    " (select min(circuit::text)::uuid from flows.circuit_register group by esco)",
    "delete from flows.circuit_register",
)
ESCO = UUID(int=1)
HALF_HOUR = timedelta(minutes=30)
MINUTES = st.integers(-30, 13 * 30)
# More registers than are looked at one by one.
REGISTERS = 14
HALF_HOURS = st.lists(st.sets(st.integers(0, 11), min_size=1), min_size=1, max_size=REGISTERS)
MAPPINGS = st.lists(
    st.tuples(
        st.integers(0, REGISTERS - 1), st.integers(1, 2), MINUTES, st.none() | st.integers(1, 200)
    ),
    max_size=2 * REGISTERS,
)


def ever_available(session: Admin, esco: str) -> tuple[Any, Any]:
    """The answer of the function for an ESCO, and that of all its mappings."""
    become(session, "flows", esco)
    each = session.execute(
        "select min(available_from), max(available_to) from api.circuit_register_extent"
    ).fetchone()
    told = session.execute("select * from flows.ever_available()").fetchone()
    become(session, "none", None)
    return told, each


@pytest.mark.parametrize("changes", [CHANGES[:1], CHANGES[1:3], CHANGES[3:5], CHANGES[5:]])
def test_it_is_what_all_mappings_say(stack: Stack, admin: Admin, changes: tuple[str, ...]) -> None:
    (first, last) = admin.execute(
        "select min(available_from), max(available_to) from flows.register_extent"
    ).fetchone() or (None, None)
    for change in changes:
        admin.execute(change.encode(), {"first": first, "last": last} if "%" in change else None)
    for esco in stack.contract["escos"].values():
        told, each = ever_available(admin, esco["id"])
        assert told == each


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(HALF_HOURS, MAPPINGS)
# Those with the longest extents are mapped for a half-hour only.
@example(
    [set(range(n, 40 - n)) for n in range(REGISTERS)],
    [(n, 1, 600, 30) if n < 10 else (n, 1, -30, None) for n in range(REGISTERS)],
)
# The one that is mapped last has the first half-hour: the others have none for so long.
@example(
    [{0, 4}] * (REGISTERS - 1) + [{1, 3}],
    [(n, 1, 30, None) for n in range(REGISTERS - 1)] + [(REGISTERS - 1, 1, 60, None)],
)
def test_it_is_what_any_mappings_say(
    stack: Stack,
    admin: Admin,
    half_hours: list[set[int]],
    mappings: list[tuple[int, int, int, int | None]],
) -> None:
    """Registers have half-hours before they are mapped, after, between, or all the time."""
    start = stack.midnight(5, "UTC")
    written = [
        (UUID(int=n), start + place * HALF_HOUR)
        for n, places in enumerate(half_hours)
        for place in places
    ]
    mapped = [
        (
            UUID(int=n % len(half_hours)),
            UUID(int=circuit),
            start + timedelta(minutes=since),
            None if minutes is None else start + timedelta(minutes=since + minutes),
        )
        for n, circuit, since, minutes in mappings
    ]
    with admin.transaction(force_rollback=True), admin.cursor() as cursor:
        cursor.execute("set local session_replication_role = replica")
        cursor.execute("insert into flows.escos (id, code, name) values (%s, 'x', 'x')", (ESCO,))
        cursor.executemany(
            'insert into flows.register_interval_hh (register_id, esco, "timestamp")'
            " values (%s, %s, %s)",
            [(register, ESCO, at) for register, at in written],
        )
        cursor.execute(
            "insert into flows.register_extent (register_id, esco, available_from, available_to)"
            ' select register_id, esco, min("timestamp"), max("timestamp") + %s'
            " from flows.register_interval_hh where esco = %s group by 1, 2",
            (HALF_HOUR, ESCO),
        )
        cursor.executemany(
            "insert into flows.meter_registers (register_id, meter_id, esco) values (%s, %s, %s)",
            [(UUID(int=n), UUID(int=n), ESCO) for n in range(len(half_hours))],
        )
        cursor.executemany(
            "insert into flows.circuit_register (register, circuit, start_time, end_time, esco)"
            " values (%s, %s, %s, %s, %s) on conflict do nothing",
            [(*mapping, ESCO) for mapping in mapped],
        )
        told, each = ever_available(admin, str(ESCO))
        assert told == each
