"""Aggregates equal the raw sums, and follow readings and the mapping."""

from typing import Any

import psycopg

from tests.conftest import Stack

Admin = psycopg.Connection[Any]

RAW = """
    select m.circuit, {bucket}, sum(r.import_kwh), sum(r.export_kwh)
    from flows.register_interval_hh as r
    join flows.circuit_register as m on r.register_id = m.register
        and r."timestamp" >= m.start_time and (r."timestamp" < m.end_time or m.end_time is null)
    group by 1, 2 order by 1, 2
"""


def both(admin: Admin) -> list[tuple[list[Any], list[Any]]]:
    """Raw sums beside the aggregate, per half-hour and per UTC day."""
    return [
        (
            admin.execute(RAW.format(bucket=bucket)).fetchall(),
            admin.execute(
                f'select circuit_id, "{column}", total_import_kwh, total_export_kwh'
                f" from flows.{aggregate} where register_intervals > 0 order by 1, 2"
            ).fetchall(),
        )
        for aggregate, column, bucket in (
            ("circuit_interval_hh", "timestamp", 'r."timestamp"'),
            ("circuit_interval_daily", "day", "date_trunc('day', r.\"timestamp\", 'UTC')"),
        )
    ]


def test_aggregates_equal_raw_sums(stack: Stack, admin: Admin) -> None:
    for raw, aggregate in both(admin):
        assert len(raw) > 1000
        assert aggregate == raw


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
        'delete from flows.register_interval_hh where register_id = %s and "timestamp" = %s',
        (register, last),
    )
    for raw, aggregate in both(admin):
        assert aggregate == raw


def test_aggregates_follow_the_mapping(stack: Stack, admin: Admin, engine: str) -> None:
    # The mapping ends in the middle of a day; TimescaleDB needs a forced refresh to notice.
    admin.execute(
        "update flows.circuit_register set end_time = date_trunc('day', now(), 'UTC')"
        " - interval '10 days 12 hours' where register = (select min(register::text)::uuid"
        " from flows.circuit_register)"
    )
    if engine == "timescale":
        admin.commit()
        for name in ("circuit_interval_hh", "circuit_interval_daily"):
            with psycopg.connect(stack.contract["database_url"], autocommit=True) as refresher:
                refresher.execute(
                    "call public.refresh_continuous_aggregate(%s::regclass, null, null,"
                    " force => true)",
                    (f"flows.{name}",),
                )
    for raw, aggregate in both(admin):
        assert aggregate == raw
