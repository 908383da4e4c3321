"""An ESCO's share holds for whole transfers, slow ones end, and nothing else waits for them."""

import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest

from tests.auth.test_clients import ask
from tests.conftest import Stack, another_gateway, wait_until
from tests.homes import TODAY, add_resident, home_of, token_of

LARGE = "/rest/v1/register_interval_hh?limit=50000"
SMALL = "/rest/v1/escos?select=code"
SITES = "/rest/v1/sites_new"
RATE = 16 * 1024
STRICT = {
    "FLOWS_LIMITS_CONCURRENT": "2", "FLOWS_LIMITS_WAITING": "1", "FLOWS_LIMITS_TURN_SECONDS": "1",
    "FLOWS_LIMITS_REFUSAL_SECONDS": "0", "FLOWS_DATABASE_POOL_MAX": "2",
}  # fmt: skip


@pytest.fixture(scope="module")
def own(stack: Stack) -> Iterator[Stack]:
    """A gateway with two places for each ESCO and one that waits."""
    with another_gateway(stack, **STRICT) as own:
        yield own


@contextmanager
def request(
    stack: Stack, target: str, *lines: str, method: str = "GET", esco: str = "wlce"
) -> Iterator[socket.socket]:
    """Begin a request of an ESCO; its response is read by nobody and hardly buffered."""
    url = urlsplit(stack.contract["base_url"])
    token = stack.contract["escos"][esco]["write_token"]
    head = [f"{method} {target} HTTP/1.1", "Host: gateway", f"Authorization: Bearer {token}"]
    with socket.socket() as bare:
        bare.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        bare.settimeout(20)
        bare.connect((url.hostname, url.port))
        bare.sendall("\r\n".join([*head, *lines, "", ""]).encode())
        yield bare


def upload(stack: Stack) -> ExitStack:
    """Begin two uploads that do not end."""
    held = ExitStack()
    for _ in range(2):
        bare = held.enter_context(request(stack, SITES, "Content-Length: 9", method="POST"))
        bare.sendall(b"[")
    return held


def download(stack: Stack) -> ExitStack:
    """Begin two downloads that nobody reads on."""
    held = ExitStack()
    for _ in range(2):
        bare = held.enter_context(request(stack, LARGE))
        assert bare.recv(12) == b"HTTP/1.1 200"
    return held


@pytest.mark.quiet
@pytest.mark.parametrize("begin", [upload, download])
def test_56_a_share_holds_for_whole_transfers(
    own: Stack, begin: Callable[[Stack], ExitStack]
) -> None:
    with own.client("wlce") as client, own.client("hmce") as other, begin(own):
        wait_until(lambda: client.get(SMALL).status_code == 429)
        for path in (SMALL, "/v1/latest", "/admin/clients"):
            refused = client.get(path)
            assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
            assert int(refused.headers["retry-after"]) >= 1
        assert other.get(SMALL).status_code == 200
        assert other.get("/v1/latest").status_code == 200
    with own.client("wlce") as client:
        wait_until(lambda: client.get(SMALL).status_code == 200)


@pytest.mark.quiet
def test_56_those_who_wait_are_counted_too(own: Stack) -> None:
    with own.client("wlce") as client, upload(own):
        wait_until(lambda: client.get(SMALL).status_code == 429)
        with request(own, SMALL) as waits:
            time.sleep(0.2)
            started = time.monotonic()
            assert client.get(SMALL).status_code == 429
            assert time.monotonic() - started < 0.5  # at once, without a second in the queue
            assert waits.recv(12) == b"HTTP/1.1 429"


def test_56_tokens_and_readiness_have_connections_of_their_own(own: Stack) -> None:
    victim = own.contract["escos"]["hmce"]
    with psycopg.connect(own.contract["database_url"]) as admin, ExitStack() as held:
        admin.execute("lock table flows.meter_shadows in access exclusive mode")
        # One each, since none takes the last connection beside another of its own.
        for esco in ("wlce", "bfce"):
            held.enter_context(request(own, "/v1/latest", esco=esco))
        with own.client("hmce") as client:
            wait_until(lambda: client.get("/v1/latest").status_code == 503)
        assert ask(own, victim["client_id"], victim["client_secret"]).status_code == 200
        assert httpx.get(own.contract["base_url"] + "/ready").status_code == 200
        admin.rollback()


