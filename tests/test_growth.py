"""A grown deployment: reads of the replica, what it may not delay, and parts that are killed."""

import re
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.conftest import wait_until
from tests.grown import PGBOUNCER, Grown, grown

pytestmark = pytest.mark.stack

MOST_LAG = 4.0
# Of both doors: the gateway's own SQL, and PostgREST.
DOORS = ("/v1/escos", "/rest/v1/escos?select=name,code")


@pytest.fixture(scope="module")
def own() -> Iterator[Grown]:
    """Primary, replica, PgBouncer where it is installed, three PostgRESTs and a gateway."""
    with grown(FLOWS_REPLICA_MAX_LAG_SECONDS=str(MOST_LAG)) as running:
        yield running


@pytest.fixture(scope="module")
def client(own: Grown) -> Iterator[httpx.Client]:
    """A client of the gateway."""
    headers = {"Authorization": f"Bearer {own.token()}"}
    with httpx.Client(base_url=own.base_url, headers=headers, timeout=30) as made:
        yield made


def ready(client: httpx.Client) -> dict[str, Any]:
    """Return what /ready tells."""
    told: dict[str, Any] = client.get("/ready").json()
    return told


def usable(client: httpx.Client) -> bool:
    """Return whether reads go to the replica."""
    return bool(ready(client)["components"]["replica"]["status"] == "ok")


def names(client: httpx.Client) -> set[str]:
    """Return the names of the ESCO, as both doors tell them."""
    answers = [client.get(door) for door in DOORS]
    assert [answer.status_code for answer in answers] == [200, 200], [a.text for a in answers]
    own_answer, row = answers[0].json(), answers[1].json()[0]
    return {own_answer["rows"][0]["esco_name"], row["name"]}


def test_a_replica_behind_answers_reads_up_to_a_bound_and_no_revoked_token(
    own: Grown, client: httpx.Client
) -> None:
    wait_until(lambda: usable(client))
    told = ready(client)["components"]["replica"]
    assert 0 <= told["seconds_behind"] <= MOST_LAG
    (before,) = names(client)
    revoked_id = str(uuid.uuid4())
    revoked = {"Authorization": f"Bearer {own.token(revoked_id)}"}
    assert [client.get(door, headers=revoked).status_code for door in DOORS] == [200, 200]
    with own.admin("replica") as replica, own.admin() as admin:
        replica.execute("select pg_wal_replay_pause()")
        paused = time.monotonic()
        try:
            admin.execute("update flows.escos set name = 'Renamed' where id = %s", (own.esco,))
            admin.execute(
                "insert into gateway.revoked_token (jti, expires_at)"
                " values (%s, now() + interval '1 hour')",
                (revoked_id,),
            )
            if time.monotonic() < paused + MOST_LAG / 2:
                assert names(client) == {before}, "the replica was not asked"

            def refused() -> bool:
                found = [client.get(door, headers=revoked).status_code for door in DOORS]
                return found == [401, 401]

            wait_until(refused, seconds=5)
            wait_until(lambda: names(client) == {"Renamed"})
            assert time.monotonic() > paused + MOST_LAG / 2
            state = ready(client)
            assert state["status"] == "ok"
            assert state["components"]["replica"]["detail"] == "is too far behind"
            text = client.get("/metrics").text
            assert "flows_replica_usable 0.0" in text
        finally:
            replica.execute("select pg_wal_replay_resume()")
            admin.execute("update flows.escos set name = %s where id = %s", (before, own.esco))
    wait_until(lambda: usable(client))
    wait_until(lambda: names(client) == {before})
    assert "flows_replica_usable 1.0" in client.get("/metrics").text


def test_the_primary_tells_what_its_replica_has_yet_to_replay(client: httpx.Client) -> None:
    """The seconds have no figure while the replica has replayed all."""
    measured = re.compile(r'^flows_replica_lag_bytes{replica=".+"} (\S+)$', re.MULTILINE)
    found = wait_until(lambda: measured.search(client.get("/metrics").text))
    assert float(found[1]) >= 0


def test_changes_that_ran_as_the_replica_answered_are_told_later(
    own: Grown, client: httpx.Client
) -> None:
    """A replica does not know which transactions ran: none of them counts as seen."""
    wait_until(lambda: usable(client))
    with own.admin() as admin:
        admin.execute("begin")
        ((running,),) = admin.execute("select pg_current_xact_id()::text").fetchall()
        with own.admin() as other:
            other.execute("update flows.escos set name = name where id = %s", (own.esco,))
            ((position,),) = other.execute("select pg_current_wal_flush_lsn()").fetchall()
        with own.admin("replica") as replica:
            caught_up = "select pg_last_wal_replay_lsn() >= %s"
            wait_until(lambda: replica.execute(caught_up, (position,)).fetchone() == (True,))
            ((seen,),) = replica.execute("select (flows.data_state('(,)', null)).seen").fetchall()
            ((visible,),) = replica.execute(
                "select pg_visible_in_snapshot(%s::xid8, %s::pg_snapshot)", (running, seen)
            ).fetchall()
        admin.execute("rollback")
    assert not visible


def test_a_killed_postgrest_fails_no_read(own: Grown, client: httpx.Client) -> None:
    own.kill("rest-1")
    own.kill("rest-replica")
    row = {"esco": str(own.esco), "name": "grown"}
    try:
        assert names(client)
        assert client.post("/rest/v1/sites_new", json=row).status_code == 201
        told = "1 of 2 do not serve: one does not answer"
        wait_until(lambda: ready(client)["components"]["postgrest"]["detail"] == told)
        assert ready(client)["status"] == "ok"
        wait_until(lambda: "flows_postgrest_servers_serving 1.0" in client.get("/metrics").text)
    finally:
        for name in ("rest-1", "rest-replica"):
            own.wait_for(name)
    wait_until(lambda: "flows_postgrest_servers_serving 2.0" in client.get("/metrics").text)


def test_reads_go_on_without_the_replica_through_pgbouncer(
    own: Grown, client: httpx.Client
) -> None:
    if PGBOUNCER is None:
        pytest.skip("pgbouncer is not installed")
    wait_until(lambda: usable(client))
    own.kill("replica")
    told: list[str] = []

    def ask(number: int) -> int:
        path = DOORS[number % 2] if number % 3 else "/v1/latest"
        answer = client.get(path)
        if answer.status_code != 200:
            told.append(f"{path}: {answer.elapsed.total_seconds():.1f} s, {answer.text}")
        return answer.status_code

    try:
        # More at a time than PgBouncer has connections, so that transactions change servers.
        with ThreadPoolExecutor(12) as threads:
            statuses = set(threads.map(ask, range(60)))
        assert statuses == {200}, [*told, *own.last_lines("gateway-1"), *own.last_lines("pooler")]
        with own.admin() as admin:
            ((pooled,),) = admin.execute(
                "select count(*) from pg_stat_activity where usename = 'flows_gateway'"
                " and application_name = 'flows-gateway'"
            ).fetchall()
        assert pooled
    finally:
        own.wait_for("replica")
    wait_until(lambda: usable(client))


def test_reads_go_on_while_the_primary_is_restarted(own: Grown, client: httpx.Client) -> None:
    wait_until(lambda: usable(client))
    own.kill("primary")
    try:
        assert names(client)
        wait_until(lambda: ready(client)["status"] == "degraded")
    finally:
        own.wait_for("primary")
    wait_until(lambda: ready(client)["status"] == "ok")
    wait_until(lambda: client.delete("/rest/v1/sites_new?name=eq.grown").status_code == 204)
