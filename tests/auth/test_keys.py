"""Keys: published before they sign, valid until their last token expires, refused if damaged."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import psycopg
import pytest

from app.auth.keyring import STALE_SECONDS
from app.auth.keys import load_keys
from tests.conftest import Stack, flows, running_stack, wait_until


@pytest.fixture(scope="module")
def own() -> Iterator[Stack]:
    """A separate stack, whose keys may be rotated."""
    with running_stack() as stack:
        yield stack


def issue(stack: Stack) -> str:
    """Issue a token of the demo client."""
    client = stack.contract["escos"]["wlce"]
    answer = httpx.post(
        stack.contract["base_url"] + "/auth/token",
        data={"grant_type": "client_credentials"},
        auth=(client["client_id"], client["client_secret"]),
        timeout=30,
    )
    token: str = answer.json()["access_token"]
    return token


def kid(token: str) -> str:
    """Return the id of the key that signed a token."""
    return str(jwt.get_unverified_header(token)["kid"])


def published(stack: Stack) -> list[str]:
    """Return the key ids in the JWKS."""
    keys = httpx.get(stack.contract["base_url"] + "/.well-known/jwks.json").json()["keys"]
    return [key["kid"] for key in keys]


def doors(stack: Stack, token: str) -> set[int]:
    """Return the statuses of the gateway and of PostgREST itself."""
    headers = {"Authorization": f"Bearer {token}"}
    return {
        httpx.get(f"{stack.contract[door]}/escos", headers=headers).status_code
        for door in ("rest_url", "postgrest_url")
    }


def test_a_rotation_has_no_gap_and_a_retired_key_is_refused(own: Stack) -> None:
    before = issue(own)
    old = kid(before)
    said = flows(own, "keys", "rotate", "--after", "10").stdout
    new = said.split()[0]
    wait_until(lambda: published(own) == [old, new], seconds=5)
    assert kid(issue(own)) == old  # published but not signing yet
    wait_until(lambda: kid(issue(own)) == new, seconds=20)
    after = issue(own)
    wait_until(lambda: doors(own, after) == {200}, seconds=5)
    assert doors(own, before) == {200}
    listed: list[dict[str, Any]] = json.loads(flows(own, "keys", "list", "--json").stdout)
    leaving = {key["kid"]: key["verifies_until"] for key in listed}
    assert leaving[new] is None
    assert leaving[old] is not None
    flows(own, "keys", "retire", old)
    wait_until(lambda: doors(own, before) == {401}, seconds=5)
    assert published(own) == [new]
    assert doors(own, after) == {200}
    assert flows(own, "keys", "retire", new, check=False).returncode == 1


def test_tokens_fail_closed_when_revocations_cannot_be_read(own: Stack) -> None:
    token = issue(own)
    assert doors(own, token) == {200}
    with psycopg.connect(own.contract["database_url"], autocommit=True) as admin:
        admin.execute("alter role flows_gateway nologin")
        try:
            admin.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where usename = 'flows_gateway'"
            )
            headers = {"Authorization": f"Bearer {token}"}
            started = time.monotonic()
            wait_until(
                lambda: (
                    httpx.get(f"{own.contract['rest_url']}/escos", headers=headers).status_code
                    == 503
                ),
                seconds=STALE_SECONDS + 3,
            )
            assert time.monotonic() - started > 1
        finally:
            admin.execute("alter role flows_gateway login")
    wait_until(lambda: doors(own, token) == {200}, seconds=15)


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        ("-----BEGIN PRIVATE KEY-----\nMIIE", 0o600, "cannot be read as a private key"),
        ("", 0o600, "cannot be read as a private key"),
        ("x", 0o644, "can be read by others"),
    ],
)
def test_a_key_that_is_half_written_or_open_to_others_refuses_to_start(
    tmp_path: Path, content: str, mode: int, said: str
) -> None:
    file = tmp_path / "signing.pem"
    file.write_text(content)
    file.chmod(mode)
    with pytest.raises(SystemExit, match=said):
        load_keys(tmp_path)


def test_a_key_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    (first,) = load_keys(tmp_path / "keys")
    (again,) = load_keys(tmp_path / "keys")
    assert first.kid == again.kid
    (file,) = (tmp_path / "keys").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert load_keys(tmp_path, file.read_text())[0].kid == first.kid
