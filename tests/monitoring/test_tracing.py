"""Traces: spans at an OTLP receiver, below the caller's own; nothing unless OTEL_… is set."""

import gzip
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import httpx
import psycopg
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from app.tracing import wanted
from tests.conftest import Stack, wait_until
from tests.http.test_request_state import second_gateway

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


@contextmanager
def serving(answer: Callable[[BaseHTTPRequestHandler, bytes], bytes]) -> Iterator[str]:
    """Serve HTTP on loopback, with bodies that `answer` returns; yield the URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = answer(self, self.rfile.read(int(self.headers.get("content-length", 0))))
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.send_header("content-type", self.headers.get("accept", "application/json"))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def attributes(span: Span) -> dict[str, str | int]:
    return {one.key: one.value.string_value or one.value.int_value for one in span.attributes}


def test_a_request_is_a_span_with_those_of_postgrest_and_the_database_below(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    spans: list[Span] = []
    services: set[str] = set()
    upstream: list[tuple[str, str | None]] = []
    bodies: list[bytes] = []

    def receive(request: BaseHTTPRequestHandler, body: bytes) -> bytes:
        assert request.path == "/v1/traces"
        plain = gzip.decompress(body) if request.headers["content-encoding"] == "gzip" else body
        bodies.append(plain)
        for resource in ExportTraceServiceRequest.FromString(plain).resource_spans:
            services.update(one.value.string_value for one in resource.resource.attributes
                            if one.key == "service.name")  # fmt: skip
            spans.extend(span for scope in resource.scope_spans for span in scope.spans)
        return b""

    def rest(request: BaseHTTPRequestHandler, _: bytes) -> bytes:
        upstream.append((request.path, request.headers["traceparent"]))
        return b"[]"

    token = stack.contract["escos"]["wlce"]["read_token"]
    headers = {"Authorization": f"Bearer {token}", "traceparent": TRACEPARENT}
    with serving(receive) as receiver, serving(rest) as postgrest:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver)
        with (
            second_gateway(stack, postgrest) as url,
            httpx.Client(base_url=url, timeout=30, headers=headers) as client,
            psycopg.connect(stack.contract["database_url"]) as admin,
            # A transaction would see the same sessions all the time.
            psycopg.connect(stack.contract["database_url"], autocommit=True) as watching,
            ThreadPoolExecutor(1) as pool,
        ):
            wait_until(lambda: client.get("/v1/escos", headers={"traceparent": ""}).is_success)
            admin.execute("lock table flows.escos in access exclusive mode")
            asked = pool.submit(client.get, "/v1/escos?timezone=UTC")
            names = wait_until(
                lambda: watching.execute(
                    "select application_name from pg_stat_activity"
                    " where application_name like %s and state = 'active'",
                    (f"flows 00-{TRACE}-%",),
                ).fetchall()
            )
            admin.rollback()
            assert asked.result().status_code == 200
            assert client.get("/rest/v1/escos?code=eq.confidential").status_code == 200
            assert client.get("/nowhere/confidential").status_code == 404
            left = "select count(*) from pg_stat_activity where application_name like 'flows 00-%'"
            assert watching.execute(left).fetchone() == (0,)
    assert services == {"flows-gateway"}
    ours = {span.name: span for span in spans if span.trace_id.hex() == TRACE}
    assert set(ours) == {"GET /v1/escos", "GET /rest/v1/{relation}", "GET unmatched", "database",
                         "PostgREST"}  # fmt: skip
    for name, below in (("GET /v1/escos", "database"), ("GET /rest/v1/{relation}", "PostgREST")):
        assert ours[name].parent_span_id.hex() == PARENT
        assert ours[below].parent_span_id == ours[name].span_id
        assert attributes(ours[name])["flows.esco"] == "wlce"
        assert attributes(ours[name])["http.response.status_code"] == 200
    assert names == [(f"flows 00-{TRACE}-{ours['database'].span_id.hex()}-01",)]
    told = [parent for path, parent in upstream if path.startswith("/escos?")]
    assert told == [f"00-{TRACE}-{ours['PostgREST'].span_id.hex()}-01"]
    assert all(b"confidential" not in body for body in bodies)


def test_without_an_endpoint_no_sdk_of_opentelemetry_is_imported() -> None:
    """FastAPI imports its API by itself, where there is one."""
    program = (
        "import asyncio, sys\n"
        "from app.tracing import Tracing, child_span\n"
        "tracing = Tracing(); tracing.open()\n"
        "assert tracing.begin('GET', [(b'traceparent', b'x')]) is None\n"
        "with child_span('database', {}) as parent: assert parent is None\n"
        "asyncio.run(tracing.close())\n"
        "import app.main\n"
        "unwanted = ('opentelemetry.sdk', 'opentelemetry.exporter')\n"
        "print([name for name in sys.modules if name.startswith(unwanted)])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True,
                          check=True, env={"PYTHONPATH": "."})  # fmt: skip
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("environ", "traced"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "x"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_the_environment_decides(environ: dict[str, str], traced: bool) -> None:
    assert wanted(environ) == traced
