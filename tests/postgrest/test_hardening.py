"""Hostile or malformed requests are refused, limited in size, and not passed on."""

import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpx
import pytest

from tests.conftest import Stack, another_gateway, wait_until


@contextmanager
def connection(stack: Stack) -> Iterator[socket.socket]:
    """A TCP connection to the gateway."""
    url = urlsplit(stack.contract["base_url"])
    with socket.create_connection((url.hostname, url.port), timeout=10) as bare:
        yield bare


def exchange(stack: Stack, raw: str | bytes) -> tuple[bytes, bool]:
    """Send raw bytes; return the response, and whether the gateway then closed."""
    received = b""
    with connection(stack) as bare:
        bare.sendall(raw if isinstance(raw, bytes) else raw.encode("latin-1"))
        bare.settimeout(1)
        try:
            while piece := bare.recv(65536):
                received += piece
        except TimeoutError:
            return received, False
        except ConnectionResetError:
            pass
    return received, True


def head(
    stack: Stack,
    *lines: str,
    target: str = "/rest/v1/escos?select=code",
    method: str = "GET",
    close: bool = True,
) -> str:
    """Return a request head with the read token of wlce."""
    token = stack.contract["escos"]["wlce"]["read_token"]
    standard = ["Host: gateway", f"Authorization: Bearer {token}"]
    standard += ["Connection: close"] if close else []
    return "\r\n".join([f"{method} {target} HTTP/1.1", *standard, *lines, "", ""])


SMUGGLED = {
    "length and chunked": ("Content-Length: 4", "Transfer-Encoding: chunked", "", "0\r\n\r\n"),
    "two lengths": ("Content-Length: 4", "Content-Length: 5", "", "abcd"),
    "the same length twice": ("Content-Length: 4", "Content-Length: 4", "", "abcd"),
    "a signed length": ("Content-Length: +4", "", "abcd"),
    "a bad end of a chunk": ("Transfer-Encoding: chunked", "", "4\r\nabcdXX0\r\n\r\n"),
    "a bad size of a chunk": ("Transfer-Encoding: chunked", "", "0x4\r\nabcd\r\n0\r\n\r\n"),
    "an unknown coding": ("Transfer-Encoding: xchunked", "", "0\r\n\r\n"),
    "a space before the colon": ("Transfer-Encoding : chunked", "", "0\r\n\r\n"),
    "a folded header": ("X-Folded: a", " b", "", ""),
    "a bare CR in a header": ("X-Bare: a\rb: c", "", ""),
    "a NUL in a header": ("X-Nul: a\x00b", "", ""),
}


@pytest.mark.parametrize("how", SMUGGLED)
def test_a_request_with_two_readings_is_refused_and_the_connection_closed(
    stack: Stack, how: str
) -> None:
    start = head(stack, target="/rest/v1/sites_new", method="POST", close=False)
    start = start.removesuffix("\r\n")
    received, closed = exchange(stack, start + "\r\n".join(SMUGGLED[how]))
    assert received.startswith(b"HTTP/1.1 400")
    assert received.count(b"HTTP/1.1") == 1
    assert closed


def test_a_bare_line_feed_is_no_end_of_a_line(stack: Stack) -> None:
    received, closed = exchange(stack, head(stack, close=False).replace("\r\n", "\n"))
    assert received.startswith(b"HTTP/1.1 400")
    assert closed


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (["Authorization: Bearer x"], 400),
        (["Connection: authorization"], 200),
        (["Keep-Alive: authorization", "Authorization-Info: x"], 200),
        (["Host: evil.example"], 400),
        (["X-Forwarded-For: 127.0.0.1", "X-Forwarded-Host: admin", "Forwarded: for=::1"], 200),
        (["apikey: not-a-token"], 200),
        (["Expect: 100-continue"], 200),
        (["Upgrade: h2c", "Connection: Upgrade"], 200),
    ],
)
def test_headers_change_nothing_about_who_is_asking(
    stack: Stack, lines: list[str], status: int
) -> None:
    received, _ = exchange(stack, head(stack, *lines))
    assert received.startswith(f"HTTP/1.1 {status}".encode()), received
    assert (b'[{"code":"wlce"}]' in received) == (status == 200)


@pytest.mark.parametrize("name", ["Authorization", "authorization", "AUTHORIZATION"])
def test_a_hop_by_hop_token_is_still_needed(stack: Stack, name: str) -> None:
    raw = f"GET /rest/v1/escos HTTP/1.1\r\nHost: x\r\nConnection: close, {name}\r\n\r\n"
    received, _ = exchange(stack, raw)
    assert received.startswith(b"HTTP/1.1 401")


