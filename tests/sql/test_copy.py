"""`flows db copy`: a deployment's rows arrive, or the refusal names what cannot be copied."""

import json
import os
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from app.db.copy import CopyOptions, CopyRefused, copied_tables, copy_database, parse_kwh_as
from tests.commands import run_command
from tests.conftest import Stack
from tests.databases import new_database
from tests.deployed import (
    ESCO,
    HEAT,
    METER,
    NAMELESS_ESCO,
    OTHER,
    POWER,
    ROOF,
    SOLAR,
    SPARE,
    deployed_and_new,
)

COUNTS = "select count(*), min(t::text) from flows.{} as t"
SUMS = (
    "select circuit_id, day, total_import_kwh, meters from flows.circuit_interval_daily"
    " where day < date_trunc('day', now(), 'UTC') order by 1, 2"
)
ENERGY = (
    "select register_id::text, count(*), sum(import_kwh), sum(export_kwh), sum(kwh)"
    " from flows.register_interval_hh group by 1 order by 1"
)


@pytest.fixture
def empty(stack: Stack) -> Iterator[str]:
    """The URL of a second database on the stack's server, migrated and empty."""
    with new_database(stack.contract["database_url"], migrated=True) as url:
        yield url


@pytest.fixture(scope="module")
def pair(stack: Stack, engine: str) -> Iterator[tuple[str, str]]:
    """The URLs of a deployment's database and of a new one; tests leave both as they were."""
    with deployed_and_new(stack.contract["database_url"], engine) as urls:
        yield urls


@pytest.fixture
def databases(stack: Stack, engine: str) -> Iterator[tuple[str, str]]:
    """The URLs of a deployment's database and of a new one, which a test may fill."""
    with deployed_and_new(stack.contract["database_url"], engine) as urls:
        yield urls


