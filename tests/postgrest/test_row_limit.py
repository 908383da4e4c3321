"""An answer has a bounded number of rows, and is refused rather than cut (SECURITY 52)."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jwt
import psycopg
import pytest

from app.errors import CostlyFilterError
from app.postgrest.row_limit import (
    MOST_EMBEDDING,
    MOST_OF,
    PARENTS,
    SERIES,
    check_returned,
    limit_rows,
    may_multiply,
)
from app.settings import PostgrestSettings
from tests.conftest import Stack, process_of

HH = "/rest/v1/register_interval_hh"
MOST = PostgrestSettings.model_fields["max_rows"].default
# The body of the most half-hours takes 12.5 MB, and PostgREST about three times as much for it. An
# ESCO has six such requests at a time.
MOST_MEMORY = 400 * 2**20

RANGES = [
    (b"", "", "0-100"), (b"select=id", "", "0-100"), (b"limit=100", "", ""),
    (b"limit=101", "", "0-100"), (b"limit=5000&offset=7", "", "7-107"), (b"offset=7", "", "7-107"),
    (b"", "0-24", "0-24"), (b"", "0-100", "0-100"), (b"", "0-101", "0-100"), (b"", "5-", "5-105"),
    (b"offset=9", "5-20", "9-20"), (b"limit=3", "5-", "5-105"), (b"", "9-5", "9-5"),
    (b"", "9" * 5000 + "-", "9" * 5000 + "-"), (b"", "0-" + "9" * 5000, "0-100"),
    (b"", "items", "0-100"), (b"limit=1&limit=999", "", "0-100"),
    (b"limit=1;limit=999", "", "0-100"),
    (b"offset=" + b"9" * 20, "", f"{10**20 - 1}-{10**20 + 99}"),
    (b"offset=0&offset=999", "", "0-100"), (b"offset=999&offset=0", "", "0-100"),
    (b"", "9" * 20 + "-, 0-", "0-100"),
    (b"limit=1&%6cimit=999", "", "0-100"), (b"limit=-1", "", "0-100"),
    (b"limit=9&or=(limit.eq.999,id.eq.1)", "", ""), (b"%6fffset=7", "", "7-107"),
]  # fmt: skip
EMBEDDED = [
    (b"select=*,meter_csq(csq)&meter_csq.limit=10", "0-10"),
    (b"select=*,a:meter_csq(csq)&a.limit=7&limit=14", ""),
    (b"select=*,a:meter_csq(csq)&a.limit=7&limit=15", "0-14"),
    (b"select=*,meter_csq(csq),meter_voltage(*)&meter_csq.limit=10&meter_voltage.limit=40", "0-2"),
    (b"select=meter_registers(element,x:register_export(read))&meter_registers.limit=5"
     b"&meter_registers.x.limit=10", "0-2"),
    (b"select=id,escos(code,sites_new(code))&escos.limit=1&escos.sites_new.limit=20", "0-5"),
    (b"select=id,escos(code,regions(name)),meter_registers(circuits(sites_new(escos(code))))",
     "0-100"),
    (b"select=id,meter_registers(register_id,circuit_register(circuits(name,sites_new(code))))",
     "0-100"),
    (b"select=*,service_head_meter(service_head_registry(properties_service_head(properties(*))))",
     "0-100"),
    (b"select=*,sites_new(name,circuits(name))", "0-100"), (b"select=%2A,escos%28code%29", "0-100"),
]  # fmt: skip
UNLIMITED = [
    b"select=*,meter_csq(csq)", b"select=*,meter_csq(csq)&limit=1",
    b"select=%2A,meter_csq%28csq%29", b"select=*,a:meter_csq(csq)&meter_csq.limit=1",
    b"select=*,meter_csq!inner(csq)&meter_csq.limit=x",
    b"select=meter_registry(serial,meter_csq(csq))&meter_registry.meter_csq.limit=10",
    b"select=*,meter_csq(csq)&meter_csq.limit=101", b"select=meter_csq(csq)&select=id",
    b"select=meter_registers(meter_registry(meter_registers(*)))",
    b"select=id,escos(sites_new(code))", b"select=id,escos(sites_new(code))&escos.limit=1",
    b"select=id,...escos(a:sites_new(code))&escos.limit=1&escos.sites_new.limit=1",
]  # fmt: skip


@pytest.mark.parametrize(("query", "given", "asked"), RANGES)
def test_52_one_row_more_than_an_answer_may_have_is_asked_for(
    query: bytes, given: str, asked: str
) -> None:
    headers = {"range": given} if given else {}
    assert limit_rows(query, headers, 100) == 100
    assert headers.get("range", "") == asked


def test_52_a_series_of_texts_has_fewer_rows_in_an_answer(stack: Stack) -> None:
    series, most = next(iter(MOST_OF.items()))
    with stack.client("wlce") as client:
        for name in (series, series.replace("_", "%5F")):
            assert client.get(f"/rest/v1/{name}?limit={most}").status_code == 200
            headers: dict[str, str] = {}
            limit_rows(b"", headers, MOST, series)
            assert headers["range"] == f"0-{most}"


@pytest.mark.parametrize(("query", "asked"), EMBEDDED)
def test_52_rows_of_embedded_series_count(query: bytes, asked: str) -> None:
    headers: dict[str, str] = {}
    limit_rows(query, headers, 100, "meter_registry")
    assert headers.get("range", "") == asked


@pytest.mark.parametrize("query", UNLIMITED)
def test_52_a_series_is_embedded_with_a_limit_alone(query: bytes) -> None:
    with pytest.raises(CostlyFilterError):
        limit_rows(query, {}, 100, "meter_registry")


@pytest.mark.parametrize(
    "select",
    [
        'id,"a\\"b":serial,meter_csq(*),"c":serial', '"\\"":id,meter_csq(*),"\\"2":serial',
        "id,\tmeter_csq(*)", "id,a:meter_csq(csq),meter_csq:meter_prepay_balance(*)",
        "id,a:meter_csq(csq),meter_csq(csq)",
    ],
)  # fmt: skip
def test_52_no_spelling_hides_a_series(stack: Stack, select: str) -> None:
    """PostgREST embedded all of its rows."""
    limits = {"meter_csq.limit": "1", "a.limit": "1"} if "a:" in select else {}
    with stack.client("wlce") as client:
        answer = client.get("/rest/v1/meter_registry", params={"select": select} | limits)
        assert (answer.status_code, answer.json()["code"]) == (422, "FLOWS422")


def test_52_what_a_write_of_a_series_returns_embeds_nothing() -> None:
    query = b"timestamp=gte.2026-01-01&select=csq%2Cmeter_registry(serial)"
    with pytest.raises(CostlyFilterError):
        check_returned(query, "meter_csq")
    check_returned(query, "meter_shadows")
    for embedded in (b"meter_registry(meter_csq(csq))", b"meter_registry(escos(sites_new(code)))"):
        with pytest.raises(CostlyFilterError):
            check_returned(b"select=" + embedded, "meter_shadows")
    check_returned(b"select=csq&or=(csq.eq.1,csq.eq.2)", "meter_csq")


def test_52_an_answer_is_whole_or_refused(either: Stack) -> None:
    with either.client("wlce") as client:
        refused = client.get(HH)
        assert (refused.status_code, refused.json()["code"]) == (422, "FLOWSROWS")
        assert "content-range" not in refused.headers
        assert "limit" in refused.json()["hint"]
        assert client.get(f"{HH}?limit={MOST + 1}").status_code == 422
        counted = client.get(f"{HH}?select=*,meter_registers(*)", headers={"Prefer": "count=exact"})
        assert counted.status_code == 422
        page = client.get(
            HH, params={"limit": MOST, "order": "timestamp,register_id", "select": "kwh"}
        )
        assert (page.status_code, len(page.json())) == (200, MOST)
        ranged = client.get(f"{HH}?select=kwh", headers={"Range": "10-12"})
        assert (len(ranged.json()), ranged.headers["content-range"]) == (3, "10-12/*")
        assert client.get(f"{HH}?limit={10 * MOST}&offset=107990").status_code == 200
        assert client.get(
            f"{HH}?limit={MOST_EMBEDDING}&select=kwh,meter_registers(element)"
        ).is_success


def test_52_a_function_returns_no_more_whichever_verb_calls_it(either: Stack) -> None:
    path, many = "/rest/v1/rpc/newest_register_interval_hh", {"rows": 10**9, "with_ties": False}
    with either.client("wlce") as client:
        for query in (
            "",
            "?limit=999999",
            "?limit=5&limit=999999",
            f"?select=kwh&limit={MOST + 1}",
        ):
            refused = client.post(path + query, json=many)
            assert (refused.status_code, refused.json()["code"]) == (422, "FLOWSROWS")
        page = client.post(f"{path}?select=kwh&limit={MOST}", json=many)
        assert (page.status_code, len(page.json())) == (200, MOST)
        assert len(client.post(path, json=many | {"rows": 3}).json()) == 3
        embedded = f"{path.replace('newest_register_interval_hh', 'current_esco')}?select=id,"
        refused = client.post(f"{embedded}meter_registry(meter_csq(*))", json={})
        assert (refused.status_code, refused.json()["code"]) == (422, "FLOWS422")
        assert client.post(f"{embedded}meter_registry(serial)", json={}).status_code == 200


def test_52_what_rows_belong_to_is_as_in_the_catalogue(admin: psycopg.Connection[Any]) -> None:
    found = admin.execute(
        "select own.relname, array_agg(distinct other.relname::text) from pg_constraint as c"
        " join pg_class as own on own.oid = c.conrelid"
        " join pg_class as other on other.oid = c.confrelid"
        " join pg_class as shown on shown.relname = own.relname"
        " and shown.relnamespace = 'api'::regnamespace"
        " where c.contype = 'f' and not own.relispartition"
        " and own.relnamespace = 'flows'::regnamespace group by 1"
    ).fetchall()
    belongs = {name: set(others) for name, others in found}
    assert belongs.pop("meter_shadows") == {"meter_registry"}
    assert belongs == {name: PARENTS[name] for name in belongs}
    assert PARENTS.keys() - belongs.keys() <= SERIES


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", b"[" + b",".join([b'{"name":"x"}'] * 500_001) + b"]"),
        ("application/json", b"[" * 500_001),
        ("application/json", b'{"name":' * 500_001),
        ("text/csv", b"name\n" + b"x\n" * 500_001),
        ("text/csv;application/json", b"name\r" + b"x\r" * 500_001),
        ("application/x-www-form-urlencoded", b"&".join([b"a=1"] * 500_002)),
    ],
)
def test_52_a_body_has_a_bounded_number_of_values(stack: Stack, kind: str, body: bytes) -> None:
    """PostgREST needs some 300 bytes for each, and took 1.4 GB for one body of 57 MB."""
    with stack.client("wlce", "write") as client:
        answer = client.post("/rest/v1/sites_new", content=body, headers={"Content-Type": kind})
        assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
        assert "500,000 values" in answer.json()["detail"]


@pytest.mark.quiet
def test_52_postgrest_holds_the_answers_of_an_esco_in_bounded_memory(stack: Stack) -> None:
    process = process_of(stack.process.pid, "postgrest.conf")
    before, peak = process.memory_info().rss, 0
    ended = threading.Event()

    def ask(target: str) -> list[int]:
        with stack.client("wlce") as client:
            return [client.get(target).status_code for _ in range(2)]

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.02):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(10) as pool:
        statuses = list(pool.map(ask, [f"{HH}?limit={MOST}", HH] * 5))
    ended.set()
    watcher.join()
    assert {status for each in statuses for status in each} <= {200, 422, 429}
    assert {200, 422} <= {status for each in statuses for status in each}
    assert peak - before < MOST_MEMORY


@pytest.mark.parametrize(
    ("query", "may"),
    [
        (b"select=id,service_head_registry(id)", False),
        (b"select=id,a:service_head_registry(id),b:meter_registers(register_id)", False),
        (b"select=id,service_head_registry(id,properties(id))", True),
        (b"select=id,service_head_registry%28id,...properties%28id))", True),
        (b"limit=9&id=eq.1", False),
    ],
)
def test_85_what_is_embedded_in_one_another_may_multiply(query: bytes, may: bool) -> None:
    assert may_multiply(query) == may


def test_85_a_role_whose_queries_end_before_that_keeps_its_time(
    admin: psycopg.Connection[Any], stack: Stack
) -> None:
    token = stack.contract["escos"]["wlce"]["read_token"]
    claims = json.dumps(jwt.decode(token, options={"verify_signature": False}))
    told = []
    for own in ("300ms", "5s", "1min", "0"):
        admin.execute(
            "select set_config('request.jwt.claims', %s, true), set_config('role', 'flows', true),"
            " set_config('request.headers', '{\"x-flows-seconds\": \"5\"}', true),"
            " set_config('statement_timeout', %s, true)",
            (claims, own),
        )
        admin.execute("select gateway.authorize()")
        told += admin.execute("select current_setting('statement_timeout')").fetchall()
        admin.rollback()
    assert told == [("300ms",), ("5s",), ("5s",), ("5s",)]


def test_85_a_query_whose_rows_may_multiply_ends_after_seconds(either: Stack) -> None:
    """Twenty of each, all linked, were half a minute of work, and 150 MB until then."""
    with (
        psycopg.connect(either.contract["database_url"]) as admin,
        either.client("wlce") as client,
    ):
        admin.execute("lock table flows.circuits in access exclusive mode")
        answer = client.get("/rest/v1/meter_registry?select=id,meter_registers(circuits(id))")
        assert answer.status_code == 504, answer.text
        assert 4 < answer.elapsed.total_seconds() < 15
        admin.rollback()
        plain = client.get("/rest/v1/meter_registry?select=id,meter_registers(circuits(id))")
        assert plain.status_code == 200
