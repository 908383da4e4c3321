"""Aggregates equal the sums of raw half-hours, also after changes of readings and mappings."""

import time
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest

from tests.conftest import Stack
from tests.sql.test_plans import nested_plans, nodes

Admin = psycopg.Connection[Any]

# Rows of one side that the other lacks. Compared in the database, as half-hours are many.
DIFFERENCES = """
    with raw as materialized (
        select m.circuit, {bucket}, sum(r.import_kwh), sum(r.export_kwh), count(*),
            count(distinct r."timestamp"), array_agg(distinct g.meter_id order by g.meter_id)
        from flows.register_interval_hh as r
        join flows.circuit_register as m on r.register_id = m.register
            and r."timestamp" >= m.start_time and (r."timestamp" < m.end_time or m.end_time is null)
        join flows.meter_registers as g on g.register_id = r.register_id
        where m.circuit = any(%(circuits)s)
        group by 1, 2
    ), found as materialized (
        select circuit_id, "{column}", total_import_kwh, total_export_kwh, register_intervals,
            {present}, meters
        from flows.{level} where circuit_id = any(%(circuits)s)
    )
    (select 'raw', * from (table raw except all table found) as r limit 5)
    union all
    (select 'aggregate', * from (table found except all table raw) as f limit 5)
"""
LEVELS = {
    "circuit_interval_hh": ("timestamp", 'r."timestamp"', "1"),
    "circuit_interval_daily": (
        "day", "date_trunc('day', r.\"timestamp\", 'UTC')", "present_intervals"),
    "circuit_interval_daily_london": (
        "day", "date_trunc('day', r.\"timestamp\", 'Europe/London')", "present_intervals"),
    "circuit_interval_monthly": (
        "month", "date_trunc('month', r.\"timestamp\", 'UTC')", "present_intervals"),
}  # fmt: skip


def differences(admin: Admin, circuits: list[UUID] | None = None) -> list[tuple[Any, ...]]:
    """Return rows in which raw sums and aggregates differ, of some circuits or of all."""
    if circuits is None:
        circuits = [row[0] for row in admin.execute("select id from flows.circuits").fetchall()]
    return [
        (level, *row)
        for level, (column, bucket, present) in LEVELS.items()
        for row in admin.execute(
            DIFFERENCES.format(level=level, column=column, bucket=bucket, present=present).encode(),
            {"circuits": circuits},
        ).fetchall()
    ]


def test_aggregates_equal_raw_sums(stack: Stack, admin: Admin) -> None:
    assert differences(admin) == []
    for level in LEVELS:
        (rows,) = admin.execute(f"select count(*) from flows.{level}".encode()).fetchone() or (0,)
        assert rows > 30
    # A half-hour less that nobody is told of is a difference at each level.
    admin.execute("set local session_replication_role = replica")
    deleted = admin.execute(
        'delete from flows.register_interval_hh where (register_id, "timestamp") in ('
        "select r.register_id, max(r.\"timestamp\") - interval '40 days'"
        " from flows.register_interval_hh as r"
        " join flows.circuit_register as m on m.register = r.register_id group by 1 limit 1)"
    )
    assert deleted.rowcount == 1
    assert {level for level, *_ in differences(admin)} == set(LEVELS)


def followed(
    stack: Stack, admin: Admin, circuits: list[UUID] | None = None
) -> list[tuple[Any, ...]]:
    """Commit, update the aggregates now instead of within a minute, and return differences."""
    admin.commit()
    with psycopg.connect(stack.contract["database_url"], autocommit=True) as follower:
        follower.execute("call flows.follow()")
    return differences(admin, circuits)


def test_aggregates_follow_changed_readings(stack: Stack, admin: Admin) -> None:
    register, last = admin.execute(
        'select register_id, max("timestamp") from flows.register_interval_hh group by 1 limit 1'
    ).fetchone() or (None, None)
    admin.execute(
        "update flows.register_interval_hh set import_kwh = import_kwh + 1.5"
        " where register_id = %s and \"timestamp\" > %s - interval '2 days'",
        (register, last),
    )
    admin.execute(
        "update flows.register_interval_hh set import_kwh = null"
        " where register_id = %s and \"timestamp\" = %s - interval '40 days'",
        (register, last),
    )
    for age in ("0", "30 days"):
        admin.execute(
            "delete from flows.register_interval_hh"
            ' where register_id = %s and "timestamp" = %s - %s::interval',
            (register, last, age),
        )
    assert followed(stack, admin) == []


