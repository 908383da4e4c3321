"""Keys and tokens while gateways die, files are damaged and gateways share a database."""

import concurrent.futures
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from app.auth.keyring import PUBLISH_SECONDS
from app.auth.keys import load_keys
from app.embedded.ports import free_port
from tests.auth.test_keys import doors, issue, kid, published
from tests.commands import run_command
from tests.conftest import (
    Stack,
    another_gateway,
    flows,
    gateway_environment,
    running_stack,
    wait_until,
)


@pytest.fixture(scope="module")
def own() -> Iterator[Stack]:
    """A separate stack, whose keys are damaged and rotated."""
    with running_stack() as stack:
        yield stack


def look_at_keys(stack: Stack, times: int) -> None:
    """Return when the stack's gateway has looked at its key files so often: with each poll."""
    polled = (
        "select array_agg(query_start order by pid)::text from pg_stat_activity"
        " where application_name = 'flows-gateway tokens'"
    )
    with psycopg.connect(stack.contract["database_url"], autocommit=True) as admin:
        seen = {admin.execute(polled).fetchone()}

        def looks() -> int:
            seen.add(admin.execute(polled).fetchone())
            return len(seen) - 1

        wait_until(lambda: looks() >= times)


def listed(stack: Stack) -> dict[str, dict[str, Any]]:
    """Return the published keys by kid."""
    keys = json.loads(flows(stack, "keys", "list", "--json").stdout)
    return {key["kid"]: key for key in keys}


def jwks(stack: Stack) -> httpx.Response:
    """Fetch the JWKS from the gateway."""
    return httpx.get(stack.contract["base_url"] + "/.well-known/jwks.json")


def test_a_new_key_is_at_every_gateway_before_any_signs_with_it(own: Stack) -> None:
    with another_gateway(own) as other:
        gateways = (own, other)
        cached = {jwks(gateway).headers["cache-control"] for gateway in gateways}
        assert cached == {f"public, max-age={PUBLISH_SECONDS}"}
        old = kid(issue(own))
        new = flows(own, "keys", "rotate", "--after", str(2 * PUBLISH_SECONDS)).stdout.split()[0]
        for gateway in gateways:
            wait_until(lambda: new in published(gateway), seconds=PUBLISH_SECONDS)  # noqa: B023
        everywhere = datetime.now(UTC)  # by the database's clock, which is this machine's
        made, signs_from = (
            datetime.fromisoformat(listed(own)[new][name]) for name in ("created_at", "signs_from")
        )
        assert everywhere < signs_from
        # A JWKS fetched just before the key was published has expired by then.
        assert signs_from - made >= timedelta(seconds=PUBLISH_SECONDS)
        used: set[str] = set()
        while len(used) < 2:
            assert datetime.now(UTC) < signs_from + timedelta(seconds=60)
            for gateway in gateways:
                token = issue(gateway)
                assert kid(token) in (old, new)
                if kid(token) == new:
                    assert datetime.now(UTC) >= signs_from
                    used.add(gateway.contract["base_url"])
                # Both gateways and PostgREST accept it at once, whichever gateway signed it.
                assert [doors(each, token) for each in gateways] == [{200}, {200}]
            time.sleep(0.2)


def test_a_revocation_at_one_gateway_holds_at_all_and_after_restarts(own: Stack) -> None:
    client = own.contract["escos"]["hmce"]
    token, kept = issue(own), issue(own)
    with another_gateway(own) as other:
        assert [doors(gateway, token) for gateway in (own, other)] == [{200}, {200}]
        revoked = httpx.post(
            other.contract["base_url"] + "/auth/revoke",
            data={"token": token},
            auth=(own.contract["escos"]["wlce"]["client_id"],
                  own.contract["escos"]["wlce"]["client_secret"]),
        )  # fmt: skip
        assert revoked.status_code == 200
        for gateway in (own, other):
            wait_until(lambda: doors(gateway, token) == {401}, seconds=5)  # noqa: B023
        flows(own, "client", "disable", client["client_id"])
        for gateway in (own, other):
            wait_until(lambda: doors(gateway, client["read_token"]) == {401}, seconds=5)  # noqa: B023
        flows(own, "client", "enable", client["client_id"])
    # A gateway started afterwards must know of it, too.
    with another_gateway(own) as later:
        assert doors(later, token) == {401}
        assert doors(later, kept) == {200}


def test_too_short_a_delay_before_signing_is_refused(own: Stack) -> None:
    done = flows(own, "keys", "rotate", "--after", str(PUBLISH_SECONDS - 1), check=False)
    assert done.returncode != 0


def test_a_gateway_with_key_files_of_its_own_is_not_cut_off(own: Stack, tmp_path: Path) -> None:
    with another_gateway(own, FLOWS_KEYS_FOLDER=str(tmp_path / "keys")) as other:
        theirs = wait_until(lambda: (set(listed(own)) - _held(own)) or None).pop()
        flows(own, "keys", "rotate")
        assert listed(own)[theirs]["verifies_until"] is None
        wait_until(lambda: _issued(other) and kid(issue(other)) == theirs, seconds=30)
        token = issue(other)
        wait_until(lambda: doors(own, token) == {200}, seconds=5)
    flows(own, "keys", "retire", theirs)


def _held(stack: Stack) -> set[str]:
    return {key.kid for key in load_keys(stack.home / "keys")}


def _issued(stack: Stack) -> bool:
    try:
        issue(stack)
    except KeyError:
        return False
    return True


