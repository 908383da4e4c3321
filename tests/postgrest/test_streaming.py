"""Large bodies pass in both directions without being held in the gateway's memory."""

import csv
import io
import json
from collections.abc import Iterator

import httpx
import psycopg
import pytest

from tests.conftest import Stack, process_of, running_stack

GROWTH_MB = 40
ROWS = 1_000_000
BODY_MB = 50


@pytest.fixture(scope="module")
def large_stack() -> Iterator[Stack]:
    """A separate stack, with an additional register that brings it to a million half-hours."""
    with running_stack(FLOWS_HTTP_BODY_SECONDS="60", FLOWS_POSTGREST_MAX_ROWS=str(ROWS)) as stack:
        with psycopg.connect(stack.contract["database_url"]) as connection:
            # Add half-hours before 2020 until the ESCO has a million rows.
            connection.execute(
                "insert into flows.register_interval_hh"
                ' (register_id, "timestamp", import_kwh, export_kwh)'
                " select r.register_id, timestamptz '2020-01-01Z' - n * interval '30 minutes', 1, 0"
                " from flows.meter_registers as r"
                " join flows.meter_registry as m on m.id = r.meter_id and m.esco = %s"
                " cross join generate_series(1, 36000) as n",
                (stack.contract["escos"]["wlce"]["id"],),
            )
        yield stack


class Memory:
    """Watches the gateway's resident memory and records its greatest growth."""

    def __init__(self, stack: Stack) -> None:
        self._process = process_of(stack.process.pid, "app.cli serve")
        self._before = self._process.memory_info().rss
        self.growth_mb = 0.0

    def look(self) -> None:
        """Measure the memory now."""
        growth = self._process.memory_info().rss - self._before
        self.growth_mb = max(self.growth_mb, growth / 2**20)


def warm_up(client: httpx.Client) -> None:
    """Send some requests, so that imports and pools are not measured."""
    for _ in range(20):
        client.get("/rest/v1/escos").raise_for_status()


def test_a_million_rows_of_csv_stream_out(large_stack: Stack) -> None:
    with large_stack.client("wlce") as client:
        warm_up(client)
        memory = Memory(large_stack)
        lines = size = 0
        first = b""
        columns = "select=register_id,timestamp,import_kwh"
        path = f"/rest/v1/register_interval_hh?{columns}&limit={ROWS}"
        headers = {"Accept": "text/csv", "Accept-Encoding": "identity"}
        with client.stream("GET", path, headers=headers, timeout=120) as answer:
            assert answer.status_code == 200
            for piece in answer.iter_raw(2**20):
                first = first or piece[:200]
                lines += piece.count(b"\n")
                size += len(piece)
                memory.look()
    header, row, *_ = csv.reader(io.StringIO(first.decode()))
    assert header == ["register_id", "timestamp", "import_kwh"]
    assert len(row) == 3
    assert lines == ROWS  # the header line, and none after the last row
    assert size > 50 * 2**20
    assert memory.growth_mb < GROWTH_MB


def test_fifty_megabytes_stream_in(large_stack: Stack) -> None:
    esco = large_stack.contract["escos"]["wlce"]["id"]
    row = json.dumps({"esco": esco, "name": "large", "location": "x" * 2000}).encode()
    rows = BODY_MB * 2**20 // len(row)

    def body() -> Iterator[bytes]:
        yield b"[" + row
        for _ in range(rows):
            yield b"," + row
            memory.look()
        yield b"]"

    with large_stack.client("wlce", "write") as client:
        warm_up(client)
        memory = Memory(large_stack)
        headers = {"Content-Type": "application/json", "Prefer": "return=minimal,count=exact"}
        answer = client.post("/rest/v1/sites_new", content=body(), headers=headers, timeout=120)
        memory.look()
        assert answer.status_code == 201, answer.text
        assert answer.headers["content-range"] == f"*/{rows + 1}"
    assert memory.growth_mb < GROWTH_MB


def test_a_body_beyond_the_limit_is_cut_off_while_it_streams(stack: Stack) -> None:
    def endless() -> Iterator[bytes]:
        yield b"["
        for _ in range(100):
            yield b" " * 2**20

    with stack.client("wlce", "write") as client:
        try:
            answer = client.post("/rest/v1/sites_new", content=endless())
        except (httpx.WriteError, httpx.RemoteProtocolError):
            return  # the connection was closed while the client was still sending
    assert answer.status_code == 413
