"""`/rest/v1` behaves like PostgREST for correct clients, and refuses others."""

from typing import Any

import httpx
import pytest

from tests.conftest import Stack


def test_read_embed_and_count(stack: Stack) -> None:
    with stack.client("wlce") as client:
        answer = client.get(
            "/rest/v1/meter_registry",
            params={"select": "serial,meter_registers(element)", "order": "serial", "limit": "2"},
            headers={"Prefer": "count=exact", "Accept-Profile": "flows"},
        )
    assert answer.status_code == 206
    assert answer.headers["content-range"] == "0-1/13"
    assert answer.headers["content-profile"] == "flows"
    assert [row["serial"] for row in answer.json()] == ["WLCE0001", "WLCE0002"]
    assert {"element": "A"} in answer.json()[0]["meter_registers"]


def test_insert_upsert_update_and_delete(stack: Stack) -> None:
    esco = stack.contract["escos"]["wlce"]["id"]
    row: dict[str, Any] = {"esco": esco, "name": "first", "code": "rest-test"}
    with stack.client("wlce", "write") as client:
        made = client.post(
            "/rest/v1/sites_new",
            json=row,
            headers={"Prefer": "return=representation", "Content-Profile": "flows"},
        )
        assert made.status_code == 201, made.text
        identity = made.json()[0]["id"]
        upserted = client.post(
            "/rest/v1/sites_new",
            params={"on_conflict": "code"},
            json=row | {"name": "second"},
            headers={"Prefer": "resolution=merge-duplicates,return=representation"},
        )
        assert upserted.json()[0]["id"] == identity
        changed = client.patch(f"/rest/v1/sites_new?id=eq.{identity}", json={"name": "third"})
        assert changed.status_code == 204
        read = client.get(f"/rest/v1/sites_new?id=eq.{identity}&select=name")
        assert read.json() == [{"name": "third"}]
        assert client.delete(f"/rest/v1/sites_new?id=eq.{identity}").status_code == 204
        assert client.get(f"/rest/v1/sites_new?id=eq.{identity}").json() == []


# The tables that show their owner, and what else a new row of each needs.
OWNED: dict[str, dict[str, Any]] = {
    "sites_new": {"name": "unnamed owner"},
    "feeder_registry": {"name": "unnamed owner"},
    "meter_registry": {"serial": "UNNAMEDOWNER", "name": "unnamed owner"},
    "ev_chargers": {"serial": "UNNAMED1", "pin": "1234"},
}


@pytest.mark.parametrize("table", OWNED)
def test_a_row_that_names_no_esco_is_the_callers(stack: Stack, table: str) -> None:
    escos = stack.contract["escos"]
    returned = {"Prefer": "return=representation"}
    with stack.client("wlce", "write") as client:
        needed = OWNED[table]
        for rows in (needed, needed | {"esco": escos["wlce"]["id"]}):
            made = client.post(f"/rest/v1/{table}", json=rows, headers=returned)
            assert made.status_code == 201, made.text
            assert made.json()[0]["esco"] == escos["wlce"]["id"]
            client.delete(f"/rest/v1/{table}?id=eq.{made.json()[0]['id']}").raise_for_status()
        foreign = client.post(f"/rest/v1/{table}", json=needed | {"esco": escos["hmce"]["id"]})
        assert foreign.status_code == 403
        insert = client.get("/openapi.json").json()["components"]["schemas"]
        name = "".join(word.capitalize() for word in table.split("_"))
        assert "esco" not in insert[f"{name}Insert"].get("required", ())


def test_rpc_names_the_callers_own_esco(stack: Stack) -> None:
    with stack.client("hmce") as client:
        answer = client.post("/rest/v1/rpc/current_esco", json={})
    assert [row["code"] for row in answer.json()] == ["hmce"]


def test_a_read_token_writes_nothing(stack: Stack) -> None:
    esco = stack.contract["escos"]["wlce"]["id"]
    with stack.client("wlce") as client:
        answer = client.post("/rest/v1/sites_new", json={"esco": esco, "name": "no"})
    assert answer.status_code == 403


def test_a_foreign_esco_is_refused_and_nothing_is_told(stack: Stack) -> None:
    foreign = stack.contract["escos"]["hmce"]["id"]
    with stack.client("wlce", "write") as client:
        answer = client.post("/rest/v1/sites_new", json={"esco": foreign, "name": "no"})
        assert answer.status_code == 403
        assert answer.json()["details"] is None
        assert client.get(f"/rest/v1/sites_new?esco=eq.{foreign}").json() == []


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Accept-Profile": "gateway"}, 406),
        ({"Accept-Profile": "auth"}, 406),
        ({"Accept-Profile": "Public"}, 406),
        ({"Prefer": "count=planned"}, 400),
        ({"Prefer": "count=estimated"}, 400),
        ({"Accept": "application/vnd.pgrst.plan+json"}, 406),
    ],
)
def test_what_tells_of_others_is_refused(
    stack: Stack, headers: dict[str, str], status: int
) -> None:
    with stack.client("wlce") as client:
        assert client.get("/rest/v1/circuits", headers=headers).status_code == status


@pytest.mark.parametrize("path", ["/x%2e%2e/y", "/a//b", "/a%2fb", "/a;b", "/%252e%252e/live"])
def test_hostile_paths_are_refused(stack: Stack, path: str) -> None:
    with stack.client("wlce") as client:
        assert client.get(f"/rest/v1{path}").status_code == 400


def test_no_token_no_data(stack: Stack) -> None:
    with stack.client(None) as client:
        answer = client.get("/rest/v1/circuits")
        assert answer.status_code == 401
        assert answer.headers["content-type"] == "application/problem+json"
        token = stack.contract["escos"]["wlce"]["read_token"]
        assert client.get("/rest/v1/escos", headers={"apikey": token}).status_code == 200
        two = httpx.Headers([("authorization", "Bearer x"), ("authorization", "Bearer y")])
        assert client.get("/rest/v1/escos", headers=two).status_code == 400
