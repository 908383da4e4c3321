"""Real faults: clean refusals while they last, automatic recovery, nothing lost."""

import collections
import concurrent.futures
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from app.embedded.stack import Stack
from app.settings import Settings
from tests.conftest import STACK_SETTINGS, another_gateway, answers, process_of, wait_until
from tests.conftest import Stack as Running
from tests.demo_home import copy_demo_home
from tests.servers import enterable_folder

# One ESCO may take all connections of PostgREST, which has fewer than the gateway is told.
SETTINGS = {
    "FLOWS_POSTGREST_POOL": "100",
    "FLOWS_LIMITS_CONCURRENT": "100", "FLOWS_LIMITS_SUSTAINED": "100",
    "FLOWS_DATABASE_POOL_MAX": "2", "FLOWS_DATABASE_POOL_TIMEOUT": "1", "FLOWS_METRICS": "open",
    "FLOWS_POSTGREST_CONNECTIONS": "12", "FLOWS_POSTGREST_CONNECT_SECONDS": "1",
    "FLOWS_DRAIN_SECONDS": "2", "FLOWS_HTTP_BODY_SECONDS": "1", "FLOWS_HTTP_SEND_SECONDS": "3",
}  # fmt: skip
PERIOD = {"period_from": "2026-01-01T00:00Z", "period_to": "2026-01-02T00:00Z"}
# The views of PERIOD's days, whichever tables an engine keeps them in.
ENERGY = "api.circuit_interval_daily, api.circuit_interval_daily_london"


class Parts:
    """A stack whose parts are not restarted: what dies stays dead until the test starts it."""

    def __init__(self, stack: Stack | None, contract: dict[str, Any]) -> None:
        self._stack = stack
        self.contract = contract

    @property
    def stack(self) -> Stack:
        """The stack, whose parts a test may stop."""
        assert self._stack
        return self._stack

    @property
    def postgrest(self) -> int:
        """The first number of its PostgREST's version."""
        server = httpx.get(self.contract["postgrest_url"]).headers["server"]
        return int(server.removeprefix("postgrest/").partition(".")[0])

    def client(self, kind: str = "read", esco: str = "wlce") -> httpx.Client:
        """Return an HTTP client of the gateway with a token of an ESCO."""
        token = self.contract["escos"][esco][f"{kind}_token"]
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.Client(base_url=self.contract["base_url"], headers=headers, timeout=30)

    @contextmanager
    def locked(self, relations: str) -> Iterator[psycopg.Connection[Any]]:
        """Lock relations, so that all queries of them wait."""
        with psycopg.connect(self.contract["database_url"]) as connection:
            connection.execute(f"lock table {relations} in access exclusive mode")
            yield connection

    def waiting(self, user: str) -> int:
        """Return the number of a login's requests whose queries wait for a lock."""
        with psycopg.connect(self.contract["database_url"]) as connection:
            row = connection.execute(
                # The gateway measures the database now and then, for no request.
                "select count(*) from pg_stat_activity"
                " where wait_event_type = 'Lock' and usename = %s"
                " and query !~ 'gateway.(changes_behind|measure_series)'",
                (user,),
            ).fetchone()
        assert row
        count: int = row[0]
        return count

    def busy(self, user: str) -> list[int]:
        """Return the processes of a login that run a query, except those that follow tokens."""
        with psycopg.connect(self.contract["database_url"]) as connection:
            rows = connection.execute(
                "select pid from pg_stat_activity where state <> 'idle' and usename = %s"
                " and application_name !~ '^flows-gateway .'",
                (user,),
            ).fetchall()
        return [pid for (pid,) in rows]

    def in_flight(self) -> int:
        """Return the number of the gateway's current requests to PostgREST."""
        text = httpx.get(f"{self.contract['base_url']}/metrics").text
        name = "\nflows_postgrest_requests_in_flight "
        return int(float(text.partition(name)[2].split()[0]))


@pytest.fixture(scope="module")
def parts() -> Iterator[Parts]:
    """A separate stack, whose parts tests may stop."""
    with pytest.MonkeyPatch.context() as environment, enterable_folder() as folder:
        for name, value in (SETTINGS | STACK_SETTINGS).items():
            environment.setenv(name, value)
        home = folder / "home"
        copy_demo_home(home)
        stack = Stack(home, host="127.0.0.1", port=0)
        try:
            yield Parts(stack, stack.start(demo=True, settings=Settings()))
        finally:
            stack.stop()


