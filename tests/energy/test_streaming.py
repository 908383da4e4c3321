"""Very long responses are not held in the gateway's memory, however slowly they are read."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import httpx
import psycopg
import pytest

from app.auth.tokens import Grant
from tests.bench.history import History
from tests.conftest import Stack
from tests.postgrest.test_streaming import GROWTH_MB, Memory

CIRCUITS = 200
START = datetime(2025, 3, 1, tzinfo=UTC)
PERIOD = {
    "period_from": START.isoformat(),
    "period_to": (START + timedelta(days=31)).isoformat(),
    "granularity": "PT30M",
}
ROWS = CIRCUITS * 31 * 48
PAUSE_SECONDS = 1.0


@pytest.fixture(scope="module")
def long_reader(stack: Stack) -> Iterator[httpx.Client]:
    """A client of an ESCO with many circuits, which have data for the first day."""
    with psycopg.connect(stack.contract["database_url"], autocommit=True) as admin:
        history = History(admin, "stream", 1, CIRCUITS)
        admin.execute(
            'insert into flows.register_interval_hh (register_id, "timestamp", import_kwh)'
            " select pg_temp.bench('stream', 'register', n), t, 0.2"
            " from generate_series(1, %s) as n"
            " cross join generate_series(%s::timestamptz, %s, '30 minutes') as t",
            (CIRCUITS, START, START + timedelta(hours=23.5)),
        )
        admin.execute("call flows.follow()")
        grant = Grant("flc_stream", "public_backend", history.id("esco", 1), "stream1", ("read",))
        token = stack.issue(grant)
        # The sizes are those of the bodies as they are.
        headers = {"Authorization": f"Bearer {token}", "Accept-Encoding": "identity"}
        base_url = stack.contract["base_url"]
        with httpx.Client(base_url=base_url, headers=headers, timeout=120) as client:
            yield client
        _empty(admin)


def _empty(admin: psycopg.Connection) -> None:
    its = "select pg_temp.bench('stream', %s, n) from generate_series(1, %s) as n"
    for table, column, kind in (
        ("circuit_register", "circuit", "circuit"), ("circuits", "id", "circuit"),
        ("register_interval_hh", "register_id", "register"),
        ("meter_registers", "register_id", "register"), ("meter_registry", "id", "meter"),
        ("escos", "id", "esco"),
    ):  # fmt: skip
        admin.execute(
            f"delete from flows.{table} where {column} in ({its})".encode(), (kind, CIRCUITS)
        )
    admin.execute("call flows.follow()")


@pytest.mark.parametrize("form", ["csv", "ndjson"])
@pytest.mark.parametrize("read", ["energy", "balance"])
def test_a_long_answer_waits_for_its_reader(
    stack: Stack, long_reader: httpx.Client, read: str, form: str
) -> None:
    asked = PERIOD | {"format": form, "group_by": "circuit"}
    for _ in range(3):  # warm up: imports and pools are not to be measured
        long_reader.head(f"/v1/{read}", params=asked).raise_for_status()
        long_reader.get(f"/v1/{read}", params=asked | {"granularity": "P1M"}).raise_for_status()
    memory = Memory(stack)
    lines = size = 0
    with long_reader.stream("GET", f"/v1/{read}", params=asked) as answer:
        assert answer.status_code == 200
        for piece in answer.iter_raw(2**16):
            if not size:  # a gateway that does not wait would go on reading meanwhile
                until = time.monotonic() + PAUSE_SECONDS
                while time.monotonic() < until:
                    memory.look()
                    time.sleep(0.01)
            lines += piece.count(b"\n")
            size += len(piece)
            memory.look()
    assert lines == ROWS + (form == "csv")
    assert size > 25 * 2**20
    assert memory.growth_mb < GROWTH_MB


def test_pages_of_json_are_no_longer_than_they_say(long_reader: httpx.Client) -> None:
    asked: dict[str, str | int] = {**PERIOD, "group_by": "circuit", "limit": 90_000}
    seen = 0
    pages = 0
    cursor: str | None = None
    while pages == 0 or cursor:
        answer = long_reader.get(
            "/v1/energy", params=asked | ({"cursor": cursor} if cursor else {})
        )
        body = answer.raise_for_status().json()
        assert len(body["rows"]) <= 90_000
        seen, pages, cursor = seen + len(body["rows"]), pages + 1, body["next"]
    assert (seen, pages) == (ROWS, 4)
    refused = long_reader.get("/v1/balance", params=PERIOD | {"group_by": "circuit"})
    assert refused.status_code == 422
    (error,) = refused.json()["errors"]
    assert error["parameter"] == "period_to"
    assert f"{ROWS} rows" in error["message"]
    assert "100000" in error["message"]
