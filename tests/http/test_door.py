"""Malformed, oversized and unauthenticated requests are refused by name, on raw sockets."""

import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from urllib.parse import urlencode, urlsplit

import httpx
import psutil
import psycopg
import pytest

from app.auth.tokens import Grant
from app.http.protocol import (
    HALF_CLOSED_SECONDS,
    KEPT_DESCRIPTORS,
    LINGER_BYTES,
    LINGER_SECONDS,
)
from tests.conftest import Stack, another_gateway, wait_until

REST, READS, LIVE, ADMIN, TOKEN = (
    "/rest/v1/escos?select=code", "/v1/latest", "/live", "/admin/clients", "/auth/token",
)  # fmt: skip
TARGETS = (REST, READS, LIVE, ADMIN, TOKEN)
ROWS_STREAM = "/rest/v1/register_interval_hh?limit=50000&order=register_id,timestamp"
ENERGY_STREAM = "/v1/energy?granularity=PT30M&group_by=register&format=csv&"
FORM = "Content-Type: application/x-www-form-urlencoded"
MEGABYTE = 2**20
# The systems at both ends hold up to 36 MB that a busy gateway has not read yet.
BEYOND_BUFFERS = 48 * MEGABYTE


@pytest.fixture(scope="module")
def own(stack: Stack) -> Iterator[Stack]:
    """A gateway behind a trusted proxy, with small bodies."""
    settings = {
        "FLOWS_TRUSTED_PROXIES": "127.0.0.1",
        "FLOWS_HTTP_MAX_BODY_BYTES": str(2 * MEGABYTE),
        "FLOWS_CORS_ORIGINS": "https://app.example.org",
    }
    with another_gateway(stack, **settings) as own:
        yield own


@contextmanager
def connection(stack: Stack) -> Iterator[socket.socket]:
    """A TCP connection to the gateway."""
    url = urlsplit(stack.contract["base_url"])
    with socket.create_connection((url.hostname, url.port), timeout=20) as bare:
        yield bare


def lines(stack: Stack, *given: str, target: str = REST, method: str = "GET",
          version: str = "HTTP/1.1", host: str | None = "gateway",
          token: bool = True) -> bytes:  # fmt: skip
    """Return a request head, with the write token of wlce unless it is left out."""
    head = [f"{method} {target} {version}".rstrip()]
    head += [f"Host: {host}"] if host is not None else []
    if token:
        head.append(f"Authorization: Bearer {stack.contract['escos']['wlce']['write_token']}")
    return "\r\n".join([*head, *given, "", ""]).encode("latin-1")


def pieces(chunked: bytes) -> Iterator[bytes]:
    """Yield the chunks of a body (RFC 9112 §7.1)."""
    while chunked:
        size, _, rest = chunked.partition(b"\r\n")
        yield rest[: int(size, 16)]
        chunked = rest[int(size, 16) + 2 :]


def exchange(stack: Stack, raw: bytes) -> tuple[int, bytes, bool]:
    """Send raw bytes; return status, everything received, and whether the gateway then closed."""
    received, closed = b"", True
    with connection(stack) as bare:
        with suppress(ConnectionError):
            bare.sendall(raw)
        bare.settimeout(1)
        try:
            while piece := bare.recv(65536):
                received += piece
        except TimeoutError:
            closed = False
        except ConnectionResetError:
            pass
    status = re.match(rb"HTTP/1\.1 (\d+)", received)
    return int(status[1]) if status else 0, received, closed


def rss(stack: Stack) -> int:
    """Return the resident memory of the gateway's process in bytes."""
    memory: int = psutil.Process(stack.process.pid).memory_info().rss
    return memory


# ── 55: nothing of a body before the token ──


