"""Concurrent writers: the aggregates miss no half-hour and keep no removed one."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from tests.conftest import Stack
from tests.sql.test_aggregates import followed

Admin = psycopg.Connection[Any]
START, END = "2021-06-01T00:00Z", "2021-06-03T00:00Z"
MAP = """
    insert into flows.circuit_register (circuit, register, start_time, end_time)
    values (%s, %s, %s, %s)
"""
HALF_HOUR = """
    insert into flows.register_interval_hh (register_id, "timestamp", import_kwh)
    values (%s, %s, %s)
"""


@dataclass(frozen=True)
class Two:
    """Two registers and two circuits of one ESCO, and their database."""

    url: str
    registers: list[Any]
    circuits: list[Any]

    def background(self, statement: str, *values: object) -> threading.Thread:
        """Run a statement in a separate transaction, in a thread, as it may have to wait."""

        def run() -> None:
            with psycopg.connect(self.url) as other:
                other.execute(statement.encode(), values)

        thread = threading.Thread(target=run)
        thread.start()
        return thread


@pytest.fixture
def two(stack: Stack, admin: Admin) -> Iterator[Two]:
    """Two registers mapped to the first of two circuits; all removed afterwards."""
    esco = stack.contract["escos"]["wlce"]["id"]
    rows = admin.execute(
        "select min(m.circuit::text)::uuid, m.register from flows.circuit_register as m"
        " join flows.meter_registers as r on r.register_id = m.register"
        " join flows.meter_registry as g on g.id = r.meter_id"
        " where g.esco = %s group by 2 order by 2 limit 2",
        (esco,),
    ).fetchall()
    found = Two(stack.contract["database_url"], [row[1] for row in rows], [row[0] for row in rows])
    for register in found.registers:
        admin.execute(MAP, (found.circuits[0], register, START, END))
    admin.commit()
    yield found
    admin.rollback()
    admin.execute(
        'delete from flows.register_interval_hh where "timestamp" between %s and %s', (START, END)
    )
    admin.execute("delete from flows.circuit_register where start_time = %s", (START,))
    assert followed(stack, admin, found.circuits) == []


def test_two_writers_of_one_half_hour_are_both_in_its_sum(
    stack: Stack, admin: Admin, two: Two
) -> None:
    with psycopg.connect(two.url) as first:
        first.execute(HALF_HOUR, (two.registers[0], START, 1))
        # It waits for the first or does not see it; in either case both must be summed.
        second = two.background(HALF_HOUR, two.registers[1], START, 2)
        first.commit()
    second.join()
    assert followed(stack, admin, two.circuits) == []
    found = admin.execute(
        "select total_import_kwh, register_intervals from flows.circuit_interval_hh"
        ' where circuit_id = %s and "timestamp" = %s',
        (two.circuits[0], START),
    ).fetchone()
    assert found == (3, 2)


def test_a_reading_is_followed_into_a_mapping_that_changed_meanwhile(
    stack: Stack, admin: Admin, engine: str, two: Two
) -> None:
    with psycopg.connect(two.url) as writer:
        writer.execute(HALF_HOUR, (two.registers[0], START, 1))
        moved = two.background(
            "update flows.circuit_register set circuit = %s"
            " where register = %s and start_time = %s",
            two.circuits[1],
            two.registers[0],
            START,
        )
        if engine == "timescale":
            # Nothing waits here: the mapping is applied while the reading is not committed yet.
            moved.join()
            followed(stack, admin)
        writer.commit()
    moved.join()
    assert followed(stack, admin, two.circuits) == []
    found = admin.execute(
        "select circuit_id, total_import_kwh from flows.circuit_interval_hh"
        ' where circuit_id = any(%s) and "timestamp" = %s',
        (two.circuits, START),
    ).fetchall()
    assert found == [(two.circuits[1], 1)]
