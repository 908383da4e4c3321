"""The newest rows of a series are found by their time, and are the same rows."""

from collections.abc import Iterable
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest

from app.db.isolation import become
from app.postgrest.newest import newest_asked
from tests.conftest import Stack
from tests.sql.series import KEYS
from tests.sql.test_crowd import AGGREGATED, FILL, KEPT, LABELS
from tests.sql.test_plans import nested_plans, nodes

NEWEST = "/register_interval_hh?order=timestamp.desc&limit=100"


@pytest.mark.parametrize(
    ("target", "found"),
    [
        (NEWEST, "/rpc/newest_register_interval_hh?rows=100&with_ties=false&"),
        (f"{NEWEST}&offset=0", "/rpc/newest_register_interval_hh?rows=100&with_ties=false&"),
        # The next page, or an order among them, needs all of one time.
        (f"{NEWEST}&offset=50", "/rpc/newest_register_interval_hh?rows=150&with_ties=true&"),
        (
            "/meter_csq?limit=1&order=day.desc.nullslast,y",
            "/rpc/newest_meter_csq?rows=1&with_ties=true&",
        ),
        ("/escos?order=timestamp.desc&limit=1", None),
        ("/rpc/x?order=timestamp.desc&limit=1", None),
        ("/meter_csq?order=timestamp.desc", None),
        ("/meter_csq?order=timestamp.asc&limit=1", None),
        ("/meter_csq?order=meter_id,timestamp.desc&limit=1", None),
        ("/meter_csq?order=csq.desc&limit=1", None),
        # Rows may be left out, or each be asked for.
        (f"{NEWEST}&import_kwh=gt.1", None),
        (f"{NEWEST}&select=*,meter_registers!inner(meter_id)", None),
        (f"{NEWEST}&select=import_kwh.sum()", None),
        (f"{NEWEST}&limit=1", None),
        (f"{NEWEST}0000", None),
        ("/meter_csq?order=timestamp.desc&limit=0", None),
        ("/meter_csq?order=timestamp.desc&limit=-1", None),
    ],
)
def test_requests_for_newest_rows_are_told_apart(target: str, found: str | None) -> None:
    newest = newest_asked("GET", target, {})
    if found is None:
        assert newest is None
    else:
        assert newest is not None
        assert newest.target == found + target.partition("?")[2]
    assert newest_asked("HEAD", target, {"prefer": "count=exact"}) is None
    assert newest_asked("GET", target, {"range": "0-9"}) is None
    assert newest_asked("GET", target, {"accept-profile": "other"}) is None
    assert newest_asked("DELETE", target, {}) is None


@pytest.mark.parametrize(
    ("relation", "order"),
    [
        ("register_interval_hh", "timestamp.desc,register_id"),
        ("meter_csq", "timestamp.desc,meter_id"),
        ("circuit_interval_hh", "timestamp.desc,circuit_id"),
        ("circuit_interval_daily", "day.desc,circuit_id"),
        ("circuit_interval_daily_london", "day.desc,circuit_id"),
        ("circuit_interval_monthly", "month.desc,circuit_id"),
    ],
)
def test_the_rows_are_the_same(stack: Stack, relation: str, order: str) -> None:
    token = stack.contract["escos"]["wlce"]["read_token"]
    headers = {"Authorization": f"Bearer {token}"}
    label = order.partition(".")[0]
    for more in (
        {"limit": "1"},
        {"limit": "77", "offset": "30", "select": f"the time:{label},*"},
        {"limit": "9999"},
        {"limit": "1", "select": "nothing"},  # an error in the words of the relation
    ):
        direct, through = (
            httpx.get(
                f"{stack.contract[door]}/{relation}",
                params={"order": order} | more,
                headers=headers,
                timeout=30,
            )
            for door in ("postgrest_url", "rest_url")
        )
        assert through.status_code == direct.status_code
        if direct.is_success:
            assert through.text == direct.text
            assert through.json()
            assert through.headers["content-range"] == direct.headers["content-range"]
            location = direct.headers["content-location"]
            assert through.headers["content-location"] == f"/rest/v1{location}"
        else:
            assert through.json()["code"] == direct.json()["code"]


def test_a_function_has_the_rows_of_its_caller_alone(
    stack: Stack, admin: psycopg.Connection[Any]
) -> None:
    names = [
        name
        for (name,) in admin.execute(
            "select proname from pg_proc where pronamespace = 'api'::regnamespace"
            " and proname like 'newest\\_%' order by 1"
        )
    ]
    of_residents = {f"newest_own_{name}" for name in KEYS}
    assert {f"newest_{name}" for name in KEYS} | of_residents == set(names)
    for code in ("wlce", "hmce"):
        become(admin, "public_backend", stack.contract["escos"][code]["id"])
        for name in set(names) - of_residents:
            series = name.removeprefix("newest_")
            ((own,),) = admin.execute(f"select count(*) from api.{series}".encode()).fetchall()
            for ties in (True, False):
                ((found, others),) = admin.execute(
                    f"with n as (select * from api.{name}(1000000, {ties})),"
                    f" other as (table n except all table api.{series})"
                    " select (select count(*) from n), (select count(*) from other)".encode()
                ).fetchall()
                assert (found, others) == (own, 0), name