def test_aggregates_follow_the_mapping(stack: Stack, admin: Admin) -> None:
    # The mapping ends in the middle of a day, and the register continues in another circuit.
    register, _, other = admin.execute(
        "select m.register, m.circuit, (select min(c.id::text)::uuid from flows.circuits as c"
        " where c.esco = m.esco and c.id <> m.circuit) from flows.circuit_register as m"
        " order by m.register limit 1"
    ).fetchone() or (None, None, None)
    moved = "date_trunc('day', now(), 'UTC') - interval '10 days 12 hours'"
    admin.execute(
        f"update flows.circuit_register set end_time = {moved} where register = %s", (register,)
    )
    admin.execute(
        "insert into flows.circuit_register (circuit, register, start_time)"
        f" values (%s, %s, {moved})",
        (other, register),
    )
    assert followed(stack, admin) == []
    admin.execute(
        "delete from flows.circuit_register where register = %s and circuit = %s", (register, other)
    )
    admin.execute(
        "update flows.circuit_register set end_time = null where register = %s", (register,)
    )
    assert followed(stack, admin) == []


@pytest.mark.parametrize("level", ["circuit_sums_daily", "circuit_sums_daily_london"])
def test_a_day_is_summed_by_one_look_at_its_half_hours(
    admin: Admin, engine: str, level: str
) -> None:
    """Also where it has other meters in its second half."""
    if engine == "timescale":
        pytest.skip("TimescaleDB sums by itself")
    plans = nested_plans(
        admin,
        "insert into flows.circuit_register (circuit, register, start_time, end_time)"
        " select other.circuit, m.register, day + interval '12 hours', day + interval '1 day'"
        " from flows.circuit_register as m"
        " join flows.circuit_register as other using (esco)"
        " cross join date_trunc('day', now() - interval '10 days', 'UTC') as day"
        " where m.circuit <> other.circuit order by m.register, other.circuit limit 1",
    )
    (summing,) = (
        plan
        for plan in plans
        if plan["Node Type"] == "ModifyTable" and plan["Relation Name"] == level
    )
    read = sum(
        node["Actual Rows"] * node["Actual Loops"]
        for node in nodes(summing)
        if node.get("Relation Name", "").startswith("circuit_sums_hh")
    )
    # London has a day besides, if the clocks are changed.
    (days,) = admin.execute(
        f"select count(*) from flows.{level} where updated_at = now()".encode()
    ).fetchone() or (0,)
    assert days in (1, 2)
    assert read == 48 * days


def test_a_changed_mapping_affects_only_the_time_between_its_old_and_new_bounds(
    stack: Stack, admin: Admin
) -> None:
    """Half-hours that stay in a circuit are not recomputed, and responses keep ETags."""
    mapping = "where (register, circuit) = (%(register)s, %(circuit)s)"
    register, circuit = admin.execute(
        "select register, circuit from flows.circuit_register order by 1, 2 limit 1"
    ).fetchone() or (None, None)
    named = {"register": register, "circuit": circuit}
    (end,) = admin.execute(
        "select date_trunc('hour', now(), 'UTC') - interval '100 hours'"
    ).fetchone() or (None,)
    assert end
    changed = (
        "select kind, lower(period), upper(period) from flows.change"
        " where id > %s and kind = 'mapping' order by 2, 3"
    )
    for change, spans in (
        (f"update flows.circuit_register set notes = 'seen' {mapping}", set()),
        (f"update flows.circuit_register set end_time = %(end)s {mapping}", {(end, None)}),
        (
            f"update flows.circuit_register set end_time = %(end)s - interval '1 hour' {mapping}",
            {(end - timedelta(hours=1), end)},
        ),
    ):
        (before,) = admin.execute("select max(id) from flows.change").fetchone() or (0,)
        admin.execute(change, named | {"end": end})
        found = admin.execute(changed, (before,)).fetchall()
        assert {row[1:] for row in found} >= spans
        assert all(row[1] >= end - timedelta(hours=1) for row in found)
        assert bool(found) == bool(spans)


def test_the_aggregates_follow_a_mapping_by_themselves(stack: Stack, admin: Admin) -> None:
    register, circuit = admin.execute(
        "select register, circuit from flows.circuit_register order by 1 limit 1"
    ).fetchall()[0]
    for end in ("now() - interval '20 days'", "null"):
        admin.execute(
            f"update flows.circuit_register set end_time = {end} where register = %s", (register,)
        )
        admin.commit()
        deadline = time.monotonic() + 60
        while differences(admin, [circuit]) or differences(admin):
            assert time.monotonic() < deadline, "not followed within a minute"
            admin.commit()
            time.sleep(1)
