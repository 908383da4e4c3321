"""Maintenance of the database: retention, partitions, the columnstore, the log of changes."""

import json
import threading
from typing import Any

import psycopg
import pytest

from tests.conftest import Stack, flows, wait_until

Admin = psycopg.Connection[Any]


def test_status_names_the_engine_and_what_it_lacks(stack: Stack, engine: str) -> None:
    status = json.loads(flows(stack, "db", "status", "--json").stdout)
    assert status["engine"] == engine
    with stack.client(None) as client:
        ready = client.get("/ready").json()
    assert ready["engine"] == engine
    assert ready["lacks"] == status["lacks"]
    said = " ".join(status["lacks"])
    for lack in ("columnstore", "background refresh", "retention"):
        assert (lack in said) == (engine == "postgres")
    series = {row["series"]: row for row in status["series"]}
    assert series["meter_event_log"]["keep"] == "90 days"
    assert series["register_import"]["keep"] == "2 years"
    assert series["register_interval_hh"]["parts"] > 1
    printed = " ".join(flows(stack, "db", "status").stdout.split())
    assert engine in printed
    assert all(lack in printed for lack in status["lacks"])


def test_old_rows_go_and_half_hours_stay(stack: Stack, admin: Admin, engine: str) -> None:
    meter = (admin.execute("select min(id::text) from flows.meter_registry").fetchone() or ("",))[0]
    for age in ("80 days", "91 days", "900 days"):
        admin.execute(
            'insert into flows.meter_event_log (meter_id, "timestamp", event_type)'
            " values (%s, now() - %s::interval, 77)",
            (meter, age),
        )
    admin.commit()
    done = {one["task"]: one["done"] for one in json.loads(
        flows(stack, "db", "prune", "--json").stdout)}  # fmt: skip
    of_series = {task: count for task, count in done.items() if "meter_event_log" in task}
    assert min(of_series.values()) > 0
    assert ("dropped chunks of meter_event_log" in of_series) == (engine == "timescale")
    ages = admin.execute(
        'select (now()::date - "timestamp"::date) from flows.meter_event_log'
        " where event_type = 77 order by 1"
    ).fetchall()
    # TimescaleDB drops a chunk once all of it is old enough.
    assert ages in ([(80,)], [(80,), (91,)]) if engine == "timescale" else ages == [(80,)]
    admin.execute("delete from flows.meter_event_log where event_type = 77")
    admin.commit()


def test_upkeep_waits_for_no_long_read(stack: Stack, admin: Admin, engine: str) -> None:
    """It would need the partition for itself, and others would wait behind it."""
    if engine == "timescale":
        pytest.skip("TimescaleDB's policies drop chunks")
    upkeep = "select task from flows.maintain() where task like '%meter_event_log%'"
    with psycopg.connect(stack.contract["database_url"], autocommit=True) as owner:
        owner.execute(
            'insert into flows.meter_event_log (meter_id, "timestamp", event_type)'
            " select min(id::text)::uuid, '2004-02-03Z', 77 from flows.meter_registry"
        )
        admin.execute("select count(*) from flows.meter_event_log")
        tasks = [task for (task,) in owner.execute(upkeep)]
        assert tasks == [
            "removed old rows of meter_event_log",
            "left meter_event_log to the next run, as it is in use",
        ]
        admin.rollback()
        tasks = [task for (task,) in owner.execute(upkeep)]
        assert tasks == ["emptied meter_event_log_2004"]


def test_retention_is_a_setting(stack: Stack, admin: Admin, engine: str) -> None:
    if engine == "postgres":
        pytest.skip("flows.maintain() reads the settings; the test above runs it")
    job = (
        "select config ->> %s from timescaledb_information.jobs where hypertable_name = 'meter_csq'"
    )
    admin.execute(
        "update flows.retention set keep = '1 year', columnstore_after = '3 days'"
        " where series = 'meter_csq'"
    )
    found = {
        row[0] for key in ("drop_after", "compress_after") for row in admin.execute(job, (key,))
    }
    assert found == {"1 year", "3 days", None}