HOSTILE_TARGETS = [
    "/rest/v1/../live", "/rest/v1/%2e%2e/live", "/rest/v1/%252e%252e/live", "/rest/v1//escos",
    "//rest/v1/escos", "/rest/v1/escos%2f..", "/rest/v1/escos;x=1", "/rest/v1/%2fescos",
    "/rest/v1/..%2f..%2fadmin", "/rest/v1/escos\\..", "/rest/v1/escos%00",
    "/rest/v1/escos%0d%0aX:1",
    "/rest/v1/./escos", "/rest/v1/escos/.", "/rest/v1/%5cescos", "/rest%2fv1/escos",
    "/rest/v1", "/rest/v1@127.0.0.1:3001/", "/rest/v1/:3001/live", "/REST/v1/escos",
]  # fmt: skip


@pytest.mark.parametrize("target", HOSTILE_TARGETS)
def test_a_hostile_path_reaches_nothing(stack: Stack, target: str) -> None:
    received, _ = exchange(stack, head(stack, target=target))
    assert re.match(rb"HTTP/1.1 40[04] ", received), received[:200]


@pytest.mark.parametrize("query", ["select=code%0d%0aX:1", "select=code&x=%0d%0a", "a\x01b"])
def test_control_characters_split_nothing(stack: Stack, query: str) -> None:
    received, _ = exchange(stack, head(stack, target=f"/rest/v1/escos?{query}"))
    assert re.match(rb"HTTP/1.1 (200|4\d\d) ", received)
    assert b"\r\nX:1" not in received


def test_an_absolute_target_asks_this_gateway(stack: Stack) -> None:
    received, _ = exchange(stack, head(stack, target="http://evil.example/rest/v1/escos"))
    assert re.match(rb"HTTP/1.1 (200|400) ", received)
    assert b"evil" not in received


@pytest.mark.parametrize(
    "query",
    [
        "name=eq.%00", "name=eq.%ed%a0%80", "name=eq.%ff", "capacity_kw=eq.NaN&limit=0",
        f"capacity_kw=eq.{'9' * 4000}", "created_at=eq.294277-01-01", "created_at=eq.-infinityx",
        "limit=99999999999999999999", "offset=-99999999999999999999", "limit=NaN", "name=in.(",
        "and=" + "(and" * 500, "and=" + "(and(" * 300 + "name.eq.x" + "))" * 300,
        "select=" + "escos(" * 300, "name=match.(((((", "name=like." + "%25" * 2000,
        "select=id&order=" + "id," * 500, "id=eq.x'%20or%20'1'='1", "select=*;drop table escos",
    ],
)  # fmt: skip
def test_nonsense_is_the_callers_fault(stack: Stack, query: str) -> None:
    received, _ = exchange(
        stack, head(stack, target="/rest/v1/sites_new?" + query.replace(" ", "+"))
    )
    assert re.match(rb"HTTP/1.1 (2|4)\d\d ", received), received[:300]


NONSENSE_BODIES = [
    '{"name":"\\u0000"}',
    '{"name":"\\ud800"}',
    "[" * 100_000,
    '{"capacity_kw":NaN}',
    '{"capacity_kw":1e99999}',
    "\xff\xfe",
]


@pytest.mark.parametrize("body", NONSENSE_BODIES)
def test_a_nonsense_body_is_the_callers_fault(stack: Stack, body: str) -> None:
    with stack.client("wlce", "write") as client:
        answer = client.post(
            "/rest/v1/sites_new",
            content=body.encode("latin-1"),
            headers={"Content-Type": "application/json"},
        )
    assert 400 <= answer.status_code < 500, answer.text


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        ("/rest/v1/register_interval_hh?order=timestamp.desc&limit={}", {}),
        ("/rest/v1/register_interval_hh?order=timestamp.desc&limit=1&offset={}", {}),
        ("/rest/v1/meter_registry", {"Range": "0-{}"}),
        ("/rest/v1/meter_registry", {"Range": "{}-"}),
        ("/rest/v1/meter_registry", {"Prefer": "max-affected={}"}),
        ("/v1/latest?format=parquet", {"Range": "bytes=0-{}"}),
        ("/v1/latest?format=parquet", {"Range": "bytes=-{}"}),
        ("/v1/latest?format=parquet", {"Range": "bytes={}-"}),
        ("/v1/latest", {"Accept": "text/csv;q={}", "Accept-Encoding": "gzip;q={}"}),
        ("/v1/energy?limit={}&period_from=2026-01-01T00:00Z&period_to=2026-01-02T00:00Z", {}),
        ("/v1/energy?period_from={}&period_to=2026-01-02T00:00Z", {}),
        ("/v1/imports/{}", {}), ("/openapi.json", {"X-Forwarded-For": "{}"}),
    ],
)  # fmt: skip
def test_no_number_has_too_many_digits_for_the_gateway(
    stack: Stack, target: str, headers: dict[str, str]
) -> None:
    """Python makes no number of more than 4,300 digits."""
    with stack.client("wlce") as client:
        for digits in ("9" * 5000, "0" * 5000, "\u0663"):
            given = {
                name.encode(): value.format(digits).encode() for name, value in headers.items()
            }
            answer = client.get(target.format(digits), headers=given)
            assert answer.status_code < 500, answer.text


