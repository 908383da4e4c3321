"""Aggregates equal the sums of raw half-hours, also after changes of readings and mappings."""

import time
from datetime import timedelta
from typing import Any

import psycopg

from tests.conftest import Stack

Admin = psycopg.Connection[Any]

RAW = """
    select m.circuit, {bucket}, sum(r.import_kwh), sum(r.export_kwh), count(*),
        count(distinct r."timestamp"), array_agg(distinct g.meter_id order by g.meter_id)
    from flows.register_interval_hh as r
    join flows.circuit_register as m on r.register_id = m.register
        and r."timestamp" >= m.start_time and (r."timestamp" < m.end_time or m.end_time is null)
    join flows.meter_registers as g on g.register_id = r.register_id
    group by 1, 2 order by 1, 2
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


def both(admin: Admin) -> list[tuple[list[Any], list[Any]]]:
    """Return (sums of raw half-hours, aggregate) for each level."""
    return [
        (
            admin.execute(RAW.format(bucket=bucket)).fetchall(),
            admin.execute(
                f'select circuit_id, "{column}", total_import_kwh, total_export_kwh,'
                f" register_intervals, {present}, meters from flows.{level} order by 1, 2"
            ).fetchall(),
        )
        for level, (column, bucket, present) in LEVELS.items()
    ]


def test_aggregates_equal_raw_sums(stack: Stack, admin: Admin) -> None:
    for raw, aggregate in both(admin):
        assert len(raw) > 30
        assert aggregate == raw


def followed(stack: Stack, admin: Admin) -> list[tuple[list[Any], list[Any]]]:
    """Commit, update the aggregates now instead of within a minute, and return `both`."""
    admin.commit()
    with psycopg.connect(stack.contract["database_url"], autocommit=True) as follower:
        follower.execute("call flows.follow()")
    return both(admin)


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
    for raw, aggregate in followed(stack, admin):
        assert aggregate == raw


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
    for raw, aggregate in followed(stack, admin):
        assert aggregate == raw
    admin.execute(
        "delete from flows.circuit_register where register = %s and circuit = %s", (register, other)
    )
    admin.execute(
        "update flows.circuit_register set end_time = null where register = %s", (register,)
    )
    for raw, aggregate in followed(stack, admin):
        assert aggregate == raw


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
    register = admin.execute("select min(register::text) from flows.circuit_register").fetchone()
    for end in ("now() - interval '20 days'", "null"):
        admin.execute(
            f"update flows.circuit_register set end_time = {end} where register = %s", register
        )
        admin.commit()
        deadline = time.monotonic() + 60
        while any(raw != aggregate for raw, aggregate in both(admin)):
            assert time.monotonic() < deadline, "not followed within a minute"
            admin.commit()
            time.sleep(1)