def to_columnstore(stack: Stack) -> None:
    """Move chunks older than eight days to the columnstore, as the policy will do."""
    with psycopg.connect(stack.contract["database_url"], autocommit=True) as owner:
        chunks = owner.execute(
            "select c::text from public.show_chunks('flows.register_interval_hh',"
            " older_than => interval '8 days') as c"
        ).fetchall()
        for chunk in chunks:
            owner.execute(
                "call public.convert_to_columnstore(%s, if_not_columnstore => true)", chunk
            )


def test_one_statement_corrects_every_register_in_the_columnstore(
    stack: Stack, admin: Admin, engine: str
) -> None:
    if engine == "postgres":
        pytest.skip("plain PostgreSQL has no columnstore")
    to_columnstore(stack)
    corrected = admin.execute(
        "update flows.register_interval_hh set import_kwh = 7"
        " where \"timestamp\" = any(array(select date_trunc('week', now(), 'UTC')"
        " - make_interval(weeks => n) from generate_series(2, 12) as n))"
    ).rowcount
    # Each row decompresses a week of its register; TimescaleDB's default limit is 100,000 rows.
    assert corrected * 336 > 100_000


def test_a_correction_in_the_columnstore_reaches_the_aggregates(
    stack: Stack, admin: Admin, engine: str
) -> None:
    if engine == "postgres":
        pytest.skip("plain PostgreSQL has no columnstore")
    to_columnstore(stack)
    circuit, register, at = admin.execute(
        'select m.circuit, r.register_id, r."timestamp" from flows.register_interval_hh as r'
        " join flows.circuit_register as m on m.register = r.register_id"
        " where r.\"timestamp\" < now() - interval '20 days' order by 3 desc, 1 limit 1"
    ).fetchone() or (None, None, None)
    before = admin.execute(
        "select import_kwh from flows.register_interval_hh where register_id = %s"
        ' and "timestamp" = %s',
        (register, at),
    ).fetchone()
    assert before
    assert at
    for energy in (123, before[0]):
        statuses = []
        for esco in stack.contract["escos"]:
            with stack.client(esco, "write") as client:
                answer = client.post(
                    "/rest/v1/register_interval_hh",
                    json={
                        "register_id": str(register),
                        "timestamp": at.isoformat(),
                        "import_kwh": float(energy),
                    },
                    headers={"Prefer": "resolution=merge-duplicates"},
                )
                statuses.append(answer.status_code)
        assert sorted(statuses) in ([200, 403, 403], [201, 403, 403])
        followed = json.loads(flows(stack, "db", "refresh", "--json").stdout)
        # The background job may have come first.
        assert followed["followed"] >= 0
        total = admin.execute(
            "select total_import_kwh from flows.circuit_interval_hh where circuit_id = %s"
            ' and "timestamp" = %s',
            (circuit, at),
        ).fetchone()
        assert total == (energy,)
        admin.commit()


def test_changes_put_together_keep_their_number(stack: Stack, admin: Admin) -> None:
    tag = "select version, as_of from flows.data_state('(,)', null)"
    admin.execute("select set_config('request.jwt.claims', '{\"role\": \"grafanareader\"}', false)")
    admin.execute("update flows.change set followed_at = now() - interval '2 hours'")
    count = "select count(*), sum(changes), max(id) from flows.change"
    before = admin.execute(count).fetchone() or (0, 0, 0)
    state = admin.execute(tag).fetchone()
    admin.execute("set local role flows_owner")
    (removed,) = admin.execute("select flows.compact_changes()").fetchone() or (0,)
    admin.execute("reset role")
    after = admin.execute(count).fetchone() or (0, 0, 0)
    assert removed > 0
    assert after == (before[0] - removed, before[1], before[2])
    assert admin.execute(tag).fetchone() == state