@pytest.mark.parametrize("method", ["TRACE", "PROPFIND", "LINK"])
def test_a_method_that_postgrest_does_not_know_is_refused(stack: Stack, method: str) -> None:
    with stack.client("wlce") as client:
        answer = client.request(method, "/rest/v1/escos")
    assert answer.status_code == 405
    assert answer.json()["code"] == "method_not_allowed"
    assert answer.headers["allow"] == "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"


@pytest.mark.parametrize(
    ("method", "target", "allowed"),
    [
        ("POST", "meters_offline_all", "GET, HEAD, OPTIONS"),
        ("DELETE", "meters_offline_all?serial=eq.none", "GET, HEAD, OPTIONS"),
        ("DELETE", "rpc/current_esco", "GET, HEAD, OPTIONS, POST"),
        ("GET", "rpc/derive_interval_hh?register_id=REGISTER"
         "&period_from=2026-01-01&period_to=2026-01-02", "OPTIONS, POST"),
        ("PUT", "sites_new?name=eq.x", "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"),
    ],
)  # fmt: skip
def test_every_405_says_what_is_allowed(
    stack: Stack, method: str, target: str, allowed: str
) -> None:
    with stack.client("wlce", "write") as client:
        rows = client.get("/rest/v1/meter_registers?limit=1&select=register_id").json()
        target = target.replace("REGISTER", rows[0]["register_id"])
        body = {"json": {"serial": "none"}} if method in ("POST", "PUT") else {}
        answer = client.request(method, f"/rest/v1/{target}", **body)  # type: ignore[arg-type]
    assert (answer.status_code, answer.headers.get("allow")) == (405, allowed), answer.text


def test_what_is_no_http_is_answered_like_any_error_and_logged(stack: Stack) -> None:
    received, closed = exchange(stack, "GET /live HTTP/1.1\r\nHost: x\r\nX-Nul: a\x00b\r\n\r\n")
    head, _, body = received.partition(b"\r\n\r\n")
    lines = head.decode().lower().split("\r\n")
    assert lines[0] == "http/1.1 400 bad request"
    assert {"content-type: application/problem+json", "connection: close"} <= {*lines}
    problem = json.loads(body)
    assert (problem["code"], problem["status"]) == ("bad_request", 400)
    assert f"x-request-id: {problem['request_id']}" in lines
    assert f"content-length: {len(body)}" in lines
    assert closed
    log = (stack.home / "logs" / "gateway.log").read_text()
    (line,) = [one for one in log.splitlines() if problem["request_id"] in one]
    assert json.loads(line)["status"] == 400


NAMES_HINT = "GET /openapi.json with this token lists the names that it may use"


def test_a_misspelt_relation_or_column_names_no_other(stack: Stack) -> None:
    misspelt = ("meter_registr", "rpc/current_esc", "escos?select=cod", "escos?select=site(id)",
                "meter_registry?select=registers(*)")  # fmt: skip
    with stack.client("wlce") as client:
        for target in misspelt:
            error = client.get(f"/rest/v1/{target}").json()
            assert error["hint"] == NAMES_HINT, target
            told = f"{error['message']} {error['details']}"
            assert not re.search(r"\bapi\b|meter_registry'?\"? instead|current_esco|\bcode\b", told)
        telling = client.get(
            "/rest/v1/escos?code=eq.none", headers={"Accept": "application/vnd.pgrst.object+json"}
        ).json()
        assert telling["details"] == "The result contains 0 rows"
        assert "expecting" in client.get("/rest/v1/escos?code=nope.1").json()["details"]


