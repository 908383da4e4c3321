"""The newest rows of a series are found by their time, and are the same rows."""

import asyncio
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import httpx
import psycopg
import pytest
from psycopg.rows import dict_row

from app.db.isolation import become
from app.db.principal import Principal
from app.db.session import Pool
from app.postgrest.newest import Newest, bounded, narrowed, newest_asked
from tests.conftest import Stack

NEWEST = "/register_interval_hh?order=timestamp.desc&limit=100"


@pytest.mark.parametrize(
    ("target", "found"),
    [
        (NEWEST, Newest("register_interval_hh", "timestamp", 100, True)),
        (
            f"{NEWEST}&offset=50&select=timestamp",
            Newest("register_interval_hh", "timestamp", 150, True),
        ),
        ("/x?limit=201&order=day.desc", Newest("x", "day", 201, False)),
        ("/x?limit=1&order=day.desc.nullslast,y", Newest("x", "day", 1, False)),
        ("/x?order=timestamp.desc", None),
        ("/x?order=timestamp.asc&limit=1", None),
        ("/x?order=register_id,timestamp.desc&limit=1", None),
        ("/x?order=read.desc&limit=1", None),
        # Rows may be left out, or each be asked for.
        (f"{NEWEST}&import_kwh=gt.1", None),
        (f"{NEWEST}&select=*,meter_registers!inner(meter_id)", None),
        (f"{NEWEST}&select=import_kwh.sum()", None),
        (f"{NEWEST}&limit=1", None),
        (f"{NEWEST}0000", None),
        ("/x?order=timestamp.desc&limit=0", None),
        ("/x?order=timestamp.desc&limit=-1", None),
    ],
)
def test_requests_for_newest_rows_are_told_apart(target: str, found: Newest | None) -> None:
    assert newest_asked("GET", target, {}) == found
    assert newest_asked("HEAD", target, {"prefer": "count=exact"}) is None
    assert newest_asked("GET", target, {"range": "0-9"}) is None
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
    for more in ({"limit": "1"}, {"limit": "77", "offset": "30"}, {"limit": "9999"}):
        asked = {"order": order} | more
        answers = [
            httpx.get(
                f"{stack.contract[door]}/{relation}",
                params=asked,
                headers={"Authorization": f"Bearer {token}"},
                timeout=30,
            )
            for door in ("postgrest_url", "rest_url")
        ]
        assert answers[0].text == answers[1].text
        assert answers[0].json()
        assert answers[0].headers["content-range"] == answers[1].headers["content-range"]


def principal(esco: dict[str, Any] | None) -> Principal:
    """Return a caller of an ESCO, or one who reads every ESCO."""
    role = "public_backend" if esco else "grafanareader"
    claims = {"role": role, "aud": "flows", "jti": "newest"}
    owner = None
    if esco:
        claims["esco"] = esco["id"]
        owner = UUID(esco["id"])
    return Principal(role, owner, None, "flc", frozenset(), "newest", 0, claims)


def test_the_time_is_the_callers_own(stack: Stack, admin: psycopg.Connection[Any]) -> None:
    escos = stack.contract["escos"]
    expected = {}
    for code in ("wlce", "hmce"):
        become(admin, "public_backend", escos[code]["id"])
        ((expected[code],),) = admin.execute(
            'select "timestamp" from api.register_interval_hh order by 1 desc offset 99 limit 1'
        ).fetchall()

    async def found() -> dict[str, str]:
        pool = Pool(stack.contract["database_url"], kwargs={"row_factory": dict_row}, open=False)
        async with pool:
            return {
                code: await bounded(pool, principal(escos.get(code)), "GET", NEWEST, {})
                for code in ("wlce", "hmce", "everybody")
            }

    targets = asyncio.run(found())
    for code, since in expected.items():
        assert targets[code] == f"{NEWEST}&timestamp=gte.{since:%Y-%m-%dT%H:%M:%SZ}"
    assert targets["everybody"] == NEWEST


def test_without_a_database_the_rows_are_asked_for_as_ever(stack: Stack) -> None:
    async def found() -> str:
        pool = Pool(
            "host=/nowhere",
            kwargs={"row_factory": dict_row},
            open=False,
            min_size=0,
            max_size=1,
        )
        async with pool:
            esco = stack.contract["escos"]["wlce"]
            return await bounded(pool, principal(esco), "GET", NEWEST, {})

    assert asyncio.run(found()) == NEWEST


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


@pytest.fixture
def large(stack: Stack, admin: psycopg.Connection[Any], engine: str) -> psycopg.Connection[Any]:
    """A session of wlce with 1,100 meters more, which is rolled back."""
    esco = stack.contract["escos"]["wlce"]["id"]
    for statement in MANY:
        admin.execute(statement.encode(), {"esco": esco} if "%(" in statement else None)
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


NEWEST_OF = "select {key}, {label} from api.{name} {where} order by {label} desc limit 100"


@pytest.mark.parametrize("name", SERIES_OF_MANY)
def test_of_thousands_of_rows_at_the_newest_time_a_few_are_found(
    large: psycopg.Connection[Any], name: str
) -> None:
    key, label = SERIES_OF_MANY[name]
    shape = {"key": key, "label": label, "name": name}
    (found,) = large.execute("select * from flows.newest_rows(%s, 100, true)", (name,)).fetchall()
    since, of, keys = found
    assert of == key
    assert len(keys) == 100
    where = f"where {label} >= %s and {key} = any(%s)"
    rows = large.execute(NEWEST_OF.format(where=where, **shape).encode(), (since, keys)).fetchall()
    expected = large.execute(NEWEST_OF.format(where="", **shape).encode()).fetchall()
    assert len(set(rows)) == 100
    assert [row[1] for row in rows] == [row[1] for row in expected]

    # The next page, or an order among them, needs the others too.
    (found,) = large.execute("select * from flows.newest_rows(%s, 100, false)", (name,)).fetchall()
    assert found == (since, key, None)


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
    (found,) = large.execute(
        "select * from flows.newest_rows('circuit_interval_hh', 100, true)"
    ).fetchall()
    since, _, keys = found
    rows = large.execute(
        "select circuit_id from api.circuit_interval_hh where timestamp >= %s"
        " and circuit_id = any(%s) order by timestamp desc limit 100",
        (since, keys),
    ).fetchall()
    assert len(rows) == 100


def test_the_keys_are_part_of_the_filter() -> None:
    since = datetime(2026, 5, 1, 2, 30, tzinfo=timezone(timedelta(hours=2)))
    keys = [UUID(int=1), UUID(int=2)]
    assert narrowed("/x?limit=2", "day", since, "circuit_id", keys) == (
        f"/x?limit=2&day=gte.2026-05-01T00:30:00Z&circuit_id=in.({keys[0]},{keys[1]})"
    )
    assert narrowed("/x?limit=2", "day", since, "circuit_id", None).endswith("T00:30:00Z")