def assert_unavailable(answer: httpx.Response) -> None:
    """Assert that a response is a 503 with Retry-After."""
    assert answer.status_code == 503, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json()["code"] == "unavailable"
    assert "postgres" not in answer.text.lower().replace("postgrest", "")


def test_postgrest_killed_is_a_503_and_comes_back_by_itself(stack: Running) -> None:
    with stack.client("wlce") as client:
        process_of(stack.process.pid, "postgrest.conf").kill()
        refused = wait_until(lambda: (a := client.get("/rest/v1/escos")).status_code != 200 and a)
        assert_unavailable(refused)
        wait_until(lambda: client.get("/rest/v1/escos").status_code == 200)
        assert client.get("/ready").status_code == 200


def test_an_answer_cut_upstream_is_a_broken_transfer(stack: Running) -> None:
    with stack.client("wlce") as client:
        # Compressed, or of narrow rows, all of it would be on its way before the cut: what lies
        # in the buffers of two connections is some 10 MB.
        plain = {"Accept-Encoding": "identity"}
        wide = ",".join(f"{letter * 60}:register_id" for letter in "abc")
        path = f"/rest/v1/register_interval_hh?select=*,{wide}&limit=50000"
        with client.stream("GET", path, headers=plain) as answer:
            assert answer.status_code == 200
            pieces = answer.iter_raw()
            next(pieces)
            process_of(stack.process.pid, "postgrest.conf").kill()
            with pytest.raises(httpx.RemoteProtocolError):
                collections.deque(pieces, maxlen=0)
        wait_until(lambda: client.get("/rest/v1/escos").status_code == 200)


def test_schema_reloads_under_load_give_no_wrong_answer(parts: Parts) -> None:
    done = threading.Event()
    path = "/rest/v1/meter_registry?select=serial,escos(code)&order=serial"

    def read() -> set[tuple[int, bytes]]:
        seen = set()
        with parts.client() as client:
            while not done.is_set():
                answer = client.get(
                    "/rest/v1/meter_registry?select=serial,escos(code)&order=serial"
                )
                seen.add((answer.status_code, answer.content))
        return seen

    with parts.client() as client:
        right = client.get(path).content
    with concurrent.futures.ThreadPoolExecutor() as pool:
        readers = [pool.submit(read) for _ in range(4)]
        with psycopg.connect(parts.contract["database_url"], autocommit=True) as connection:
            for _ in range(20):
                connection.execute("notify pgrst, 'reload schema'")
                time.sleep(0.05)  # a reload takes about as long
        done.set()
        seen = set().union(*(reader.result() for reader in readers))
    assert seen == {(200, right)}


def test_a_dropped_relation_is_a_clean_404(parts: Parts) -> None:
    with psycopg.connect(parts.contract["database_url"], autocommit=True) as connection:
        connection.execute("create view api.short_lived as select 1 as one")
        connection.execute("grant select on api.short_lived to public_backend, flows")
        connection.execute("notify pgrst, 'reload schema'")
        with parts.client() as client:
            wait_until(lambda: client.get("/rest/v1/short_lived").status_code == 200)
            connection.execute("drop view api.short_lived")
            answer = client.get("/rest/v1/short_lived")
        assert answer.status_code == 404
        assert answer.json().keys() == {"code", "message", "details", "hint"}
        connection.execute("notify pgrst, 'reload schema'")