def copy(source: str, target: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `flows db copy`."""
    asked = ("db", "copy", "--from", source, *words)
    return run_command(asked, os.environ | {"FLOWS_DATABASE_ADMIN_URL": target})


def ask(url: str, query: str, *values: object) -> list[tuple[Any, ...]]:
    """Return the rows of a query, run in a new connection."""
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(query.encode(), values)
        return cursor.fetchall() if cursor.description else []


def refusal(source: str, target: str, options: CopyOptions | None = None) -> str:
    """Return the message of a copy that is refused, after which nothing is there."""
    with pytest.raises(CopyRefused) as refused:
        copy_database(source, target, lambda work, rows: None, options)
    assert ask(target, "select count(*) from flows.escos") == [(0,)]
    return str(refused.value)


def test_every_row_arrives_and_twice_is_refused_whole(
    stack: Stack, engine: str, empty: str
) -> None:
    source = stack.contract["database_url"]
    done = copy(source, empty)
    assert done.returncode == 0, done.stderr
    with psycopg.connect(source) as before, psycopg.connect(empty) as after:
        tables = copied_tables(after)
        assert len(tables) == 28
        for table in tables:
            query = COUNTS.format(table)
            assert after.execute(query).fetchone() == before.execute(query).fetchone(), table
        assert after.execute(SUMS).fetchall() == before.execute(SUMS).fetchall()
        if engine == "timescale":
            kept = "select flows.kept_until('circuit_interval_daily') > now() - interval '3 days'"
            assert after.execute(kept).fetchone() == (True,)
    again = copy(source, empty)
    assert again.returncode == 1
    assert again.stderr.startswith("error: nothing was copied: ")
    assert "has rows here already" in again.stderr


def test_a_deployment_arrives_with_all_its_oddities(
    databases: tuple[str, str], tmp_path: Path
) -> None:
    old, new = databases
    file = tmp_path / "report.json"
    done = copy(old, new, "--report", str(file))
    assert done.returncode == 0, done.stderr
    assert ask(new, ENERGY) == [
        (POWER, 96, 24, None, 24),
        (HEAT, 96, 36, None, 36),
        (ROOF, 96, None, 48, 48),
        (SOLAR, 96, None, 60, 60),
        (OTHER, 96, 72, None, 72),
    ]
    assert ask(
        new, "select month::date::text, sum(kwh) from flows.circuit_interval_monthly group by 1"
        " order by 1"
    ) == [("2026-05-01", 84), ("2026-06-01", 84)]  # fmt: skip
    assert ask(new, "select csq from flows.meter_csq order by timestamp") == [
        (20,), (99,), (-1,), (None,), (2_147_483_647,),
    ]  # fmt: skip
    assert ask(
        new, "select voltage::text from flows.meter_voltage order by timestamp"
    ) == [("240.1",), ("241.7",), ("241.7",), (None,)]  # fmt: skip
    reads = "select count(*), count(read), sum(read::text::numeric) from flows.register_import"
    assert ask(new, reads) == ask(old, reads)
    assert ask(new, "select min(timestamp)::date::text from flows.meter_event_log") == [
        ("1970-01-01",)
    ]
    shadows = "select csq, health, health_details, last_healthy_at is null from flows.meter_shadows"
    assert ask(new, f"{shadows} order by id limit 3") == [
        (99, "healthy", "", True),
        (-1, "unhealthy", "no answer for two days", False),
        (None, None, '{"reason": "spare"}', True),
    ]
    assert ask(new, "select code, name from flows.escos order by code") == [
        ("olde", "Old Energy"), (None, None),
    ]  # fmt: skip
    # The names that every new database has give way to those of the deployment.
    for table in ("meter_event_log_type", "meter_metrics"):
        names = f"select id::text, name from flows.{table} order by 1"
        assert ask(new, names) == ask(old, names)
    # The owner follows from the meters.
    assert ask(new, "select distinct esco::text from flows.circuits") == [(ESCO,)]
    assert ask(
        new, "select esco::text from flows.meter_registers where register_id = %s", OTHER
    ) == [(NAMELESS_ESCO,)]
    # Nothing is derived, nothing is appended, and no time moves.
    assert ask(new, "select count(*) from flows.register_interval_hh where derived") == [(0,)]
    assert ask(new, "select distinct updated_at::date::text from flows.meter_registry") == [
        ("2026-06-01",)
    ]
    report = json.loads(file.read_text())
    found = {(f["kind"], f["table"], f["column"]): f["rows"] for f in report["findings"]}
    assert found[("repaired", "meter_shadows", "health")] == [f"{SPARE} unknown"]
    assert len(found[("repaired", "meter_voltage", "timestamp")]) == 2
    assert len(found[("left out", "circuit_register", "end_time")]) == 1
    assert len(found[("noted", "meter_registry", "site")]) == 2
    assert found[("noted", "meter_event_log", "timestamp")]
    halves = next(t for t in report["tables"] if t["table"] == "register_interval_hh")
    assert halves["equal"]
    assert float(halves["sums_here"]["kwh"]) == 240
    assert "equal: kwh 240" in done.stdout


def test_what_is_newer_is_added(databases: tuple[str, str]) -> None:
    old, new = databases
    copy_database(old, new, lambda work, rows: None)
    # Written under an earlier owner of the meter.
    first = " where register_id = %s and timestamp = '2026-06-01Z'"
    ask(new, "update flows.register_interval_hh set esco = %s" + first, NAMELESS_ESCO, HEAT)
    ask(old, "update flows.meter_registry set name = 'Renamed', updated_at = '2026-06-05Z'"
        " where id = %s", METER)  # fmt: skip
    ask(old, "update flows.meter_shadows set csq = 7, updated_at = '2026-06-05Z' where id = %s",
        METER)  # fmt: skip
    ask(
        old, "update flows.circuit_register set end_time = '2026-06-02Z' where register = %s", POWER
    )
    ask(old, "insert into flows.register_interval_hh select %s,"
        " generate_series('2026-06-02Z'::timestamptz, '2026-06-02 23:30Z', '30 minutes'), 1",
        HEAT)  # fmt: skip
    ask(old, "update flows.register_interval_hh set kwh = 9 where register_id = %s and"
        " timestamp = '2026-06-01Z'", HEAT)  # fmt: skip
    ask(old, "insert into flows.meter_csq values (%s, '2026-06-05Z', 7)", METER)
    report = copy_database(old, new, lambda work, rows: None, CopyOptions(newer=True))
    copied = {count.table: count.copied for count in report.counts if count.copied}
    assert {name: copied.get(name) for name in (
        "meter_registry", "meter_shadows", "circuit_register", "register_interval_hh", "meter_csq"
    )} == {"meter_registry": 1, "meter_shadows": 1, "circuit_register": 1,
           "register_interval_hh": 49, "meter_csq": 1}  # fmt: skip
    assert all(count.equal for count in report.counts if count.table.startswith("register"))
    assert ask(new, "select name, updated_at::date::text from flows.meter_registry where id = %s",
               METER) == [("Renamed", "2026-06-05")]  # fmt: skip
    assert ask(new, "select csq from flows.meter_csq order by timestamp desc limit 1") == [(7,)]
    assert ask(new, "select kwh, esco::text from flows.register_interval_hh" + first, HEAT) == [
        (9, NAMELESS_ESCO)
    ]
    # A second time there is nothing left.
    again = copy_database(old, new, lambda work, rows: None, CopyOptions(newer=True))
    assert {count.table for count in again.counts if count.copied} <= {"properties"}
    # Late rows are told, and found by an earlier time.
    ask(old, "insert into flows.register_interval_hh values (%s, '2024-02-01Z', 2)", HEAT)
    late = copy_database(old, new, lambda work, rows: None, CopyOptions(newer=True))
    assert [c.table for c in late.counts if not c.equal and c.table.startswith("reg")] == [
        "register_interval_hh"
    ]
    done = copy(old, new, "--newer", "--since", "2024-01-01")
    assert done.returncode == 0, done.stderr
    energy = Decimal(36 + 48 + 9 + 2) - Decimal("0.375")
    assert ask(new, ENERGY)[1] == (HEAT, 145, energy, None, energy)

    # The way back: what came here since is in the columns that the old database has.
    ask(new, "insert into flows.register_interval_hh (register_id, timestamp, kwh)"
        " values (%s, '2026-06-20Z', 3), (%s, '2026-06-20Z', 4)", HEAT, SOLAR)  # fmt: skip
    newer = (
        "copy (select register_id, timestamp, kwh from flows.register_interval_hh"
        " where timestamp >= '2026-06-20') to stdout"
    )
    with psycopg.connect(new) as here, psycopg.connect(old) as there:
        with here.cursor().copy(newer) as out:
            rows = b"".join(out)
        with there.cursor().copy(
            "copy flows.register_interval_hh (register_id, timestamp, kwh) from stdin"
        ) as into:
            into.write(rows)
    back = "select sum(kwh) from flows.register_interval_hh where timestamp >= '2026-06-20Z'"
    assert ask(old, back) == [(7,)]


def test_mappings_that_overlap_are_named_and_end_where_the_next_begins(
    databases: tuple[str, str],
) -> None:
    old, new = databases
    # The second reaches beyond the first's end, the third lies within the second.
    ask(old, "insert into flows.circuit_register (circuit, register, start_time, end_time)"
        " select m.circuit, m.register, t.first, t.stop from flows.circuit_register as m cross join"
        " (values ('2026-03-01Z'::timestamptz, null), ('2026-05-31 12:00Z', '2026-06-01Z'::"
        "timestamptz)) as t (first, stop) where m.register = %s", POWER)  # fmt: skip
    for options in (CopyOptions(), CopyOptions(newer=True)):
        report = copy_database(old, new, lambda work, rows: None, options)
        (repaired,) = (one for one in report.of("repaired") if one.table == "circuit_register")
        assert (repaired.column, repaired.count) == ("end_time", 3)
        assert "the earlier ends where the later begins now" in repaired.text
        assert all(POWER in row for row in repaired.rows)
        assert ask(
            new,
            "select start_time::date::text, end_time::date::text from flows.circuit_register"
            " where register = %s order by 1",
            POWER,
        ) == [("2026-01-01", "2026-03-01"), ("2026-03-01", "2026-05-31"), ("2026-05-31", None)]
        assert ask(new, "select count(*) from gateway.mended_overlap") == [(3,)]
        with psycopg.connect(new, autocommit=True) as connection:
            connection.execute("call flows.follow()")
        summed = (
            "select sum(total_import_kwh) from flows.circuit_interval_hh as s"
            " where circuit_id = (select circuit from flows.circuit_register"
            " where register = %s limit 1)"
        )
        assert ask(new, summed, POWER) == [(24,)]


def test_kwh_is_what_the_operator_says(databases: tuple[str, str]) -> None:
    old, new = databases
    for words, directions in (
        (["solar=import", f"{POWER}=export"], {POWER: 1, ROOF: 1, SOLAR: 0, HEAT: 0}),
        (["none=import", "export"], {POWER: 1, ROOF: 0, SOLAR: 1, HEAT: 1}),
        (["import"], {POWER: 0, ROOF: 0, SOLAR: 0, HEAT: 0}),
    ):
        options = CopyOptions(kwh_as=parse_kwh_as(words), newer=True)
        copy_database(old, new, lambda work, rows: None, options)
        found = {row[0]: int(row[3] is not None) for row in ask(new, ENERGY)}
        assert ask(new, "select count(*) from flows.meter_metrics where name = 'SyncerCsq'") == [
            (1,)
        ]
        assert {register: found[register] for register in directions} == directions


def test_sums_of_half_hours_with_a_gap_of_years_come_to_an_end(empty: str) -> None:
    """A refresh over a time without rows moves nothing on, and must not be repeated for ever."""
    ids = [str(uuid4()) for _ in range(4)]
    esco, meter, register, circuit = ids
    times = [datetime(year, 3, 1, tzinfo=UTC) for year in (2019, 2022, 2025)]
    with psycopg.connect(empty, autocommit=True) as admin:
        admin.execute("insert into flows.escos (id, code) values (%s, 'gap')", (esco,))
        admin.execute("insert into flows.meter_registry (id, esco) values (%s, %s)", (meter, esco))
        admin.execute(
            "insert into flows.meter_registers (register_id, meter_id) values (%s, %s)",
            (register, meter),
        )
        admin.execute("insert into flows.circuits (id, type) values (%s, 'power')", (circuit,))
        admin.execute(
            "insert into flows.circuit_register (circuit, register, start_time)"
            " values (%s, %s, '2019-01-01Z')",
            (circuit, register),
        )
        for at in times:
            admin.execute(
                'insert into flows.register_interval_hh (register_id, "timestamp", import_kwh)'
                " values (%s, %s, 1.5)",
                (register, at),
            )
        admin.execute("set statement_timeout = '90s'")
        admin.execute("call flows.follow()")
        for level, label in (("hh", '"timestamp"'), ("daily", "day"), ("monthly", "month")):
            found = admin.execute(
                f"select {label}, kwh from flows.circuit_interval_{level} order by 1".encode()
            ).fetchall()
            assert found == [(at, Decimal("1.5")) for at in times]


def test_energy_whose_sum_is_not_filled_yet_is_equal(databases: tuple[str, str]) -> None:
    """As in a database of this program while an upgrade fills `kwh`."""
    old, new = databases
    ask(old, "alter table flows.register_interval_hh alter column kwh drop not null,"
        " add column import_kwh numeric, add column export_kwh numeric")  # fmt: skip
    ask(old, "update flows.register_interval_hh set import_kwh = kwh, export_kwh = 0,"
        " kwh = case when register_id = %s then null else kwh end", HEAT)  # fmt: skip
    report = copy_database(old, new, lambda work, rows: None)
    halves = next(count for count in report.counts if count.table == "register_interval_hh")
    assert halves.equal
    assert halves.sums_here == {"import_kwh": 240, "export_kwh": 0, "kwh": 240}


@pytest.mark.parametrize("word", ["exported", "solar=up", "blue=import"])
def test_an_unknown_direction_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match=word):
        parse_kwh_as([word])


HALF_HOUR = "insert into flows.register_interval_hh values ('{}', '{}', {})"
NO_HALF_HOUR = "delete from flows.register_interval_hh where timestamp >= '2026-06-09Z'"
# A change there, the statement that undoes it, and words of the refusal.
REFUSALS = {
    "a column that holds data and has no place here": (
        "alter table flows.meter_registry add column colour text;"
        f" update flows.meter_registry set colour = 'red' where id = '{METER}'",
        "alter table flows.meter_registry drop column colour",
        ["meter_registry.colour", "(1) values", "--without meter_registry.colour"],
    ),
    "a table that holds rows and has no place here": (
        "create table flows.tenants (name text); insert into flows.tenants values ('Ann')",
        "drop table flows.tenants",
        ["tenants", "--without tenants"],
    ),
    "links to two ESCOs": (
        "insert into flows.circuit_register values"
        f" ('50000000-0000-4000-8000-000000000001', '{OTHER}', '2026-01-01Z')",
        f"delete from flows.circuit_register where register = '{OTHER}'",
        ["circuits", "50000000-0000-4000-8000-000000000001", "olde", NAMELESS_ESCO],
    ),
    "a half-hour off the grid": (
        HALF_HOUR.format(POWER, "2026-06-09 00:10Z", 1),
        NO_HALF_HOUR,
        ["register_interval_hh", "a_half_hour_starts_on_00_or_30", POWER, "2026-06-09 00:10"],
    ),
    "negative energy": (
        HALF_HOUR.format(SOLAR, "2026-06-09 00:30Z", -1),
        NO_HALF_HOUR,
        ["register_interval_hh.export_kwh", "export_kwh >= ", SOLAR],
    ),
    "a register of a meter that is not there": (
        "alter table flows.meter_registers drop constraint meter_registers_meter_id_fkey;"
        " update flows.meter_registers set meter_id = gen_random_uuid()"
        f" where register_id = '{HEAT}'",
        f"update flows.meter_registers set meter_id = '{METER}' where register_id = '{HEAT}'",
        ["meter_registers.meter_id", "meter_registry that is not there", HEAT],
    ),
    "a charger with a long serial": (
        "update flows.ev_chargers set serial = 'EV0000001'",
        "update flows.ev_chargers set serial = 'EV000001'",
        ["ev_chargers.serial", "length(serial) = 8"],
    ),
    "a fuse beyond all numbers": (
        "alter table flows.service_head_registry alter column fuse_rating type integer;"
        " update flows.service_head_registry set fuse_rating = 70000",
        "update flows.service_head_registry set fuse_rating = 60;"
        " alter table flows.service_head_registry alter column fuse_rating type smallint",
        ["service_head_registry.fuse_rating", "70000"],
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_copied_is_named(pair: tuple[str, str], case: str) -> None:
    old, new = pair
    change, undo, told = REFUSALS[case]
    ask(old, change)
    try:
        message = refusal(old, new)
    finally:
        ask(old, undo)
    assert all(words in message for words in told), message


def test_rows_that_are_refused_may_be_left_out(databases: tuple[str, str]) -> None:
    old, new = databases
    ask(old, "insert into flows.register_interval_hh values (%s, '2026-06-09 00:10Z', 1)", POWER)
    ask(old, "alter table flows.meter_registry add column colour text default 'red'")
    done = copy(old, new, "--leave-out-refused", "--without", "meter_registry.colour")
    assert done.returncode == 0, done.stderr
    assert "left out: register_interval_hh.timestamp" in done.stdout
    assert ask(new, ENERGY)[0] == (POWER, 96, 24, None, 24)


def test_a_broken_connection_is_a_new_start(databases: tuple[str, str]) -> None:
    old, new = databases
    seen: list[str] = []

    def break_once(work: str, rows: int) -> None:
        if work == "writing register_interval_hh" and "register_interval_hh" not in seen:
            seen.append("register_interval_hh")
            ask(new, "select pg_terminate_backend(pid) from pg_stat_activity where datname"
                " = current_database() and pid <> pg_backend_pid()"
                " and backend_type = 'client backend'")  # fmt: skip
        elif "starting again" in work:
            seen.append(work)

    report = copy_database(old, new, break_once)
    assert seen == ["register_interval_hh", "the connection broke: starting again, 2 of 3"]
    assert all(count.equal for count in report.counts if count.table.startswith("register"))
    assert ask(new, ENERGY)[0] == (POWER, 96, 24, None, 24)


def test_a_database_without_the_schema_is_told_from_an_empty_one(stack: Stack) -> None:
    bare = stack.contract["database_url"].replace("/flows?", "/postgres?")
    for command in ("status", "maintain", "refresh"):
        done = run_command(("db", command), os.environ | {"FLOWS_DATABASE_ADMIN_URL": bare})
        assert done.returncode == 1
        assert "run `flows db migrate` first" in " ".join(done.stderr.split())
    other = copy(bare, stack.contract["database_url"])
    assert other.returncode == 1
    assert "nothing was copied: the other database has no tables" in other.stderr
