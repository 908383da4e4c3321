"""The cost of a load by the row, whatever statistics there are: rows read are counted, not time."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from tests.bench.history import History
from tests.conftest import Stack
from tests.databases import new_database

Admin = psycopg.Connection[Any]
REGISTERS = 4
START = datetime(2023, 3, 1, tzinfo=UTC)
# Rows that the tables' scans return in one transaction, the planner's lookups aside.
ROWS_READ = """
    select coalesce(sum(seq_tup_read + coalesce(idx_tup_fetch, 0)), 0)::bigint
    from pg_stat_xact_user_tables
"""
INSERT = """
    insert into flows.register_interval_hh as kept
        (register_id, "timestamp", import_kwh, export_kwh)
    select register, t, %(energy)s, 0
    from unnest(%(registers)s::uuid[]) as register
    cross join generate_series(
        %(start)s::timestamptz, %(start)s::timestamptz + %(days)s * interval '1 day'
        - interval '30 minutes', '30 minutes'
    ) as t
"""
UPSERT = (
    INSERT
    + ' on conflict (register_id, "timestamp") do update set import_kwh = excluded.import_kwh'
)


@pytest.fixture
def unknown(stack: Stack) -> Iterator[tuple[Admin, History]]:
    """A new database that nobody analysed, with four registers and no half-hours."""
    with (
        new_database(stack.contract["database_url"], migrated=True) as url,
        psycopg.connect(url, autocommit=True) as connection,
    ):
        yield connection, History(connection, "load", 1, REGISTERS)


def rows_read(admin: Admin, history: History, statement: str, days: int) -> float:
    """Rows that were read for each half-hour that the statement wrote."""
    ids = [history.id("register", n) for n in range(1, REGISTERS + 1)]
    with admin.transaction(force_rollback=True):
        # Statements without a row first: a plan that is kept must not be theirs.
        for _ in range(8):
            admin.execute(INSERT + " where false", values(ids, 1, 0.1))
        (before,) = admin.execute(ROWS_READ).fetchone() or (0,)
        written = admin.execute(statement.encode(), values(ids, days, 0.2)).rowcount
        assert written == REGISTERS * days * 48
        (after,) = admin.execute(ROWS_READ).fetchone() or (0,)
        return float(after - before) / written


def values(ids: list[Any], days: int, energy: float) -> dict[str, Any]:
    return {"registers": ids, "start": START, "days": days, "energy": energy}


@pytest.mark.parametrize("statement", [INSERT, UPSERT], ids=["insert", "upsert"])
def test_a_load_reads_each_row_a_few_times(unknown: tuple[Admin, History], statement: str) -> None:
    admin, history = unknown
    few = rows_read(admin, history, statement, days=4)
    many = rows_read(admin, history, statement, days=120)
    assert 0.5 < few < 12
    assert 0.5 < many < 12


def test_a_correction_reads_each_row_a_few_times(unknown: tuple[Admin, History]) -> None:
    admin, history = unknown
    ids = [history.id("register", n) for n in range(1, REGISTERS + 1)]
    admin.execute(INSERT, values(ids, 60, 0.1))
    assert rows_read(admin, history, UPSERT, days=60) < 20


def test_sums_follow_a_load_with_gaps_and_a_second_register(
    unknown: tuple[Admin, History], engine: str
) -> None:
    admin, history = unknown
    circuit, other = history.id("circuit", 1), history.id("register", 2)
    admin.execute(
        "insert into flows.circuit_register (circuit, register, start_time, end_time)"
        " values (%s, %s, '2023-03-01 10:10Z', '2023-03-02 00:40Z')",
        (circuit, other),
    )
    # Two half-hours of a day with others between them, and a day whose half-hours touch the next.
    for register in (history.id("register", 1), other):
        admin.execute(
            "insert into flows.register_interval_hh values"
            " (%(id)s, '2023-03-01 10:00Z', 1, 0), (%(id)s, '2023-03-01 10:30Z', 1, 0),"
            " (%(id)s, '2023-03-01 23:30Z', 1, null), (%(id)s, '2023-03-02 00:30Z', 1, 0),"
            " (%(id)s, '2023-03-02 01:00Z', 1, 0)",
            {"id": register},
        )
    admin.execute("call flows.follow()")
    expected = admin.execute(
        'select r."timestamp", sum(r.import_kwh), sum(r.export_kwh), count(*)'
        " from flows.circuit_register as m join flows.register_interval_hh as r"
        ' on r.register_id = m.register and r."timestamp" >= m.start_time'
        ' and (r."timestamp" < m.end_time or m.end_time is null)'
        " where m.circuit = %s group by 1 order by 1",
        (circuit,),
    ).fetchall()
    assert [row[3] for row in expected] == [1, 2, 2, 2, 1]
    found = admin.execute(
        'select "timestamp", total_import_kwh, total_export_kwh, register_intervals'
        " from flows.circuit_interval_hh where circuit_id = %s order by 1",
        (circuit,),
    ).fetchall()
    assert found == expected
    days = admin.execute(
        "select day, total_import_kwh, present_intervals from flows.circuit_interval_daily"
        " where circuit_id = %s order by 1",
        (circuit,),
    ).fetchall()
    assert days == [
        (START, 5, 3),
        (START + timedelta(days=1), 3, 2),
    ]
