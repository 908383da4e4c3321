"""Scopes mean what their names say, at both doors, and nobody gives scopes that it lacks."""

from collections.abc import Callable, Iterator

import httpx
import pytest

from app.auth.tokens import Grant, tenant_role
from tests.conftest import Stack

SITES = "/rest/v1/sites_new"
Caller = Callable[..., httpx.Client]


@pytest.fixture
def caller(stack: Stack) -> Iterator[Caller]:
    """Return an HTTP client of wlce whose token has only the given scopes."""
    opened: list[httpx.Client] = []

    def open_client(*scopes: str, url: str = stack.contract["base_url"]) -> httpx.Client:
        esco = stack.contract["escos"]["wlce"]["id"]
        grant = Grant("flc_scopes", tenant_role(scopes), esco, "wlce", scopes)
        token = stack.issue(grant)
        opened.append(httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}))
        return opened[-1]

    yield open_client
    for client in opened:
        client.close()


@pytest.mark.parametrize("scopes", [("admin",), ("write",), ("admin", "write")])
def test_65_without_the_scope_read_nothing_is_read(
    stack: Stack, caller: Caller, scopes: tuple[str, ...]
) -> None:
    client = caller(*scopes)
    direct = caller(*scopes, url=stack.contract["postgrest_url"])
    representation = {"Prefer": "return=representation"}
    body = {"name": "scopes", "esco": stack.contract["escos"]["wlce"]["id"]}
    answers = [
        client.get(SITES),
        client.head(SITES),
        client.get("/v1/latest"),
        client.get("/v1/energy?period_from=2026-01-01T00:00Z&period_to=2026-01-02T00:00Z"),
        client.delete(f"{SITES}?name=eq.none"),
        client.patch(f"{SITES}?name=eq.none", json={"name": "x"}),
        client.post(SITES, json=body, headers=representation),
        client.post(SITES, json=body, headers={"Prefer": "count=none,return=representation"}),
        client.post("/rest/v1/rpc/derive_interval_hh", json={}),
        direct.get("/sites_new"),
        direct.post("/sites_new", json=body, headers=representation),
    ]
    # An unknown function or argument is refused before the scope is looked at.
    assert {answer.status_code for answer in answers} <= {403, 404}, answers
    assert {answer.status_code for answer in answers[:8] + answers[9:]} == {403}, answers


def test_65_write_alone_inserts_and_is_shown_nothing(stack: Stack, caller: Caller) -> None:
    body = {"name": "written", "esco": stack.contract["escos"]["wlce"]["id"]}
    made = caller("write").post(SITES, json=body)
    assert (made.status_code, made.text) == (201, "")
    assert caller("admin").post(SITES, json=body).status_code in (401, 403)
    both = caller("read", "write")
    assert len(both.get(f"{SITES}?name=eq.written").json()) == 1
    assert both.delete(f"{SITES}?name=eq.written").status_code == 204


def test_65_nobody_gives_a_scope_that_it_lacks(caller: Caller) -> None:
    whole, admin = caller("read", "write", "admin"), caller("admin")
    made = admin.post("/admin/clients", json={"name": "x", "scopes": ["admin"]})
    assert made.status_code == 201, made.text
    for scopes in (["read"], ["admin", "write"], ["write", "read", "admin"]):
        refused = admin.post("/admin/clients", json={"name": "x", "scopes": scopes})
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
        path = f"/admin/clients/{made.json()['id']}"
        assert admin.patch(path, json={"scopes": scopes}).status_code == 403
    # Neither by the secret of a client that has it.
    greater = whole.post("/admin/clients", json={"name": "x", "scopes": ["read", "write"]}).json()
    assert admin.post(f"/admin/clients/{greater['id']}/secrets").status_code == 403
    assert whole.post(f"/admin/clients/{greater['id']}/secrets").status_code == 201
    # Scopes can be taken and clients disabled, which gives nobody anything.
    path = f"/admin/clients/{greater['id']}"
    assert caller("read", "admin").patch(path, json={"scopes": ["read"]}).status_code == 200
    assert admin.delete(path).status_code == 204