def test_a_database_restart_is_a_503_and_loses_nothing_acknowledged(parts: Parts) -> None:
    esco = parts.contract["escos"]["wlce"]["id"]
    done = threading.Event()
    acknowledged: list[str] = []
    refused: list[httpx.Response] = []

    def write() -> None:
        number = 0
        with parts.client("write") as client:
            while not done.is_set():
                number += 1
                code = f"restart-{number}"
                row = {"esco": esco, "name": "restart", "code": code}
                answer = client.post("/rest/v1/sites_new", json=row)
                if answer.status_code == 201:
                    acknowledged.append(code)
                else:
                    refused.append(answer)

    with concurrent.futures.ThreadPoolExecutor() as pool, parts.client("write") as client:
        writer = pool.submit(write)
        try:
            wait_until(lambda: len(acknowledged) > 20)
            parts.stack.database.stop()
            wait_until(lambda: len(refused) > 5)
            assert_unavailable(client.get("/v1/energy", params=PERIOD))
            assert client.get("/ready").status_code == 503
            assert client.get("/live").status_code == 200
            parts.stack.database.start()
            before = len(acknowledged)
            wait_until(lambda: len(acknowledged) > before + 20)
        finally:
            done.set()
        writer.result()
        for answer in refused:
            assert_unavailable(answer)
        wait_until(lambda: client.get("/v1/energy", params=PERIOD).status_code == 200)
        wait_until(lambda: client.get("/ready").status_code == 200)
        kept = client.get("/rest/v1/sites_new?name=eq.restart&select=code").json()
        assert set(acknowledged) <= {row["code"] for row in kept}
        client.delete("/rest/v1/sites_new?name=eq.restart").raise_for_status()


LISTENING = """
    select exists (
        select from pg_stat_activity where usename = 'authenticator' and query ilike 'listen %'
    )
"""


def test_sessions_that_end_while_idle_cost_no_request(parts: Parts) -> None:
    """As after a restart or a failover of the database, or an operator's pg_terminate_backend."""
    end = "select count(pg_terminate_backend(pid, 5000)) from pg_stat_activity where usename = %s"
    requests = {"flows_gateway": ("/v1/energy", PERIOD), "authenticator": ("/rest/v1/escos", None)}
    with (
        psycopg.connect(parts.contract["database_url"], autocommit=True) as connection,
        concurrent.futures.ThreadPoolExecutor(12) as pool,
        parts.client() as client,
        parts.client(esco="hmce") as another,
    ):
        # PostgREST ends its sessions itself when it connects again after an earlier fault; it
        # listens again after that.
        wait_until(lambda: connection.execute(LISTENING).fetchone() == (True,))
        for user, (path, params) in requests.items():
            with parts.locked(f"{ENERGY}, flows.escos"):
                # The gateway has two, of which one ESCO leaves another one.
                asking = [client, another] if params else [client] * 8
                asked = [pool.submit(each.get, path, params=params) for each in asking]
                wait_until(lambda: parts.waiting(user) == len(asking))  # noqa: B023
            assert {answer.result().status_code for answer in asked} == {200}
            ((ended,),) = connection.execute(end, (user,)).fetchall()
            assert ended >= len(asking)
            asked = [pool.submit(client.get, path, params=params) for _ in range(12)]
            statuses = {answer.result().status_code for answer in asked}
            if user == "authenticator" and parts.postgrest >= 14:
                # Its keys are in the database: it has none until it has connected again, which 14
                # tries after one, three, seven and fifteen seconds.
                assert statuses <= {200, 503}
                wait_until(lambda: client.get("/rest/v1/escos").status_code == 200, seconds=40)
            else:
                assert statuses == {200}
        wait_until(lambda: client.get("/ready").status_code == 200)


def timed(client: httpx.Client, path: str, **params: str) -> tuple[httpx.Response, float]:
    """Send GET; return the response and the seconds it took."""
    started = time.monotonic()
    answer = client.get(path, params=params)
    return answer, time.monotonic() - started


@pytest.mark.quiet
def test_an_exhausted_pool_is_a_503_after_a_bounded_wait(parts: Parts) -> None:
    with concurrent.futures.ThreadPoolExecutor(20) as pool, parts.client() as client:
        with parts.locked("flows.sites_new"):
            stuck = [pool.submit(client.get, "/rest/v1/sites_new") for _ in range(10)]
            wait_until(lambda: parts.waiting("authenticator") == 10)
            # PostgREST's pool is used up: two more requests wait, and the gateway sends no others.
            queued = [pool.submit(timed, client, "/rest/v1/regions") for _ in range(2)]
            wait_until(lambda: parts.in_flight() == 12)
            answer, seconds = timed(client, "/rest/v1/regions")
            assert_unavailable(answer)
            assert seconds < 3
            for waiting in queued:
                answer, seconds = waiting.result()
                assert_unavailable(answer)
                assert seconds < 15
        assert {waiting.result().status_code for waiting in stuck} == {200}
        assert client.get("/rest/v1/regions").status_code == 200
    with (
        concurrent.futures.ThreadPoolExecutor() as pool,
        parts.client() as one,
        parts.client(esco="hmce") as other,
        parts.client(esco="bfce") as client,
    ):
        with parts.locked(ENERGY):
            slow = [pool.submit(each.get, "/v1/energy", params=PERIOD) for each in (one, other)]
            wait_until(lambda: parts.waiting("flows_gateway") == 2)
            answer, seconds = timed(client, "/v1/energy", **PERIOD)
            assert_unavailable(answer)
            assert seconds < 3
        assert {waiting.result().status_code for waiting in slow} == {200}