def test_a_token_issued_during_a_rotation_outlives_the_old_key(own: Stack) -> None:
    old = kid(issue(own))
    new = flows(own, "keys", "rotate").stdout.split()[0]  # signs in a minute
    token = flows(own, "token", "--esco", "wlce", "--days", "300", "--name", "between")
    assert kid(token.stdout.strip()) == old
    until = listed(own)[old]["verifies_until"]
    with psycopg.connect(own.contract["database_url"]) as admin:
        row = admin.execute(
            "select k.verifies_until >= t.expires_at from gateway.token as t"
            " join gateway.signing_key as k using (kid) where t.name = 'between'"
        ).fetchone()
    assert row == (True,), until
    assert listed(own)[new]["verifies_until"] is None


def test_a_retired_key_whose_file_remains_is_not_published_again(own: Stack) -> None:
    keys = listed(own)
    oldest = min(keys, key=lambda each: str(keys[each]["signs_from"]))
    flows(own, "keys", "retire", oldest)
    wait_until(lambda: oldest not in [key["kid"] for key in jwks(own).json()["keys"]], seconds=5)
    assert oldest in _held(own)

    with psycopg.connect(own.contract["database_url"], autocommit=True) as admin:
        admin.execute("listen flows_tokens")
        heard = list(admin.notifies(timeout=3))
    assert not heard  # the key is not published again and again


@pytest.mark.parametrize("how", ["half-written", "open to others", "gone"])
def test_a_running_gateway_keeps_its_keys_whatever_becomes_of_the_files(
    own: Stack, how: str
) -> None:
    token = issue(own)
    folder = own.home / "keys"
    complaint, log = "the keys stay as they are", own.home / "logs" / "gateway.log"
    before = log.read_text().count(complaint)
    torn = folder / "signing-99990101T000000000000Z.pem"
    away = folder.with_name("keys-away")
    if how == "gone":
        folder.rename(away)
    else:
        whole = next(folder.glob("*.pem")).read_bytes()
        torn.write_bytes(whole[:400] if how == "half-written" else whole)
        torn.chmod(0o600 if how == "half-written" else 0o644)
    try:
        # Seen before another gateway makes a key in the folder that is missing.
        wait_until(lambda: log.read_text().count(complaint) > before)
        with another_gateway(own) if how == "gone" else _nothing():
            look_at_keys(own, times=2)
            assert doors(own, token) == {200}
            assert doors(own, issue(own)) == {200}
        assert "PRIVATE KEY" not in log.read_text()
        if how != "gone":
            env = gateway_environment(own) | {"FLOWS_PORT": str(free_port())}
            refused = run_command(("serve",), env)
            assert refused.returncode != 0
            assert torn.name in refused.stderr
    finally:
        torn.unlink(missing_ok=True)
        if away.exists():
            for file in folder.glob("*") if folder.exists() else ():
                file.unlink()
            if folder.exists():
                folder.rmdir()
            away.rename(folder)
    wait_until(lambda: _issued(own), seconds=5)


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def test_a_gateway_killed_while_issuing_leaves_whole_tokens_or_none(own: Stack) -> None:
    issued: list[str] = []
    failed = threading.Event()
    client = own.contract["escos"]["hmce"]

    def keep_asking(base_url: str) -> None:
        while not failed.is_set():
            try:
                answer = httpx.post(
                    f"{base_url}/auth/token",
                    data={"grant_type": "client_credentials"},
                    auth=(client["client_id"], client["client_secret"]),
                    timeout=30,
                )
                issued.append(answer.json()["access_token"])
            except httpx.HTTPError:
                failed.set()

    with psycopg.connect(own.contract["database_url"], autocommit=True) as admin:
        count = "select count(*) from gateway.audit where action = 'token.issue' and actor = %s"
        before = admin.execute(count, (client["client_id"],)).fetchone()
        for _ in range(3):
            failed.clear()
            asked = len(issued)
            with (
                another_gateway(own) as other,
                concurrent.futures.ThreadPoolExecutor(4) as pool,
            ):
                base_url = other.contract["base_url"]
                working = [pool.submit(keep_asking, base_url) for _ in range(4)]
                wait_until(lambda: len(issued) > asked + 4)  # noqa: B023
                other.process.kill()
                concurrent.futures.wait(working, timeout=30)
        after = admin.execute(count, (client["client_id"],)).fetchone()
    assert before
    assert after
    # Every token received is in the audit log, with at most one more per worker and kill.
    assert len(issued) <= after[0] - before[0] <= len(issued) + 3 * 4
    for token in issued[-6:]:
        assert doors(own, token) == {200}
    assert issue(own)  # the retry


def test_a_rotation_that_was_killed_is_committed_or_absent_and_can_be_repeated(own: Stack) -> None:
    folder = own.home / "keys"
    for wanted in ("tmp*", "signing-*.pem"):
        there = set(folder.glob("*"))
        process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "keys", "rotate"],
            env=os.environ | {"FLOWS_HOME": str(own.home)},
            stdout=subprocess.DEVNULL,
        )
        while process.poll() is None and not set(folder.glob(wanted)) - there:
            pass
        process.kill()
        process.wait()
        look_at_keys(own, times=2)  # the first may have begun before
        token = issue(own)
        assert doors(own, token) == {200}
        # Every complete key file is published; there are no incomplete ones.
        assert _held(own) <= set(listed(own))
    new = flows(own, "keys", "rotate").stdout.split()[0]
    keys = listed(own)
    for name in _held(own):
        assert (keys[name]["verifies_until"] is None) == (name == new)
    assert doors(own, issue(own)) == {200}