def a_register(admin: Admin) -> str:
    """The register that the tests of extents write to."""
    found = admin.execute("select min(register_id::text) from flows.meter_registers").fetchone()
    return str((found or ("",))[0])


def extents(admin: Admin, register: str) -> tuple[Any, Any]:
    """Return the stored extent of a register, and the extent of its half-hours."""
    kept = admin.execute(
        "select available_from, available_to from flows.register_extent where register_id = %s",
        (register,),
    ).fetchone()
    found = admin.execute(
        'select min("timestamp"), max("timestamp") + interval \'30 minutes\''
        " from flows.register_interval_hh where register_id = %s",
        (register,),
    ).fetchone()
    return kept or (None, None), found


def test_extents_follow_half_hours_in_every_way(admin: Admin) -> None:
    register = a_register(admin)
    series, its = "flows.register_interval_hh", 'register_id = %(r)s and "timestamp"'
    days = "'2001-04-01Z'::timestamptz + n * interval '1 day'"
    for statement in (
        f"insert into {series} select %(r)s, '2001-05-01Z', 1, 1",
        f"insert into {series} select %(r)s, {days}, 1, 1 from generate_series(0, 9) as n",
        f"update {series} set import_kwh = 2 where {its} < '2002-01-01Z'",
        f"update {series} set \"timestamp\" = '2001-03-31T23:30Z' where {its} = '2001-04-01Z'",
        f"update {series} set \"timestamp\" = '2001-04-01Z' where {its} = '2001-03-31T23:30Z'",
        f"delete from {series} where {its} = '2001-04-02Z'",
        f"delete from {series} where {its} < '2001-04-05Z'",
        f"delete from {series} where register_id = %(r)s",
        f"insert into {series} select %(r)s, '2001-05-01Z', 1, 1",
    ):
        admin.execute(statement, {"r": register})
        kept, found = extents(admin, register)
        assert kept == found, statement


def test_extents_that_do_not_fit_are_mended(admin: Admin) -> None:
    register = a_register(admin)
    (mended,) = admin.execute("select flows.mend_extents()").fetchone() or (None,)
    assert mended == 0
    admin.execute(
        "update flows.register_extent set available_from = '1999-01-01Z' where register_id = %s",
        (register,),
    )
    kept, found = extents(admin, register)
    assert kept != found
    (mended,) = admin.execute("select flows.mend_extents()").fetchone() or (None,)
    assert mended == 1
    kept, found = extents(admin, register)
    assert kept == found


def is_blocked(admin: Admin, pid: int) -> bool:
    """Return whether a session waits for another."""
    admin.rollback()  # within a transaction the result would stay the same
    return admin.execute("select pg_blocking_pids(%s) <> '{}'", (pid,)).fetchone() == (True,)


def test_a_deletion_and_an_arrival_at_a_time_leave_a_true_extent(
    stack: Stack, admin: Admin
) -> None:
    """A deletion of the last half-hour waits for a concurrent insert, then measures again."""
    register = a_register(admin)
    url = stack.contract["database_url"]
    insert = "insert into flows.register_interval_hh values (%s, %s, 1, 1)"
    remove = 'delete from flows.register_interval_hh where register_id = %s and "timestamp" = %s'
    with psycopg.connect(url) as one, psycopg.connect(url, autocommit=True) as other:
        other.execute(insert, (register, "2030-01-01T00:00Z"))
        one.execute(insert, (register, "2030-01-01T00:30Z"))
        waits = threading.Thread(
            target=other.execute, args=(remove, (register, "2030-01-01T00:00Z"))
        )
        waits.start()
        wait_until(lambda: not waits.is_alive() or is_blocked(admin, other.info.backend_pid))
        one.commit()
        waits.join()
        kept, found = extents(admin, register)
        assert kept == found
        other.execute(remove, (register, "2030-01-01T00:30Z"))
        kept, found = extents(admin, register)
        assert kept == found