def test_one_esco_does_not_take_every_connection(stack: Running) -> None:
    turn = 3
    limits = {"FLOWS_LIMITS_CONCURRENT": "3", "FLOWS_LIMITS_TURN_SECONDS": str(turn)}
    with (
        another_gateway(stack, FLOWS_DATABASE_POOL_MAX="5", **limits) as stack,
        concurrent.futures.ThreadPoolExecutor(10) as pool,
        stack.client("wlce") as one,
        stack.client("bfce") as another,
        stack.client("hmce") as other,
    ):
        parts = Parts(None, stack.contract)
        # Another ESCO at each door: the places of one whose requests have run so long rest.
        for path, table, user, greedy in (
            ("/rest/v1/sites_new", "flows.sites_new", "authenticator", one),
            ("/v1/energy", ENERGY, "flows_gateway", another),
        ):
            params = PERIOD if path == "/v1/energy" else None
            with parts.locked(table):
                stuck = [pool.submit(greedy.get, path, params=params) for _ in range(3)]
                wait_until(lambda: parts.waiting(user) == 3)  # noqa: B023
                refusal = pool.submit(timed, greedy, path, **(params or {}))
                # The others are served before that one has waited for its turn in vain …
                assert other.get("/rest/v1/regions").status_code == 200
                assert not refusal.done()
                refused, seconds = refusal.result()
                assert refused.status_code == 429
                assert int(refused.headers["retry-after"]) >= 1
                assert refused.json()["code"] == "rate_limited"
                # … after waiting for a turn, and before the three are done.
                assert seconds >= turn
                assert not [request for request in stuck if request.done()]
                # Of a pool of five, two connections remain for others.
                theirs = pool.submit(other.get, path, params=params)
                wait_until(lambda: parts.waiting(user) == 4)  # noqa: B023
                waiting = pool.submit(greedy.get, path, params=params)
                for _ in range(5):  # while others come and go, it waits at the gateway
                    assert other.get("/rest/v1/regions").status_code == 200
                    assert parts.waiting(user) == 4
            for request in (*stuck, theirs, waiting):
                assert request.result().status_code == 200


def test_a_query_that_takes_too_long_is_ended(parts: Parts) -> None:
    with psycopg.connect(parts.contract["database_url"], autocommit=True) as connection:
        for limit, works in (("1s", False), ("30s", True)):
            connection.execute(f"alter role public_backend set statement_timeout = '{limit}'")
            connection.execute("notify pgrst, 'reload config'")
            with parts.client() as client, parts.locked("flows.regions"):
                wait_until(lambda: asks_in_vain(client) != works)  # noqa: B023


def asks_in_vain(client: httpx.Client) -> bool:
    """Return whether the database ends a waiting query within two seconds."""
    try:
        answer = client.get("/rest/v1/regions", timeout=2)
    except httpx.ReadTimeout:
        return False
    assert (answer.status_code, answer.json()["code"]) == (504, "57014")
    return True


def test_a_deadlock_is_a_503_to_be_repeated(parts: Parts) -> None:
    """Real 40001 may be tried again by PostgREST itself, 40P01 is by 14 alone."""
    if parts.postgrest == 14:
        pytest.skip("PostgREST 14 tries until there is no deadlock, which here is always")
    with psycopg.connect(parts.contract["database_url"], autocommit=True) as connection:
        connection.execute(
            "create function api.collides() returns int language plpgsql as $$ begin"
            " raise sqlstate '40P01'; end $$"
        )
        connection.execute("grant execute on function api.collides() to public_backend")
        connection.execute("notify pgrst, 'reload schema'")
        try:
            with parts.client() as client:
                path = "/rest/v1/rpc/collides"
                answer = wait_until(lambda: (a := client.post(path)).status_code != 404 and a)
                assert_unavailable(answer)
                assert "send it again" in answer.json()["detail"]
        finally:
            connection.execute("drop function api.collides()")
            connection.execute("notify pgrst, 'reload schema'")