def test_a_violated_constraint_tells_no_value(stack: Stack) -> None:
    with stack.client("hmce") as client:
        serial = client.get("/rest/v1/meter_registry?limit=1").json()[0]["serial"]
    own = stack.contract["escos"]["wlce"]["id"]
    with stack.client("wlce", "write") as client:
        answer = client.post(
            "/rest/v1/meter_registry", json={"serial": serial, "name": "x", "esco": own}
        )
    assert answer.status_code == 409
    assert answer.json()["code"] == "23505"
    assert (answer.json()["details"], answer.json()["hint"]) == (None, None)
    assert serial not in answer.text


@pytest.mark.parametrize("size", [5_000, 30_000_000])
def test_68_a_long_value_does_not_come_back(stack: Stack, size: int) -> None:
    body = {"id": "x" * size, "esco": stack.contract["escos"]["wlce"]["id"], "name": "long"}
    with stack.client("wlce", "write") as client:
        answer = client.post("/rest/v1/sites_new", json=body)
        assert (answer.status_code, answer.json()["code"]) == (400, "22P02")
        assert set(answer.json()) == {"code", "message", "details", "hint"}
        assert len(answer.content) < 2_000
        asked = client.get(f"/rest/v1/sites_new?id=eq.{'x' * 10_000}")
        assert (asked.status_code, asked.json()["code"]) == (400, "22P02")
        assert len(asked.content) < 2_000


def test_what_is_too_large_is_refused_before_it_is_read(stack: Stack) -> None:
    with stack.client("wlce", "write") as client:
        long_url = client.get("/rest/v1/escos?name=eq." + "x" * 17_000)
        assert (long_url.status_code, long_url.json()["code"]) == (414, "url_too_long")
        long_head = client.get("/rest/v1/escos", headers={"X-Long": "x" * 33_000})
        assert (long_head.status_code, long_head.json()["code"]) == (431, "headers_too_large")
        packed = client.post("/rest/v1/sites_new", content=b"\x1f\x8b", headers={
            "Content-Encoding": "gzip", "Content-Type": "application/json"})  # fmt: skip
        assert (packed.status_code, packed.json()["code"]) == (415, "unsupported_encoding")
    start = head(stack, "Content-Length: 99999999999", method="POST", close=False)
    received, closed = exchange(stack, start)
    assert received.startswith(b"HTTP/1.1 413")
    assert closed
    # An endless head, and a URL of the same length, are cut off at 64 KB.
    for endless in (
        head(stack).removesuffix("\r\n") + "X: " + "x" * 65_000,
        "GET /" + "x" * 65_000,
    ):
        received, closed = exchange(stack, endless)
        assert closed
        assert not received.startswith(b"HTTP/1.1 2")


def test_request_ids_come_in_and_go_out(stack: Stack) -> None:
    with stack.client("wlce") as client:
        for path in ("/rest/v1/escos", "/live", "/rest/v1/nothing_here"):
            given = client.get(path, headers={"X-Request-Id": "trace-1.a:b"})
            assert given.headers["x-request-id"] == "trace-1.a:b"
            made = client.get(path, headers={"X-Request-Id": "a b\tc"}).headers["x-request-id"]
            assert re.fullmatch("[0-9a-f]{24}", made)
        refused = client.get("/rest/v1/a;b")
        assert refused.json()["request_id"] == refused.headers["x-request-id"]
        timing = client.get("/rest/v1/escos").headers["server-timing"]
    durations = re.fullmatch(r"upstream;dur=([0-9.]+), total;dur=([0-9.]+)", timing)
    assert durations
    assert 0 < float(durations[1]) <= float(durations[2])
    log = (stack.home / "logs" / "gateway.log").read_text()
    assert '"request_id":"trace-1.a:b"' in log


def test_no_token_and_no_filter_reaches_a_log(stack: Stack) -> None:
    token = stack.contract["escos"]["wlce"]["read_token"]
    with stack.client("wlce") as client:
        client.get("/rest/v1/meter_registry?serial=eq.SECRETSERIAL", headers={"apikey": token})
        # Nor one of those that PostgREST refuses, or fails to answer.
        for refused in ("serial=no.SECRETSERIAL", "nothing=eq.SECRETSERIAL", "id=eq.SECRETSERIAL"):
            assert client.get(f"/rest/v1/meter_registry?{refused}").status_code == 400
    for name in ("gateway", "postgrest"):
        log = (stack.home / "logs" / f"{name}.log").read_text()
        assert token not in log
        assert "SECRETSERIAL" not in log


def in_flight(stack: Stack) -> int:
    """Return the number of current requests to PostgREST, from /metrics."""
    text = httpx.get(f"{stack.contract['base_url']}/metrics").text
    found = re.search(r"^flows_postgrest_requests_in_flight (\d+)", text, re.MULTILINE)
    assert found
    return int(found[1])