def assert_another_is_served(stack: Stack, tokens: list[str], seconds: float) -> None:
    """Assert that an ESCO without requests gets answers at once, beside requests that all wait.

    Each of the tokens sends one; after `seconds` they hold what they get.
    """
    with (
        psycopg.connect(stack.contract["database_url"]) as admin,
        ThreadPoolExecutor(len(tokens)) as callers,
    ):
        admin.execute("lock table flows.meter_shadows in access exclusive mode")
        for token in tokens:
            callers.submit(
                httpx.get,
                f"{stack.contract['rest_url']}/meter_shadows",
                headers={"Authorization": f"Bearer {token}"},
                timeout=40,
            )
        time.sleep(seconds)
        with stack.client("hmce") as other:
            for _ in range(5):
                answer = other.get(SMALL)
                assert (answer.status_code, answer.elapsed.total_seconds() < 1) == (200, True)
        admin.rollback()


def test_82_an_esco_and_its_residents_leave_connections_to_others(stack: Stack) -> None:
    database_url, moved_in = stack.contract["database_url"], TODAY - timedelta(days=9)
    with psycopg.connect(database_url) as admin:
        residents = [
            add_resident(admin, number, [(home_of(admin, plot), (moved_in, None))])
            for number, plot in ((0x821, "1"), (0x822, "2"))
        ]
    program = stack.contract["escos"]["wlce"]["read_token"]
    tokens = [program] * 6 + [token_of(stack, resident) for resident in residents] * 3
    try:
        # Those beyond their turn have got a 429 by then, or all connections.
        assert_another_is_served(stack, tokens, seconds=4)
    finally:
        with psycopg.connect(database_url) as admin:
            members = [resident.member for resident in residents]
            admin.execute("delete from gateway.residence where member = any(%s)", (members,))
            admin.execute("delete from gateway.member where id = any(%s)", (members,))


def test_84_two_escos_together_leave_connections_to_others(stack: Stack) -> None:
    tokens = [stack.contract["escos"][esco]["read_token"] for esco in ("wlce", "bfce")]
    assert_another_is_served(stack, tokens * 6, seconds=1)


@pytest.fixture(scope="module")
def timed(stack: Stack) -> Iterator[Stack]:
    """A gateway that measures rates over half a second."""
    with another_gateway(stack, FLOWS_HTTP_RATE_SECONDS="0.5") as timed:
        yield timed


def read_for(bare: socket.socket, rate: int, seconds: float) -> bool:
    """Read a response at `rate` bytes a second; return whether it is still being sent."""
    bare.settimeout(0.5)
    started, read = time.monotonic(), 0
    with suppress(ConnectionError):
        while time.monotonic() - started < seconds:
            wanted = int(rate * (time.monotonic() - started)) - read
            if wanted <= 0:
                time.sleep(0.05)
                continue
            with suppress(TimeoutError):
                piece = bare.recv(wanted)
                if not piece:
                    return False
                read += len(piece)
        return True
    return False


@pytest.mark.quiet
@pytest.mark.stack
def test_56_a_reader_below_the_least_rate_is_cut_off(timed: Stack) -> None:
    with request(timed, LARGE) as slow:
        assert not read_for(slow, RATE // 8, 20)
    with request(timed, LARGE) as steady:
        assert read_for(steady, RATE * 6, 4)


def write_for(bare: socket.socket, rate: int, seconds: float) -> bool:
    """Send spaces at `rate` bytes a second, in chunks; return whether no response came."""
    bare.settimeout(0.05)
    started = time.monotonic()
    while time.monotonic() - started < seconds:
        piece = b" " * (rate // 10)
        bare.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
        time.sleep(0.05)
        with suppress(TimeoutError):
            return not bare.recv(12).startswith(b"HTTP/1.1 408")
    return True


@pytest.mark.quiet
@pytest.mark.stack
def test_56_a_writer_below_the_least_rate_is_cut_off(timed: Stack) -> None:
    chunked = ("Transfer-Encoding: chunked", "Content-Type: application/json")
    with request(timed, SITES, *chunked, method="POST") as slow:
        assert not write_for(slow, RATE // 4, 10)
    with request(timed, SITES, *chunked, method="POST") as steady:
        assert write_for(steady, RATE * 4, 3)
        steady.sendall(b"2\r\n[]\r\n0\r\n\r\n")
        steady.settimeout(10)
        assert steady.recv(12) == b"HTTP/1.1 201"