def postgrest_component(client: httpx.Client) -> tuple[int, str]:
    """Return the status of /ready, and PostgREST's in it."""
    answer = client.get("/ready")
    return answer.status_code, answer.json()["components"]["postgrest"]["status"]


def test_ready_knows_whether_postgrest_can_log_in(parts: Parts) -> None:
    with (
        psycopg.connect(parts.contract["database_url"], autocommit=True) as connection,
        parts.client() as client,
    ):
        assert postgrest_component(client) == (200, "ok")
        connection.execute("alter role authenticator nologin")
        try:
            connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where usename = 'authenticator'"
            )
            wait_until(lambda: postgrest_component(client) == (503, "down"))
            assert_unavailable(client.get("/rest/v1/escos"))
        finally:
            connection.execute("alter role authenticator login")
        wait_until(lambda: postgrest_component(client) == (200, "ok"))
        wait_until(lambda: client.get("/rest/v1/escos").status_code == 200)


SLOW = "create or replace function api.nap(seconds float) returns setof int language plpgsql as"
SLEEPS = " $$ begin perform pg_catalog.pg_sleep(seconds); return next 1; end $$"


@pytest.fixture(scope="module")
def nap(parts: Parts) -> Iterator[None]:
    """A function whose call takes a given time, and a site that takes long to change."""
    with psycopg.connect(parts.contract["database_url"], autocommit=True) as connection:
        connection.execute(SLOW + SLEEPS)
        connection.execute("grant execute on function api.nap(float) to flows, public_backend")
        connection.execute("notify pgrst, 'reload schema'")
        with parts.client() as client:
            wait_until(lambda: client.get("/rest/v1/rpc/nap?seconds=0").status_code == 200)
        yield
        connection.execute("drop function api.nap(float)")
        connection.execute("notify pgrst, 'reload schema'")


LEAVERS = {
    "a function that sleeps": ("GET", "/rest/v1/rpc/nap?seconds=25", None),
    # The client leaves after its body, and after the time allowed for a body.
    "a function with a body": ("POST", "/rest/v1/rpc/nap", {"seconds": 25}),
    "a write that waits": ("PATCH", "/rest/v1/sites_new?code=eq.none", {"name": "x"}),
    "a read that waits": ("GET", "/rest/v1/sites_new", None),
    "energy": ("GET", "/v1/energy", None),
}


@pytest.mark.usefixtures("nap")
@pytest.mark.parametrize("kind", LEAVERS)
def test_when_the_client_leaves_its_query_ends(parts: Parts, kind: str) -> None:
    method, path, body = LEAVERS[kind]
    user = "flows_gateway" if path.startswith("/v1") else "authenticator"
    params = PERIOD if user == "flows_gateway" else None
    lock = parts.locked(ENERGY if user == "flows_gateway" else "flows.sites_new")
    with lock if "nap" not in path else nullcontext():
        with parts.client("write") as client, pytest.raises(httpx.ReadTimeout):
            client.request(method, path, params=params, json=body, timeout=1.5)
        wait_until(lambda: not parts.busy(user), seconds=10)
        wait_until(lambda: parts.in_flight() == 0, seconds=10)
    with parts.client() as client:  # connections are free again, and no other query was cancelled
        for _ in range(12):
            assert client.get("/rest/v1/escos").status_code == 200
            assert client.get("/v1/energy", params=PERIOD).status_code == 200


@pytest.mark.parametrize("leaves", [True, False])
def test_energy_that_is_not_read_on_holds_no_connection(parts: Parts, leaves: bool) -> None:
    first = datetime.now(UTC).replace(microsecond=0) - timedelta(days=31)
    last = first + timedelta(days=30)
    wanted = {"period_from": first.isoformat(), "period_to": last.isoformat(),
              "granularity": "PT30M", "group_by": "circuit", "format": "csv"}  # fmt: skip
    # The response is larger than the buffers between both ends.
    small = httpx.HTTPTransport(socket_options=[(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)])
    url = f"{parts.contract['base_url']}/v1/energy"
    with (
        httpx.Client(transport=small, headers=parts.client().headers) as client,
        client.stream("GET", url, params=wanted) as answer,
    ):
        assert answer.status_code == 200
        # Rows are read before the first of them is sent, a hundred thousand at a time.
        if not leaves:
            wait_until(lambda: not parts.busy("flows_gateway"), seconds=5)
    wait_until(lambda: not parts.busy("flows_gateway"), seconds=10)