def test_slow_clients_are_dropped_and_hold_nothing(stack: Stack) -> None:
    waits = ("FLOWS_HTTP_HEAD_SECONDS", "FLOWS_HTTP_BODY_SECONDS", "FLOWS_HTTP_SEND_SECONDS")
    with another_gateway(stack, FLOWS_METRICS="open", **dict.fromkeys(waits, "1")) as stack:
        started = time.monotonic()
        for unfinished in (b"", b"GET /rest/v1/escos HTTP/1.1\r\nX: "):
            with connection(stack) as bare:
                bare.sendall(unfinished)
                received = bare.recv(100)
            assert received == b""
        with connection(stack) as bare:
            bare.sendall(head(stack, "Content-Length: 9", method="POST").encode() + b"{")
            with bare.makefile("rb") as answer:  # read to the end: the gateway closes
                assert answer.read().startswith(b"HTTP/1.1 408")
        assert time.monotonic() - started < 20
        with connection(stack) as bare:
            bare.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            bare.sendall(head(stack, target="/rest/v1/register_interval_hh?limit=50000").encode())
            bare.recv(10)
            assert in_flight(stack) == 1
            wait_until(lambda: in_flight(stack) == 0)  # the gateway stops reading
        with stack.client("wlce") as client:
            assert client.get("/rest/v1/escos").status_code == 200


def test_a_stranger_page_may_not_call_and_a_listed_one_may(stack: Stack) -> None:
    origin = "https://app.example.org"
    asked = {
        "Access-Control-Request-Method": "PATCH",
        "Access-Control-Request-Headers": "authorization,apikey,prefer,x-client-info",
    }
    with another_gateway(stack, FLOWS_CORS_ORIGINS=f"{origin}, https://other.example.org") as stack:
        with stack.client(None) as client:
            preflight = client.options("/rest/v1/escos", headers=asked | {"Origin": origin})
            assert preflight.status_code == 200
            assert preflight.headers["access-control-allow-origin"] == origin
            assert "PATCH" in preflight.headers["access-control-allow-methods"]
            assert "access-control-allow-credentials" not in preflight.headers
            stranger = client.options(
                "/rest/v1/escos", headers=asked | {"Origin": "https://evil.example"}
            )
            assert stranger.status_code == 400
            assert "access-control-allow-origin" not in stranger.headers
            refused = client.get("/rest/v1/escos", headers={"Origin": origin})
            assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (
                401, origin,
            )  # fmt: skip
            exposed = refused.headers["access-control-expose-headers"].lower()
            assert {"www-authenticate", "proxy-status", "warning"} <= {*exposed.split(", ")}
        with stack.client("wlce") as client:
            answer = client.get("/rest/v1/escos", headers={"Origin": origin})
            assert answer.headers["access-control-allow-origin"] == origin
            assert "Content-Range" in answer.headers["access-control-expose-headers"].title()


def test_no_origin_is_allowed_unless_it_is_named(stack: Stack) -> None:
    with stack.client("wlce") as client:
        answer = client.get("/rest/v1/escos", headers={"Origin": "https://app.example.org"})
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_metrics_are_for_monitoring_and_name_escos_where_they_tell_of_one(
    stack: Stack, monitoring_token: str
) -> None:
    with stack.client("wlce") as client:
        client.get("/rest/v1/meter_registry?serial=eq.WLCE0001")
        assert client.get("/metrics").status_code == 403
    with stack.client(None) as client:
        assert client.get("/metrics").status_code == 401
    url = f"{stack.contract['base_url']}/metrics"
    text = httpx.get(url, headers={"Authorization": f"Bearer {monitoring_token}"}).text
    counted = re.search(
        r'flows_requests_total\{method="GET",route="/rest/v1/\{relation\}",status="200"\} (\S+)',
        text,
    )
    assert counted
    assert float(counted[1]) >= 1
    for name in (
        "flows_request_seconds_bucket",
        "flows_database_connections_idle ",
        "flows_postgrest_requests_in_flight ",
        "process_resident_memory_bytes",
    ):
        assert name in text
    lines = [line for line in text.splitlines() if not line.startswith("flows_esco_")]
    for word in ("wlce", "WLCE0001", "flc_demo"):
        assert not [line for line in lines if word in line]
    # The database's slowest statements name relations, and no value.
    requests = [line for line in lines if not line.startswith("flows_statement")]
    assert not [line for line in requests if "meter_registry" in line]
