"""Usage: calls, rows and bytes of each client, at both doors, added up over gateways."""

import asyncio
import json
from datetime import date
from typing import Any
from uuid import UUID

import httpx
import psycopg

from app.auth.usage import UsageCounts
from app.db.principal import Principal
from app.db.session import create_pool
from app.settings import DatabaseSettings
from tests.auth.test_clients import bearer, make
from tests.conftest import Stack, flows, wait_until

Rows = list[dict[str, Any]]


def used(client: httpx.Client, client_id: str, **parameters: str) -> Rows:
    """Return the usage of a client as /admin/usage tells it."""
    answer = client.get("/admin/usage", params={"client_id": client_id, **parameters})
    assert answer.status_code == 200, answer.text
    rows: Rows = answer.json()
    return rows


def test_calls_rows_and_bytes_of_both_doors_are_counted(stack: Stack) -> None:
    admin = make(stack, "usage of wlce", "--esco", "wlce", *("--scope", "admin"))
    reader = make(stack, "counted", "--esco", "wlce")
    with bearer(stack, admin) as wlce, bearer(stack, reader) as client:
        client.headers["accept-encoding"] = "identity"
        read = [
            client.get("/rest/v1/meter_registry?limit=2"),
            client.get("/v1/meters"),
            client.get("/v1/energy", params=stack.period(2, 1) | {"granularity": "P1D"}),
            client.get("/v1/energy", params={"period_from": "never"}),
        ]
        assert [one.status_code for one in read] == [200, 200, 200, 422]
        read.append(client.post("/rest/v1/sites_new", content=b"[" + b" " * 998 + b"]"))
        rows = 2 + sum(len(one.json()["rows"]) for one in read[1:3])
        expected = {
            "calls": 5, "rows": rows, "bytes": sum(len(one.content) for one in read),
            "received": 1000,
        }  # fmt: skip

        def counted() -> Rows:
            return [row for row in used(wlce, reader["id"]) if row["calls"] >= 5]

        (row,) = wait_until(counted)
        assert {name: row[name] for name in expected} == expected
        assert (row["name"], row["esco_code"], row["day"]) == ("counted", "wlce", None)
        by_day = used(wlce, reader["id"], by="day")
        assert sum(row["calls"] for row in by_day) == 5
        assert all(date.fromisoformat(row["day"]) for row in by_day)
        own = stack.contract["escos"]["wlce"]["id"]
        assert {row["esco"] for row in wlce.get("/admin/usage").json()} == {own}
        for wrong in ({"day_from": "2026-01-02", "day_to": "2026-01-02"},
                      {"day_from": "2020-01-01", "day_to": "2026-01-01"},
                      {"day_to": "0001-01-01"}, {"by": "hour"}):  # fmt: skip
            assert wlce.get("/admin/usage", params=wrong).status_code == 422, wrong
        assert client.get("/admin/usage").status_code == 403
    told = json.loads(flows(stack, "usage", "--esco", "wlce", "--json").stdout)
    assert [one["calls"] for one in told if one["client_id"] == reader["id"]] == [5]
    assert reader["id"] in flows(stack, "usage", "--by-day").stdout
    assert "no ESCO" in flows(stack, "usage", "--esco", "none", check=False).stderr


def test_another_escos_usage_is_not_told(stack: Stack) -> None:
    made = {code: make(stack, f"usage of {code}", "--esco", code, "--scope", "admin")
            for code in ("wlce", "hmce")}  # fmt: skip
    with bearer(stack, made["wlce"]) as wlce, bearer(stack, made["hmce"]) as hmce:
        wait_until(lambda: used(wlce, made["wlce"]["id"]) and used(hmce, made["hmce"]["id"]))
        assert used(wlce, made["hmce"]["id"]) == []
        with bearer(stack, make(stack, "operator of usage")) as operator:
            both = {one["esco_code"] for one in operator.get("/admin/usage").json()}
            assert {"wlce", "hmce"} <= both


def test_gateways_add_up_and_keep_counts_while_the_database_is_away(stack: Stack) -> None:
    esco = UUID(stack.contract["escos"]["wlce"]["id"])
    callers = [
        Principal("flows", esco, "wlce", f"flc_adding{number}", frozenset({"read"}), "x", 0, {})
        for number in range(20)
    ]
    platform = Principal("grafanareader", None, None, "flc_adding0", frozenset(), "x", 0, {})
    settings = DatabaseSettings(url=stack.contract["database_url"])

    async def count_in_two_gateways() -> None:
        gateways = [UsageCounts(), UsageCounts()]
        pool = create_pool(settings, 2)
        for _ in range(3):
            for gateway, ordered in zip(gateways, (callers, callers[::-1]), strict=True):
                for caller in ordered:
                    gateway.add(caller, 10, 1000, 100)
                gateway.add(platform, 1, 1, 1)
        for gateway in gateways:
            gateway.open(pool)
        # The pool is closed: what cannot be added is kept.
        await asyncio.gather(*(gateway.flush() for gateway in gateways))
        await pool.open()
        await asyncio.gather(*(gateway.close() for gateway in gateways))
        await pool.close()

    asyncio.run(count_in_two_gateways())
    with psycopg.connect(stack.contract["database_url"], autocommit=True) as admin:
        rows = admin.execute(
            "select esco, calls, rows, bytes, received from gateway.usage"
            " where client like 'flc_adding%'"
        ).fetchall()
        admin.execute("delete from gateway.usage where client like 'flc_adding%'")
    assert sorted(rows, key=str) == sorted(
        [(esco, 6, 60, 6000, 600)] * 20 + [(None, 6, 6, 6, 6)], key=str
    )
