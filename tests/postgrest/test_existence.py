"""Nobody learns from an answer what others have (SECURITY 58)."""

import re
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest

from tests.conftest import Stack
from tests.sql.series import KEYS, TIME_SERIES

PREFERENCES = {
    "insert": "",
    "merge": "resolution=merge-duplicates",
    "ignore": "resolution=ignore-duplicates",
    "shown": "return=representation,resolution=merge-duplicates",
}
VALUES = {"event_type": 1}  # of meter_event_log, whose key it is part of
NAMES = re.compile(r"_hyper_|_chunk|\d+_\d+_|_20\d\d")


@pytest.fixture(scope="module")
def writer(stack: Stack) -> Iterator[httpx.Client]:
    """A client of wlce that writes."""
    with stack.client("wlce", "write") as client:
        yield client


@pytest.fixture(scope="module")
def foreign(stack: Stack) -> dict[str, dict[str, Any]]:
    """A row of hmce of each series that has any."""
    found = {}
    with stack.client("hmce") as client:
        for series in TIME_SERIES:
            rows = client.get(f"/rest/v1/{series}?order=timestamp&limit=1").json()
            if rows:
                found[series] = rows[0]
    return found


def answered(answer: httpx.Response) -> tuple[int, str, list[str]]:
    """Return all by which a caller can tell answers apart."""
    return answer.status_code, answer.text, sorted(answer.headers.keys() - {"x-request-id"})


def test_58_there_are_rows_of_nearly_every_series(foreign: dict[str, dict[str, Any]]) -> None:
    assert len(foreign) >= 8


@pytest.mark.parametrize("how", PREFERENCES)
@pytest.mark.parametrize("series", sorted(TIME_SERIES))
def test_58_a_row_of_a_foreign_register_is_refused_alike_whether_it_exists(
    stack: Stack, writer: httpx.Client, foreign: dict[str, dict[str, Any]], series: str, how: str
) -> None:
    key = KEYS[series]
    if series not in foreign:
        pytest.skip("the demo has no rows of it")
    there = {key: foreign[series][key], "timestamp": foreign[series]["timestamp"]}
    there |= {name: foreign[series][name] for name in VALUES if name in foreign[series]}
    cases = {
        "exists": there,
        "does not": there | {"timestamp": "2019-05-05T00:30:00+00:00"},
        "nobody's": there | {key: str(uuid4())},
    }
    heard = set()
    for body in cases.values():
        for rows in (body, [body]):
            headers = {"Prefer": PREFERENCES[how]}
            heard.add(str(answered(writer.post(f"/rest/v1/{series}", json=rows, headers=headers))))
    assert len(heard) == 1, heard
    status, text, _ = answered(
        writer.post(f"/rest/v1/{series}", json=there, headers={"Prefer": PREFERENCES[how]})
    )
    assert status == 403
    assert not NAMES.search(text), text
    # And by PATCH: an own row is not moved onto it, a foreign one is not found.
    own = writer.get(f"/rest/v1/{series}?limit=1").json()[0]
    at = f"{key}=eq.{own[key]}&timestamp=eq.{own['timestamp']}".replace("+", "%2B")
    moved = {
        str(answered(writer.patch(f"/rest/v1/{series}?{at}", json=case | {key: case[key]})))
        for case in cases.values()
    }
    assert len(moved) == 1, moved
    of_it = f"{key}=eq.{there[key]}"
    touched = writer.patch(f"/rest/v1/{series}?{of_it}", json={"timestamp": "2019-05-05T00:30Z"},
                           headers={"Prefer": "return=representation"})  # fmt: skip
    assert (touched.status_code, touched.json()) == (200, [])


@pytest.mark.parametrize("series", sorted(TIME_SERIES))
def test_58_a_conflict_with_an_own_row_names_no_partition_or_chunk(
    writer: httpx.Client, series: str
) -> None:
    rows = writer.get(f"/rest/v1/{series}?limit=1").json()
    if not rows:
        pytest.skip("the demo has no rows of it")
    own = {name: rows[0][name] for name in (KEYS[series], "timestamp", "event_type")
           if name in rows[0]}  # fmt: skip
    own |= {"read": 1} if "read" in rows[0] else {}
    answer = writer.post(f"/rest/v1/{series}", json=own)
    # A measured half-hour takes the place of a derived one.
    assert answer.status_code == 409, answer.text
    assert not NAMES.search(answer.text), answer.text


UNIQUE = {
    "serial": "serial", "ip_address": "ip_address", "iccid": "iccid", "emnify_id": "emnify_id",
}  # fmt: skip


@pytest.mark.parametrize("column", UNIQUE)
def test_58_an_identity_in_use_is_a_409_that_says_no_more(
    stack: Stack, writer: httpx.Client, column: str
) -> None:
    """A device is one ESCO's: its identity is unique over all (docs/adr/0009)."""
    escos, heard = stack.contract["escos"], set()
    value: Any = {"ip_address": "10.99.0.7", "emnify_id": 990_007}.get(column, f"T58-{column}")
    with psycopg.connect(stack.contract["database_url"], autocommit=True) as admin:
        for esco in ("hmce", "wlce"):
            meter = uuid4()
            known = {"serial": f"T58-{meter}", "name": "x"} | {column: value}
            admin.execute(
                f"insert into flows.meter_registry (id, esco, {', '.join(known)})"
                f" values (%s, %s{', %s' * len(known)})".encode(),
                (meter, escos[esco]["id"], *known.values()),
            )
            try:
                body = {"serial": f"T58-{uuid4()}", "name": "y"} | {column: value}
                answer = writer.post("/rest/v1/meter_registry", json=body)
                heard.add(str(answered(answer)))
                told = answer.json()
                assert (answer.status_code, told["code"]) == (409, "23505")
                assert told["details"] is told["hint"] is None
                assert escos["hmce"]["id"] not in answer.text
                assert str(value) not in answer.text
                # Ignored duplicates return no row, whoever has it.
                ignored = writer.post(
                    f"/rest/v1/meter_registry?on_conflict={column}",
                    json=body,
                    headers={"Prefer": "resolution=ignore-duplicates,return=representation"},
                )
                assert (ignored.status_code, ignored.json()) in ((200, []), (201, []))
            finally:
                admin.execute("delete from flows.meter_registry where id = %s", (meter,))
    assert len(heard) == 1, heard