class Flood(threading.Thread):
    """Sends a body of `[{},{},…` in the background until it is refused or complete."""

    def __init__(self, stack: Stack, head: bytes, size: int, *, chunked: bool) -> None:
        super().__init__()
        url = urlsplit(stack.contract["base_url"])
        self.bare = socket.create_connection((url.hostname, url.port), timeout=20)
        self.began = time.monotonic()
        self.bare.sendall(head)
        self.size, self.chunked, self.sent = size, chunked, 0

    def run(self) -> None:
        piece = b"{}," * (65536 // 3)
        framed = b"%x\r\n%b\r\n" % (len(piece), piece) if self.chunked else piece
        with suppress(OSError):
            while self.sent < self.size:
                self.bare.sendall(framed)
                self.sent += len(piece)

    def status(self) -> tuple[int, float]:
        """Return the status of the response, and the seconds until it came."""
        with http.client.HTTPResponse(self.bare) as answer:
            answer.begin()
            return answer.status, time.monotonic() - self.began


def test_55_connections_that_ask_for_nothing_make_room(own: Stack) -> None:
    """More of them than the gateway has descriptors; it drops those that waited longest."""
    gateway = psutil.Process(own.process.pid)
    before = gateway.rlimit(psutil.RLIMIT_NOFILE)
    gateway.rlimit(psutil.RLIMIT_NOFILE, (KEPT_DESCRIPTORS + 100, before[1]))
    try:
        with ExitStack() as held, own.client("wlce") as steady:
            assert steady.get(REST).status_code == 200
            idle = [held.enter_context(connection(own)) for _ in range(400)]
            for bare in idle:
                with suppress(ConnectionError):
                    bare.sendall(b"GET / HTTP/1.1\r\nA: ")
            for _ in range(10):
                with own.client("hmce") as client:
                    assert client.get(REST).status_code == 200
            assert gateway.num_fds() < KEPT_DESCRIPTORS + 100
            with suppress(ConnectionError):  # sending may have met it before
                assert idle[0].recv(1) == b""
    finally:
        gateway.rlimit(psutil.RLIMIT_NOFILE, before)


@pytest.mark.quiet
@pytest.mark.parametrize("target", [ADMIN, "/rest/v1/sites_new", "/v1/energy"])
@pytest.mark.parametrize("framing", ["length", "chunks"])
@pytest.mark.parametrize("authorization", [[], ["Authorization: Bearer x.y.z"]])
def test_55_a_stranger_is_refused_before_the_body_is_read(
    own: Stack, target: str, framing: str, authorization: list[str]
) -> None:
    size = 2 * BEYOND_BUFFERS
    framed = "Transfer-Encoding: chunked" if framing == "chunks" else f"Content-Length: {size}"
    head = lines(own, "Content-Type: application/json", framed, *authorization,
                 target=target, method="POST", token=False)  # fmt: skip
    before = rss(own)
    floods = [Flood(own, head, size, chunked=framing == "chunks") for _ in range(3)]
    for flood in floods:
        flood.start()
    try:
        for flood in floods:
            status, seconds = flood.status()
            assert status == 401
            assert seconds < 2
        assert httpx.get(own.contract["base_url"] + LIVE, timeout=1).status_code == 200
    finally:
        for flood in floods:
            flood.join()
            flood.bare.close()
    # The rest of a refused body is not taken either, as each system's buffers show.
    assert max(flood.sent for flood in floods) < BEYOND_BUFFERS
    assert rss(own) - before < 16 * MEGABYTE


@pytest.mark.parametrize("target", [ADMIN, TOKEN, LIVE, READS])
@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_55_bodies_of_other_routes_than_data_are_small(
    own: Stack, target: str, framing: str
) -> None:
    size = 65 * 1024
    token = [] if target == TOKEN else [f"Authorization: Bearer {admin_token(own)}"]
    if framing == "length":
        raw = lines(own, FORM, f"Content-Length: {size}", *token,
                    target=target, method="POST", token=False)  # fmt: skip
        status, _, closed = exchange(own, raw)
        assert (status, closed) == (413, True)
        return
    raw = lines(own, FORM if target == TOKEN else "Content-Type: application/json",
                "Transfer-Encoding: chunked", *token,
                target=target, method="POST", token=False)  # fmt: skip
    raw += (b"1000\r\n" + b"[" * 0x1000 + b"\r\n") * 17
    status, _, closed = exchange(own, raw)
    # Routes without a body answer for themselves, and the form has a lower limit of its own.
    assert status in {ADMIN: (413,), TOKEN: (400, 413), LIVE: (405,), READS: (405,)}[target]
    assert closed or target in (LIVE, READS)


def admin_token(stack: Stack) -> str:
    """Return a token with the scope admin."""
    esco = stack.contract["escos"]["wlce"]["id"]
    grant = Grant("flc_door", "flows", esco, "wlce", ("read", "write", "admin"))
    return stack.issue(grant)


def test_55_a_body_that_goes_on_after_its_answer_ends_the_connection(own: Stack) -> None:
    head = lines(own, "Transfer-Encoding: chunked", target=LIVE, token=False)
    flood = Flood(own, head, 2 * BEYOND_BUFFERS, chunked=True)
    flood.start()
    assert flood.status()[0] == 200
    flood.join()
    flood.bare.close()
    assert flood.sent < BEYOND_BUFFERS


# ── heads of any size ──


def answer_to_all(stack: Stack, raw: bytes) -> tuple[bytes, float]:
    """Send raw bytes as a client that reads only then; return the answer and its seconds.

    ConnectionError if the gateway resets the connection before all of it is read.
    """
    with connection(stack) as bare:
        began = time.monotonic()
        bare.sendall(raw)
        with bare.makefile("rb") as file:
            return file.read(), time.monotonic() - began


@pytest.mark.parametrize("size", [20_000, 50_000, 300_000, 5_000_000])
@pytest.mark.parametrize("target", TARGETS)
def test_a_url_of_any_size_is_answered(own: Stack, target: str, size: int) -> None:
    long = f"{target}{'&' if '?' in target else '?'}{'x' * size}"
    received, seconds = answer_to_all(own, lines(own, target=long))
    check_refusal(received, 414, "url_too_long")
    assert seconds < LINGER_SECONDS


@pytest.mark.parametrize("size", [40_000, 50_000, 300_000, 5_000_000])
@pytest.mark.parametrize("count", [1, 1000])
def test_headers_of_any_size_are_answered(own: Stack, count: int, size: int) -> None:
    headers = [f"X-Long-{number}: {'x' * (size // count)}" for number in range(count)]
    received, seconds = answer_to_all(own, lines(own, *headers))
    check_refusal(received, 431, "headers_too_large")
    assert seconds < LINGER_SECONDS


def check_refusal(received: bytes, status: int, code: str) -> None:
    """Check that an answer is one problem of this status and code, and closes the connection."""
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"connection: close" in head.lower().splitlines()
    assert b"content-type: application/problem+json" in head.lower().splitlines()
    told = json.loads(body)
    assert (told["status"], told["code"]) == (status, code)
    assert f"x-request-id: {told['request_id']}".encode() in head.lower().splitlines()


def test_a_head_without_end_is_cut_off(own: Stack) -> None:
    endless = b"GET /live HTTP/1.1\r\nX: " + b"x" * (LINGER_BYTES + BEYOND_BUFFERS)
    with connection(own) as bare, pytest.raises(ConnectionError):
        bare.sendall(endless)


# ── 63, 64, 73, 74, 76: what HTTP forbids ──


def test_63_trailers_are_no_headers(own: Stack) -> None:
    token = own.contract["escos"]["wlce"]["write_token"]
    chunked = ("Transfer-Encoding: chunked", "Trailer: Authorization, X-Forwarded-For")
    for target in ("/rest/v1/sites_new", ADMIN):
        raw = lines(own, *chunked, target=target, method="POST", token=False)
        raw += f"2\r\n{{}}\r\n0\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
        assert exchange(own, raw)[0] == 401
    form = b"grant_type=client_credentials&client_id=flc_trailer&client_secret=x"
    raw = lines(own, FORM, *chunked, target=TOKEN, method="POST", token=False)
    raw += b"%x\r\n%b\r\n0\r\nX-Forwarded-For: 198.51.100.63\r\n" % (len(form), form)
    raw += b"Authorization: Basic eDp5\r\n\r\n"
    assert exchange(own, raw)[0] == 401
    with psycopg.connect(own.contract["database_url"]) as admin:
        rows = admin.execute("select address from gateway.audit where actor = 'flc_trailer'")
        assert rows.fetchall() == [("127.0.0.1",)]


def test_64_a_fragment_drops_no_filter(own: Stack) -> None:
    esco = own.contract["escos"]["wlce"]["id"]
    with own.client("wlce", "write") as client:
        for name in ("fragment-1", "fragment-2"):
            made = client.post("/rest/v1/sites_new", json={"name": name, "esco": esco})
            assert made.status_code == 201, made.text
        target = "/rest/v1/sites_new?name=like.fragment-*#&name=eq.fragment-1"
        for method in ("DELETE", "PATCH", "GET"):
            status, received, closed = exchange(own, lines(own, target=target, method=method))
            assert (status, closed) == (400, True), received
        left = client.get("/rest/v1/sites_new?name=like.fragment-*").json()
        assert len(left) == 2
        assert client.delete("/rest/v1/sites_new?name=like.fragment-*").status_code == 204
    for target in ("/v1/latest#x", "/live#", "/#/live", "/admin/clients#"):
        assert exchange(own, lines(own, target=target))[0] == 400


HOSTS = {
    "missing": [], "empty": [""], "doubled": ["gateway", "gateway"], "two": ["gateway", "evil"],
    "with a path": ["gateway/x"], "with a user": ["user@gateway"], "with a space": ["a b"],
    "a bad port": ["gateway:x"], "a long port": ["gateway:123456"], "half a bracket": ["[::1"],
    "a comma": ["a,b"], "beyond ASCII": ["g\xe4teway"], "a quote": ['a"b'],
}  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("how", HOSTS)
def test_73_one_host_that_can_be_one_is_needed(own: Stack, how: str, target: str) -> None:
    hosts = [f"Host: {host}" for host in HOSTS[how]]
    status, received, closed = exchange(own, lines(own, *hosts, target=target, host=None))
    assert (status, closed) == (400, True), received
    preflight = ["Origin: https://app.example.org", "Access-Control-Request-Method: GET"]
    raw = lines(own, *hosts, *preflight, target=target, host=None, method="OPTIONS")
    assert exchange(own, raw)[0] == 400


@pytest.mark.parametrize("host", ["gateway", "127.0.0.1:8000", "[::1]:80", "[fe80::1]", "a_b.c-d"])
def test_73_a_host_that_can_be_one_changes_nothing(own: Stack, host: str) -> None:
    assert exchange(own, lines(own, "Connection: close", host=host))[0] == 200


def test_73_http_1_0_needs_no_host(own: Stack) -> None:
    assert exchange(own, lines(own, version="HTTP/1.0", host=None))[0] == 200


CODINGS = {
    "gzip, chunked": ["Transfer-Encoding: gzip, chunked"],
    "two lines": ["Transfer-Encoding: gzip", "Transfer-Encoding: chunked"],
    "deflate,chunked": ["Transfer-Encoding: deflate,chunked"],
    "chunked twice": ["Transfer-Encoding: chunked, chunked"],
    "chunked in two lines": ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("how", CODINGS)
def test_74_only_chunked_bodies_are_taken(own: Stack, how: str, target: str) -> None:
    raw = lines(own, *CODINGS[how], target=target, method="POST") + b"0\r\n\r\n"
    status, received, closed = exchange(own, raw)
    # The parser itself refuses some of them, as ambiguous.
    assert status in ((400, 501) if "two" in how or "twice" in how else (501,)), received
    assert closed


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("version", ["HTTP/2.0", "HTTP/0.9", "HTTP/3.0", "HTTP/1.2", "HTTP/9", ""])
def test_74_another_version_of_http_is_refused(own: Stack, version: str, target: str) -> None:
    status, received, closed = exchange(own, lines(own, version=version, target=target))
    assert status in (400, 505), received
    assert (status == 505) == (version in ("HTTP/2.0", "HTTP/0.9", "")), received
    assert closed


def test_74_the_preface_of_http_2_is_refused(own: Stack) -> None:
    status, received, closed = exchange(own, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert status in (400, 505), received
    assert closed


@pytest.mark.parametrize("target", ["/rest/v1/sites_new", ADMIN, TOKEN])
def test_76_extensions_of_chunks_count_as_body(own: Stack, target: str) -> None:
    token = [] if target == TOKEN else [f"Authorization: Bearer {admin_token(own)}"]
    head = lines(own, "Content-Type: application/json" if token else FORM,
                 "Transfer-Encoding: chunked", *token,
                 target=target, method="POST", token=False)  # fmt: skip
    for endless in (b"1;" + b"x" * 8190, b"1;y\r\na\r\n"):
        sent, piece = 0, endless if b"\r\n" in endless else b"x" * 8192
        with connection(own) as bare:
            bare.sendall(head + (b"" if b"\r\n" in endless else b"1;"))
            bare.settimeout(10)
            with suppress(ConnectionError):
                while sent < BEYOND_BUFFERS:
                    bare.sendall(piece * (65536 // len(piece)))
                    sent += 65536
            with http.client.HTTPResponse(bare) as answer:
                answer.begin()
                assert answer.status in ((413, 400) if target == TOKEN else (413,))
        assert sent < BEYOND_BUFFERS


@pytest.mark.parametrize("target", ["/rest/v1/sites_new", ADMIN])
def test_76_a_body_has_more_in_its_chunks_than_around_them(own: Stack, target: str) -> None:
    """Extensions end a request long before the greatest size of a body; small chunks do not."""
    head = lines(own, "Content-Type: application/json", "Transfer-Encoding: chunked",
                 f"Authorization: Bearer {admin_token(own)}", target=target, method="POST",
                 token=False)  # fmt: skip
    status, _, closed = exchange(own, head + b"1;" + b"x" * 200_000)
    assert (status, closed) == (413, True)
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in b"[" + b" " * 5_000 + b"]")
    status, said, _ = exchange(own, head + chunks + b"0\r\n\r\n")
    assert status in (201, 403, 422), said


# ── 77: half-closed connections ──


@pytest.mark.parametrize("target", [REST, READS, LIVE])
@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
def test_77_a_client_that_has_finished_sending_gets_its_answer(
    own: Stack, target: str, version: str
) -> None:
    with connection(own) as bare:
        bare.sendall(lines(own, target=target, version=version))
        bare.shutdown(socket.SHUT_WR)
        with bare.makefile("rb") as answer:
            received = answer.read()
    assert received.startswith(b"HTTP/1.1 200")
    assert received.count(b"HTTP/1.1 ") == 1


def test_77_every_pipelined_request_is_answered_first(own: Stack) -> None:
    with connection(own) as bare:
        bare.sendall(lines(own) + lines(own, target=LIVE) + lines(own))
        bare.shutdown(socket.SHUT_WR)
        with bare.makefile("rb") as answer:
            assert answer.read().count(b"HTTP/1.1 200") == 3


@pytest.mark.parametrize("target", [ROWS_STREAM, ENERGY_STREAM])
@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
def test_77_a_client_that_finishes_sending_during_a_stream_gets_the_rest(
    own: Stack, target: str, version: str
) -> None:
    target += "" if target == ROWS_STREAM else urlencode(own.period(30, 1))
    with own.client("wlce") as client:
        whole = client.get(target).content
    url = urlsplit(own.contract["base_url"])
    with socket.socket() as bare:
        bare.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # most of it is still to come
        bare.settimeout(20)
        bare.connect((url.hostname, url.port))
        bare.sendall(lines(own, "Accept-Encoding: identity", target=target, version=version))
        begun = bare.recv(1)
        bare.shutdown(socket.SHUT_WR)
        time.sleep(HALF_CLOSED_SECONDS + 0.2)  # the gateway tries by then if somebody is there
        with bare.makefile("rb") as answer:
            received = begun + answer.read()
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    if b"transfer-encoding: chunked" in head.lower():
        assert body.endswith(b"\r\n0\r\n\r\n")
        body = b"".join(pieces(body))
    assert len(whole) > MEGABYTE
    assert body == whole


def test_77_a_body_that_will_never_be_complete_is_no_request(own: Stack) -> None:
    with connection(own) as bare:
        bare.sendall(lines(own, "Content-Length: 9", method="POST", target="/rest/v1/sites_new"))
        bare.sendall(b"{")
        bare.shutdown(socket.SHUT_WR)
        with bare.makefile("rb") as answer:
            assert b"HTTP/1.1 2" not in answer.read()


def test_77_a_slow_answer_comes_after_interim_ones_and_a_client_that_left_is_noticed(
    own: Stack,
) -> None:
    running = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
    with (
        psycopg.connect(own.contract["database_url"], autocommit=True) as watcher,
        psycopg.connect(own.contract["database_url"]) as admin,
    ):

        def waiting(count: int) -> bool:
            return watcher.execute(running).fetchone() == (count,)

        admin.execute("lock table flows.sites_new in access exclusive mode")
        with connection(own) as stays:
            stays.sendall(lines(own, target="/rest/v1/sites_new?limit=1"))
            stays.shutdown(socket.SHUT_WR)
            with connection(own) as leaves:
                leaves.sendall(lines(own, target="/rest/v1/sites_new?limit=1"))
                wait_until(lambda: waiting(2))
            wait_until(lambda: waiting(1), seconds=8)
            time.sleep(1.5)
            assert waiting(1)
            admin.rollback()
            with stays.makefile("rb") as answer:
                received = answer.read()
    interim, _, final = received.partition(b"HTTP/1.1 200")
    assert set(interim.split(b"\r\n\r\n")) == {b"HTTP/1.1 102 Processing", b""}
    assert final