# Past the triggers, as the crowd of tests/sql is made: this hour, and in PostgreSQL's
# aggregates as well. TimescaleDB sums what is so new when it is asked.
MANY = (
    "set local session_replication_role = replica",
    "create temporary table many on commit drop as select %(esco)s::uuid as esco, n,"
    " gen_random_uuid() as meter, gen_random_uuid() as register, gen_random_uuid() as circuit,"
    " date_trunc('hour', now()) as at from generate_series(1, 1100) as n",
    "insert into flows.meter_registry (id, esco, serial, name)"
    " select meter, esco, 'MANY' || n, 'x' from many",
    "insert into flows.meter_registers (register_id, meter_id, element, esco)"
    " select register, meter, 'A', esco from many",
    "insert into flows.circuits (id, esco, type) select circuit, esco, 'power' from many",
    "insert into flows.circuit_register (circuit, register, esco, start_time)"
    " select circuit, register, esco, at - interval '1 year' from many",
    'insert into flows.register_interval_hh (register_id, esco, "timestamp", import_kwh)'
    " select register, esco, at, n from many",
    'insert into flows.meter_csq (meter_id, esco, "timestamp", csq)'
    " select meter, esco, at, 20 from many",
)  # fmt: skip
MANY_SUMMED = {
    "circuit_interval_hh": "at",
    "circuit_interval_daily": "date_trunc('day', at, 'UTC')",
    "circuit_interval_daily_london": "date_trunc('day', at, 'Europe/London')",
    "circuit_interval_monthly": "date_trunc('month', at, 'UTC')",
}
SERIES_OF_MANY = {
    "register_interval_hh": ("register_id", "timestamp"),
    "meter_csq": ("meter_id", "timestamp"),
    "circuit_interval_hh": ("circuit_id", "timestamp"),
    "circuit_interval_daily": ("circuit_id", "day"),
    "circuit_interval_daily_london": ("circuit_id", "day"),
    "circuit_interval_monthly": ("circuit_id", "month"),
}


def run_for(admin: psycopg.Connection[Any], statements: Iterable[str], esco: object) -> None:
    """Execute statements for an ESCO, which some of them name."""
    for statement in statements:
        admin.execute(statement.encode(), {"esco": esco} if "%(" in statement else None)


@pytest.fixture
def large(stack: Stack, admin: psycopg.Connection[Any], engine: str) -> psycopg.Connection[Any]:
    """A session of wlce with 1,100 meters more, which is rolled back."""
    esco = stack.contract["escos"]["wlce"]["id"]
    run_for(admin, MANY, esco)
    if engine == "postgres":
        for name, label in MANY_SUMMED.items():
            column = SERIES_OF_MANY[name][1]
            stored = name.replace("circuit_interval_", "circuit_sums_")
            admin.execute(
                f'insert into flows.{stored} (circuit_id, "{column}", esco, total_import_kwh,'
                " register_intervals) select circuit, "
                f"{label}, esco, n, 1 from many".encode()
            )
    become(admin, "public_backend", esco)
    return admin


@pytest.mark.parametrize("name", SERIES_OF_MANY)
def test_of_thousands_of_rows_at_the_newest_time_a_few_are_found(
    large: psycopg.Connection[Any], name: str
) -> None:
    key, label = SERIES_OF_MANY[name]
    newest = f"select {key}, {label} from api.newest_{name}(100, %s)"
    rows = large.execute(newest.encode(), (False,)).fetchall()
    expected = large.execute(
        f"select {key}, {label} from api.{name} order by {label} desc limit 100".encode()
    ).fetchall()
    assert len(set(rows)) == 100
    assert sorted(row[1] for row in rows) == sorted(row[1] for row in expected)

    with_ties = large.execute(newest.encode(), (True,)).fetchall()
    all_of_them = large.execute(
        f"select {key}, {label} from api.{name} where {label} >= %s".encode(), (expected[-1][1],)
    ).fetchall()
    assert len(set(with_ties)) >= 1100
    assert set(with_ties) == set(all_of_them)


def test_the_few_are_summed_together(large: psycopg.Connection[Any], stack: Stack) -> None:
    """Sums that TimescaleDB has not stored yet are made once, not for each circuit.

    Plain PostgreSQL has nothing to sum.
    """
    become(large, "none", None)
    large.execute(
        "select set_config('app.current_esco', %s, true)", (stack.contract["escos"]["wlce"]["id"],)
    )
    for name in MANY_SUMMED:
        plans = nested_plans(large, f"select * from api.newest_{name}(100, false)")
        assert len(plans) > 1
        summed = [
            node["Actual Loops"]
            for plan in plans
            for node in nodes(plan)
            if node["Node Type"] == "Aggregate"
        ]
        assert max(summed, default=1) == 1, name