@pytest.mark.usefixtures("nap")
def test_a_query_whose_client_left_before_it_began_does_not_stay(parts: Parts) -> None:
    def leave(path: str, seconds: float) -> None:
        with parts.client() as client, pytest.raises(httpx.ReadTimeout):
            client.get(path, timeout=seconds)

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        napping = [pool.submit(leave, "/rest/v1/rpc/nap?seconds=25", 8) for _ in range(10)]
        wait_until(lambda: len(parts.busy("authenticator")) == 10)
        # PostgREST has no connections for these until the others leave.
        queued = [pool.submit(leave, "/rest/v1/rpc/nap?seconds=24", 0.5) for _ in range(2)]
        for left in (*queued, *napping):
            left.result()
    wait_until(lambda: not parts.busy("authenticator"), seconds=10)


@pytest.mark.usefixtures("nap")
def test_only_the_query_of_the_client_that_left_ends(parts: Parts) -> None:
    with concurrent.futures.ThreadPoolExecutor() as pool, parts.client() as client:
        staying = [pool.submit(client.get, "/rest/v1/rpc/nap?seconds=4") for _ in range(3)]
        wait_until(lambda: len(parts.busy("authenticator")) == 3)
        with parts.client() as leaver, pytest.raises(httpx.ReadTimeout):
            leaver.get("/rest/v1/rpc/nap?seconds=25", timeout=0.5)
        wait_until(lambda: len(parts.busy("authenticator")) == 3, seconds=10)
        assert {answer.result().status_code for answer in staying} == {200}


@pytest.mark.usefixtures("nap")
def test_a_query_that_an_operator_cancels_is_a_503(parts: Parts) -> None:
    with (
        concurrent.futures.ThreadPoolExecutor() as pool,
        parts.client() as client,
        psycopg.connect(parts.contract["database_url"]) as connection,
    ):
        cancelled = pool.submit(client.get, "/rest/v1/rpc/nap?seconds=25")
        [pid] = wait_until(lambda: parts.busy("authenticator"))
        connection.execute("select pg_cancel_backend(%s)", (pid,))
        assert_unavailable(cancelled.result())


def test_the_gateway_cancels_nothing_but_named_queries_of_callers(parts: Parts) -> None:
    name, own = "0123456789abcdef" * 2, "select gateway.cancel_queries(%s)"
    with psycopg.connect(parts.contract["database_url"], autocommit=True) as connection:
        idle = parts.busy("authenticator")
        assert idle == []
        connection.execute("set application_name to '" + name + "'")  # a session of another login
        assert connection.execute(own, ([name, "PostgREST 12.0.2", ""],)).fetchone() == ([],)
        for role in ("flows", "public_backend", "grafanareader", "authenticator"):
            may = "select has_function_privilege(%s, 'gateway.cancel_queries(text[])', 'execute')"
            assert connection.execute(may, (role,)).fetchone() == (False,)


def test_sigterm_drains(parts: Parts) -> None:
    base_url = parts.contract["base_url"]
    gateway = process_of(os.getpid(), "app.cli serve", parts.stack.home)
    with concurrent.futures.ThreadPoolExecutor() as pool, parts.client() as client:
        with parts.locked("flows.sites_new"):
            last = pool.submit(client.get, "/rest/v1/sites_new")
            wait_until(lambda: parts.waiting("authenticator") == 1)
            gateway.send_signal(signal.SIGTERM)
            wait_until(lambda: answers(f"{base_url}/ready", 503))
            assert client.get("/rest/v1/escos").status_code == 200  # not shut yet
            wait_until(lambda: not answers(f"{base_url}/live"))
            assert gateway.is_running()
        assert last.result().status_code == 200
    assert gateway.wait(timeout=20) in (0, None)


def test_the_log_of_faults_has_no_secret(parts: Parts) -> None:
    log = (Path(parts.stack.home) / "logs" / "gateway.log").read_text()
    assert parts.contract["escos"]["wlce"]["read_token"] not in log
    assert parts.contract["database_url"] not in log
