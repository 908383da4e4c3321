"""The newest rows of a series are found by their time, and are the same rows."""

import asyncio
from typing import Any
from uuid import UUID

import httpx
import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from app.db.principal import Principal
from app.db.session import Connection
from app.postgrest.newest import Newest, bounded, newest_asked
from tests.conftest import Stack
from tests.sql.test_isolation import become

NEWEST = "/register_interval_hh?order=timestamp.desc&limit=100"


@pytest.mark.parametrize(
    ("target", "found"),
    [
        (NEWEST, Newest("register_interval_hh", "timestamp", 100)),
        (f"{NEWEST}&offset=50&select=timestamp", Newest("register_interval_hh", "timestamp", 150)),
        ("/x?limit=1&order=day.desc.nullslast,y", Newest("x", "day", 1)),
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
        pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            stack.contract["database_url"], kwargs={"row_factory": dict_row}, open=False
        )
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
        pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
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