@pytest.mark.parametrize(("registers", "half_hours"), [(1, 100), (2, 100 + 200)])
def test_few_half_hours_are_looked_at_for_the_newest_circuits(
    large: psycopg.Connection[Any], stack: Stack, engine: str, registers: int, half_hours: int
) -> None:
    become(large, "none", None)
    if engine == "postgres":
        pytest.skip("plain PostgreSQL has the newest sums at the end of an index")
    if registers == 2:  # of each circuit
        large.execute(
            "update flows.circuit_register as mapping set circuit = other.circuit"
            " from many as own join many as other on own.n = other.n + 1"
            " where mapping.register = own.register and own.n % 2 = 0"
        )
    large.execute(
        "select set_config('app.current_esco', %s, true)", (stack.contract["escos"]["wlce"]["id"],)
    )
    newest = (
        "select cardinality(keys)"
        " from flows.newest_of_circuits('circuit_interval_hh', 'timestamp', 100)"
    )
    plans = nested_plans(large, newest)
    assert half_hours == sum(
        node["Actual Loops"]
        for plan in plans
        for node in nodes(plan)
        if node.get("Relation Name") == "circuit_register"
    )
    assert large.execute(newest.encode()).fetchone() == (100,)


# An ESCO whose half-hours come a day late, and of fewer meters than are asked for: the crowd's r,
# and a t that adds nothing to it.
LATE = (
    "set local session_replication_role = replica",
    "create temporary table r on commit drop as select %(esco)s::uuid as esco, n,"
    " gen_random_uuid() as meter, gen_random_uuid() as register, gen_random_uuid() as circuit,"
    " date_trunc('day', now(), 'UTC') - case when n <= 40 then interval '12 hours'"
    " else interval '36 hours' end as at from generate_series(1, 300) as n",
    "create temporary table t on commit drop as select 1 as one",
    "insert into flows.escos (id, code, name) select esco, 'late', 'x' from r limit 1",
    "insert into flows.meter_registry (id, esco, serial, name)"
    " select meter, esco, 'LATE' || n, 'x' from r",
    "insert into flows.meter_registers (register_id, meter_id, element, esco)"
    " select register, meter, 'A', esco from r",
    "insert into flows.circuits (id, esco, type) select circuit, esco, 'power' from r",
    "insert into flows.circuit_register (circuit, register, esco, start_time)"
    " select circuit, register, esco, at - interval '1 year' from r",
    'insert into flows.register_interval_hh (register_id, esco, "timestamp", import_kwh)'
    " select register, esco, at, n from r",
    "set local timescaledb.skip_cagg_invalidation = on",
)  # fmt: skip


@pytest.fixture
def late(admin: psycopg.Connection[Any], engine: str) -> psycopg.Connection[Any]:
    """A session of such an ESCO, whose sums are stored."""
    esco = uuid4()
    run_for(admin, LATE, esco)
    for name, rows in AGGREGATED.items():
        label = LABELS.get(name.removeprefix("circuit_sums_"), "day")
        fill = FILL.format(kept=KEPT[engine], name=name, label=label, rows=rows)
        admin.execute(fill.encode())
    admin.execute("select set_config('app.current_esco', %s, true)", (str(esco),))
    return admin


@pytest.mark.parametrize("name", MANY_SUMMED)
def test_the_newest_of_what_is_stored_are_found_with_those_before(
    late: psycopg.Connection[Any], name: str
) -> None:
    key, label = SERIES_OF_MANY[name]
    newest = f"select {key}, {label} from api.newest_{name}(100, false)"
    rows = late.execute(newest.encode()).fetchall()
    every = late.execute(
        f"select {key}, {label} from flows.{name}"
        " where esco = flows.current_esco() order by 2 desc".encode()
    ).fetchall()
    assert len(every) == 300
    assert len(set(rows)) == 100
    assert set(rows) <= set(every)
    assert [row[1] for row in rows] == [row[1] for row in every[:100]]
    if name in ("circuit_interval_hh", "circuit_interval_daily"):
        plans = nested_plans(late, newest)
        looked_at = {node.get("Relation Name") for plan in plans for node in nodes(plan)}
        assert "circuit_register" not in looked_at


def test_half_hours_that_are_not_summed_yet_hide_no_older_row(
    large: psycopg.Connection[Any], engine: str
) -> None:
    become(large, "none", None)
    if engine == "timescale":
        pytest.skip("TimescaleDB sums the newest half-hours when it is asked")
    large.execute(
        "delete from flows.circuit_sums_hh where \"timestamp\" = date_trunc('hour', now())"
    )
    ((esco,),) = large.execute("select distinct esco::text from many").fetchall()
    large.execute(
        "insert into flows.change (esco, kind, period) values (%s, 'reading', '(,)')", (esco,)
    )
    become(large, "public_backend", esco)
    rows = large.execute(
        "select circuit_id from api.newest_circuit_interval_hh(100, false)"
    ).fetchall()
    assert len(rows) == 100
