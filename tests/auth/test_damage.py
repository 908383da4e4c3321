"""A damaged row of a key is told, and hurts nobody for longer than it is damaged."""

from collections.abc import Iterator
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.types.json import Jsonb

from app.auth.keys import create_key
from tests.auth.test_clients import ask
from tests.conftest import Stack, running_stack, wait_until

DAMAGES: dict[str, Any] = {
    "empty": {}, "a text": "x", "null": None, "a list": [1],
    "a wrong type": {"kty": 1, "n": [], "e": {}},
    "another modulus": "n", "no base64": {"kty": "RSA", "n": "!", "e": "AQAB"},
}  # fmt: skip


@pytest.fixture(scope="module")
def own() -> Iterator[Stack]:
    """A separate stack, whose keys may be damaged."""
    with running_stack() as stack:
        yield stack


@pytest.fixture
def database(own: Stack) -> Iterator[psycopg.Connection[Any]]:
    """An administrator's connection that commits each statement."""
    with psycopg.connect(own.contract["database_url"], autocommit=True) as admin:
        yield admin


def ready(stack: Stack) -> tuple[int, dict[str, Any]]:
    """Return the status of /ready, and the component `keys`."""
    answer = httpx.get(f"{stack.contract['base_url']}/ready")
    component: dict[str, Any] = answer.json()["components"]["keys"]
    return answer.status_code, component


@pytest.mark.parametrize("how", DAMAGES)
def test_70_a_repaired_key_is_back_by_itself_and_ready_tells_of_it(
    own: Stack, database: psycopg.Connection[Any], how: str
) -> None:
    ((kid, intact),) = database.execute(
        "select kid, public_jwk from gateway.signing_key"
    ).fetchall()
    damaged = (
        intact | {"n": intact["n"][:-4] + "AAAA"} if how == "another modulus" else DAMAGES[how]
    )
    change = "update gateway.signing_key set public_jwk = %s"
    client = own.contract["escos"]["wlce"]
    database.execute(change, (Jsonb(damaged),))
    try:
        told = {"status": "down", "detail": f"the row of the key {kid} is damaged"}
        wait_until(lambda: ready(own) == (503, told))
        with own.client("wlce") as reader:
            answer = reader.get("/v1/latest")
            assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        assert ask(own, client["client_id"], client["client_secret"]).status_code == 503
        assert httpx.get(f"{own.contract['base_url']}/live").status_code == 200
    finally:
        database.execute(change, (Jsonb(intact),))
    wait_until(lambda: ready(own) == (200, {"status": "ok", "detail": None}), seconds=5)
    with own.client("wlce") as reader:
        wait_until(lambda: reader.get("/v1/latest").status_code == 200, seconds=5)
        wait_until(lambda: reader.get("/rest/v1/escos").status_code == 200, seconds=5)
    assert ask(own, client["client_id"], client["client_secret"]).status_code == 200
    log = (own.home / "logs" / "gateway.log").read_text()
    assert f"the row of the signing key {kid} is damaged" in log


def test_70_a_damaged_key_beside_a_good_one_stops_nobody(
    own: Stack, database: psycopg.Connection[Any]
) -> None:
    other = create_key(own.home / "other-keys")
    database.execute(
        "insert into gateway.signing_key (kid, public_jwk, signs_from)"
        " values (%s, %s, now() + interval '1 hour')",
        (other.kid, Jsonb({})),
    )
    try:
        wait_until(lambda: ready(own)[1]["detail"])
        status, component = ready(own)  # asked of PostgREST too, with a fresh token
        assert (status, component["status"]) == (200, "ok")
        assert other.kid in component["detail"]
        with own.client("wlce") as reader:
            assert reader.get("/v1/latest").status_code == 200
            assert reader.get("/rest/v1/escos").status_code == 200
    finally:
        database.execute("delete from gateway.signing_key where kid = %s", (other.kid,))
