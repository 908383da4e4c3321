"""Revocation at the gateway and at PostgREST, introspection, and server metadata."""

import json
from typing import Any

import httpx
import psycopg
import pytest

from tests.conftest import Stack, flows, wait_until


def post(stack: Stack, path: str, esco: str, **form: str) -> httpx.Response:
    """Post a form as the demo client of an ESCO."""
    client = stack.contract["escos"][esco]
    return httpx.post(
        stack.contract["base_url"] + path,
        data=form,
        auth=(client["client_id"], client["client_secret"]),
        timeout=30,
    )


def token_of(stack: Stack, esco: str) -> str:
    """Issue a token."""
    body = post(stack, "/auth/token", esco, grant_type="client_credentials").json()
    token: str = body["access_token"]
    return token


def doors(stack: Stack, token: str) -> set[int]:
    """Return the statuses of the gateway and of PostgREST itself."""
    headers = {"Authorization": f"Bearer {token}"}
    return {
        httpx.get(f"{stack.contract[door]}/escos", headers=headers).status_code
        for door in ("rest_url", "postgrest_url")
    }


def test_a_revoked_token_stops_at_both_doors_within_five_seconds(stack: Stack) -> None:
    token, other = token_of(stack, "wlce"), token_of(stack, "wlce")
    assert doors(stack, token) == {200}
    assert post(stack, "/auth/introspect", "wlce", token=token).json()["active"] is True
    assert post(stack, "/auth/revoke", "wlce", token=token).status_code == 200
    wait_until(lambda: doors(stack, token) == {401}, seconds=5)
    assert post(stack, "/auth/introspect", "wlce", token=token).json() == {"active": False}
    assert doors(stack, other) == {200}


def test_a_revocation_is_forgotten_when_its_token_has_expired_anyway(
    stack: Stack, admin: psycopg.Connection[Any]
) -> None:
    admin.execute(
        "insert into gateway.revoked_token (jti, expires_at)"
        " values ('long ago', now() - interval '1 hour'), ('lately', now() - interval '1 minute')"
    )
    admin.commit()
    assert post(stack, "/auth/revoke", "wlce", token=token_of(stack, "wlce")).status_code == 200
    left = admin.execute(
        "select jti from gateway.revoked_token where jti in ('long ago', 'lately')"
    ).fetchall()
    assert left == [("lately",)]


def test_nobody_revokes_or_reads_anothers_token(stack: Stack) -> None:
    token = token_of(stack, "wlce")
    assert post(stack, "/auth/introspect", "hmce", token=token).json() == {"active": False}
    assert post(stack, "/auth/revoke", "hmce", token=token).status_code == 200
    assert post(stack, "/auth/revoke", "hmce", token="no token").status_code == 200
    assert post(stack, "/auth/introspect", "wlce", token=token).json()["active"] is True
    assert doors(stack, token) == {200}


def test_introspection_tells_what_the_token_allows(stack: Stack) -> None:
    told = post(stack, "/auth/introspect", "wlce", token=token_of(stack, "wlce")).json()
    assert (told["scope"], told["esco_code"], told["token_type"]) == (
        "read write",
        "wlce",
        "Bearer",
    )
    assert told["iss"] == stack.contract["base_url"]


def test_a_long_lived_token_is_issued_listed_and_revoked(stack: Stack) -> None:
    issued = flows(stack, "token", "--esco", "wlce", "--role", "flows", "--days", "365",
                   "--name", "meter sync")  # fmt: skip
    token = issued.stdout.strip()
    assert doors(stack, token) == {200}
    entries: list[dict[str, Any]] = json.loads(flows(stack, "token", "list", "--json").stdout)
    (entry,) = [entry for entry in entries if entry["name"] == "meter sync"]
    assert (entry["esco_code"], entry["role"], entry["revoked_at"]) == ("wlce", "flows", None)
    flows(stack, "token", "revoke", entry["jti"])
    wait_until(lambda: doors(stack, token) == {401}, seconds=5)


@pytest.mark.parametrize(
    "words",
    [
        ("token", "--esco", "nowhere", "--name", "x"),
        ("token", "--esco", "wlce", "--name", "x", "--role", "tsdbadmin"),
        ("token", "--esco", "wlce", "--name", "x", "--days", "4000"),
        ("token", "--esco", "wlce"),
        ("token", "revoke", "unknown"),
        ("client", "create", "x", "--esco", "wlce", "--scope", "everything"),
        ("client", "disable", "unknown"),
        ("esco", "create", "Not A Code", "x"),
        ("keys", "retire", "unknown"),
    ],
)
def test_an_impossible_command_prints_one_line(stack: Stack, words: tuple[str, ...]) -> None:
    done = flows(stack, *words, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("send", "error"),
    [
        ({"content": b"grant_type=client_credentials&scope=read&scope=write"}, "invalid_request"),
        ({"content": b"scope=read"}, "invalid_request"),
        ({"content": b"grant_type=password"}, "unsupported_grant_type"),
        ({"content": b"grant_type=client_credentials&client_secret=x"}, "invalid_request"),
        ({"content": b"grant_type=client_credentials%00&scope=%00"}, "invalid_request"),
        ({"content": b"\xff\xfe"}, "invalid_request"),
        ({"content": b"x=" + b"y" * 20_000}, "invalid_request"),
    ],
)
def test_a_malformed_request_is_answered_as_the_standard_says(
    stack: Stack, send: dict[str, Any], error: str
) -> None:
    client = stack.contract["escos"]["wlce"]
    answer = httpx.post(
        stack.contract["base_url"] + "/auth/token",
        auth=(client["client_id"], client["client_secret"]),
        headers={"Content-Type": "application/x-www-form-urlencoded"},
        **send,
    )
    assert answer.status_code == 400
    assert answer.json()["error"] == error
    assert answer.headers["cache-control"] == "no-store"


def test_the_metadata_names_existing_endpoints(stack: Stack) -> None:
    base = stack.contract["base_url"]
    told = httpx.get(f"{base}/.well-known/oauth-authorization-server").json()
    assert told["issuer"] == base
    assert httpx.get(told["jwks_uri"]).json()["keys"][0]["kty"] == "RSA"
    for endpoint in ("token_endpoint", "revocation_endpoint", "introspection_endpoint"):
        assert (
            httpx.post(told[endpoint]).status_code == 400
        )  # the endpoint exists and refuses an empty form
