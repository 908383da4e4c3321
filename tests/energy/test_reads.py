"""Behaviour common to all reports of /v1, and `/v1/latest`."""

import csv
import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import polars as pl
import psycopg
import pytest
from pydantic import BaseModel

from app.energy.models import Alerts, Latest, MeterList
from tests.conftest import Stack
from tests.energy.conftest import OwnHome

Admin = psycopg.Connection[Any]
WINDOWED = ["energy", "balance", "profile", "peak", "completeness"]
READS = [*WINDOWED, "latest"]


MEDIA = {"arrow": "arrow.stream", "parquet": "parquet"}
COLUMNS = "application/vnd.flows.columns+json"


def iso(value: Any) -> Any:
    """Return a time as a text in UTC, also in lists and objects; other values as they are."""
    match value:
        case datetime():
            return value.astimezone(UTC).isoformat()
        case list():
            return [iso(each) for each in value]
        case dict():
            return {name: iso(each) for name, each in value.items()}
        case str() if value[10:11] == "T":
            return iso(datetime.fromisoformat(value))
    return value


def get(stack: Stack, read: str, esco: str = "wlce", **params: Any) -> httpx.Response:
    """Send GET with a read token of the ESCO; `read` is the path after /v1/."""
    headers = params.pop("headers", {})
    with stack.client(esco) as client:
        return client.get(f"/v1/{read}", params=period(stack, read) | params, headers=headers)


def period(stack: Stack, read: str) -> dict[str, str]:
    """Two days of the demo, for a read that takes a period."""
    return stack.period(37, 35) if read.rpartition("/")[2] in WINDOWED else {}


@pytest.fixture
def committed(stack: Stack) -> Iterator[Admin]:
    """A superuser's connection that commits every statement."""
    with psycopg.connect(stack.contract["database_url"], autocommit=True) as connection:
        yield connection


@pytest.mark.parametrize("read", READS)
def test_every_form_has_the_same_rows(stack: Stack, read: str) -> None:
    answer = get(stack, read)
    assert answer.status_code == 200, answer.text
    rows = json.loads(answer.text)["rows"]
    assert len(rows) >= 2
    lines = get(stack, read, format="ndjson")
    assert lines.headers["content-type"] == "application/x-ndjson"
    assert [json.loads(line) for line in lines.text.splitlines()] == rows
    ids = {} if read == "latest" else {"include": "ids"}
    table = get(stack, read, headers={"Accept": "text/csv"}, **ids)
    assert table.headers["content-type"].startswith("text/csv")
    assert f'filename="{read}_wlce' in table.headers["content-disposition"]
    for one, other in zip(csv.DictReader(io.StringIO(table.text)), rows, strict=True):
        assert one.keys() == other.keys()
        for name, value in other.items():
            written = "" if value is None else value if isinstance(value, str) else None
            if written is not None:
                assert one[name] == written
            else:
                assert json.loads(one[name]) == value
    for form, parse in (("arrow", pl.read_ipc_stream), ("parquet", pl.read_parquet)):
        typed = get(stack, read, format=form)
        assert typed.headers["content-type"] == f"application/vnd.apache.{MEDIA[form]}"
        assert f'.{form}"' in typed.headers["content-disposition"]
        assert json.loads(json.dumps(parse(io.BytesIO(typed.content)).to_dicts(), default=iso)) == [
            {name: iso(value) for name, value in row.items()} for row in rows
        ]
    asked = get(stack, read, format="columns")
    assert asked.headers["content-type"] == COLUMNS
    columns = asked.json()
    assert columns == get(stack, read, headers={"Accept": COLUMNS}).json()
    if "columns" in columns:
        named = columns["columns"]
        assert [
            dict(zip(named, row, strict=True)) for row in zip(*named.values(), strict=True)
        ] == (rows)
    else:
        times = columns["intervals"]
        assert [
            {name: times[name][n] if name in times else group[name] if isinstance(group[name], str)
             else group[name][n] for name in rows[0]}
            for n in range(len(times["interval_start"])) for group in columns["groups"]
        ] == rows  # fmt: skip


def test_a_meter_without_a_serial_number_is_told_as_described(stack: Stack) -> None:
    with stack.client("wlce", "write") as client:
        told = client.post(
            "/rest/v1/meter_registry",
            json={"name": "unnumbered"},
            headers={"Prefer": "return=representation"},
        )
        assert told.status_code == 201, told.text
        try:
            bodies: dict[str, type[BaseModel]]
            bodies = {"meters": MeterList, "latest": Latest, "alerts": Alerts}
            for read, body in bodies.items():
                answer = get(stack, read)
                body.model_validate_json(answer.content)
                assert read == "alerts" or "unnumbered" in answer.text
        finally:
            client.delete(
                f"/rest/v1/meter_registry?id=eq.{told.json()[0]['id']}"
            ).raise_for_status()


@pytest.mark.parametrize("accepted", ["identity", "gzip, br, zstd"])
def test_a_parquet_file_is_read_in_parts(stack: Stack, accepted: str) -> None:
    """Read as DuckDB does: the size by HEAD, then the end of the file, then some of its columns."""
    coding = {"Accept-Encoding": accepted}
    with stack.client("wlce") as client:
        asked: dict[str, Any] = {
            "url": "/v1/energy",
            "params": period(stack, "energy") | {"format": "parquet"},
        }
        head = client.head(**asked, headers=coding)
        size, tag = int(head.headers["content-length"]), head.headers["etag"]
        assert head.headers["accept-ranges"] == "bytes"
        assert head.content == b""
        whole = client.get(**asked, headers=coding)
        assert whole.status_code == 200
        assert len(whole.content) == size
        for span, part in (
            ("0-3", slice(0, 4)), (f"{size - 8}-{size - 1}", slice(size - 8, size)),
            ("-8", slice(size - 8, size)), ("4-", slice(4, size)), ("4-999999999", slice(4, size)),
            ("-999999999", slice(0, size)),
        ):  # fmt: skip
            answer = client.get(**asked, headers=coding | {"Range": f"bytes={span}"})
            assert (answer.status_code, answer.content) == (206, whole.content[part])
            assert answer.headers["content-range"] == f"bytes {part.start}-{part.stop - 1}/{size}"
            assert answer.headers["etag"] == tag
        for span in (f"{size}-", f"{size}-{size + 3}", "-0"):
            answer = client.get(**asked, headers=coding | {"Range": f"bytes={span}"})
            assert (answer.status_code, answer.json()["code"]) == (416, "range_not_satisfiable")
            assert answer.headers["content-range"] == f"bytes */{size}"
        for others in (
            {"Range": "bytes=0-1,4-5"}, {"Range": "rows=0-1"}, {"Range": "bytes=5-4"},
            {"Range": "bytes=-"}, {"Range": "bytes=0-1", "If-Range": '"another"'},
        ):  # fmt: skip
            answer = client.get(**asked, headers=coding | others)
            assert (answer.status_code, answer.content) == (200, whole.content)
        same = coding | {"Range": "bytes=0-1", "If-Range": tag}
        assert client.get(**asked, headers=same).status_code == 206
    with stack.client("hmce") as client:
        other = client.get(**asked, headers=coding | {"Range": "bytes=0-3"})
        assert other.headers["content-range"] != f"bytes 0-3/{size}"


@pytest.mark.parametrize("form", ["columns", "parquet"])
@pytest.mark.parametrize("name", ["limit", "cursor"])
def test_a_format_without_pages_refuses_them(stack: Stack, form: str, name: str) -> None:
    cursor = get(stack, "energy", limit=3).json()["next"]
    answer = get(stack, "energy", format=form, **{name: {"limit": 3, "cursor": cursor}[name]})
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["parameter"] == name
    assert "no pages" in error["message"]


@pytest.mark.parametrize("read", READS)
def test_nothing_of_another_esco_is_shown(stack: Stack, admin: Admin, read: str) -> None:
    home = admin.execute(
        "select m.circuit, g.serial, s.code from flows.circuit_register as m"
        " join flows.meter_registers as r on r.register_id = m.register"
        " join flows.meter_registry as g on g.id = r.meter_id"
        " join flows.sites_new as s on s.id = g.site where g.esco = %s limit 1",
        (stack.contract["escos"]["wlce"]["id"],),
    ).fetchone() or ("", "", "")
    nobody = ("00000000-0000-4000-8000-000000000000", "NONE", "none")
    for scope, name, none in zip(("circuits", "meters", "sites"), home, nobody, strict=True):
        assert get(stack, f"{scope}/{name}/{read}").status_code == 200
        foreign = get(stack, f"{scope}/{name}/{read}", "hmce")
        unknown = get(stack, f"{scope}/{none}/{read}", "hmce")
        assert foreign.status_code == unknown.status_code == 404
        assert foreign.json()["detail"] == unknown.json()["detail"]
        assert foreign.json()["code"] == "not_found"
    with stack.client(None) as client:
        assert client.get(f"/v1/{read}", params=stack.period(37, 35)).status_code == 401


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize(
    ("change", "allowed"),
    [
        ({"timezone": "Mars/Olympus"}, "IANA"),
        ({"format": "xml"}, "'json', 'columns', 'csv', 'ndjson', 'parquet' or 'arrow'"),
        ({"circuit": "C1"}, "UUID"),
        ({"circuit_type": "gas"}, "'power', 'heat' or 'solar'"),
        ({"colour": "red"}, "not permitted"),
        ({"site": "a\u0000b"}, "match"),
    ],
)
def test_a_refused_parameter_is_named(
    stack: Stack, read: str, change: dict[str, str], allowed: str
) -> None:
    answer = get(stack, read, **change)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    ((name, value),) = change.items()
    assert problem["code"] == "invalid_parameter"
    (error,) = problem["errors"]
    assert error["parameter"] == name
    assert error["value"] == value
    assert allowed in error["message"]


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("*/*", "application/json"), ("text/*", "text/csv"), ("application/*", "application/json"),
        ("application/json;q=0.5, text/csv;q=0.9", "text/csv"), ("TEXT/CSV", "text/csv"),
        ("application/x-ndjson, */*;q=0.1", "application/x-ndjson"),
        ("application/json;q=0, */*;q=0.5", "text/csv"), (",", "application/json"),
        ("text/html,application/xml;q=0.9,*/*;q=0.8", "application/json"),
        ("application/vnd.apache.parquet", "application/vnd.apache.parquet"),
        ("application/vnd.apache.arrow.stream, */*;q=0.5", "application/vnd.apache.arrow.stream"),
        ("text/csv;q=nonsense, */*;q=0.1", "application/json"), ("text/csv;q=2", "text/csv"),
        ("image/png", None), ("application/xml", None), ("text/csv;q=0", None), ("*/*;q=0", None),
    ],
)  # fmt: skip
def test_the_format_is_the_accept_headers_favourite(
    stack: Stack, accept: str, expected: str | None
) -> None:
    answer = get(stack, "energy", headers={"Accept": accept})
    if expected is None:
        assert (answer.status_code, answer.json()["code"]) == (406, "not_acceptable")
        assert "text/csv" in answer.json()["detail"]
    else:
        assert answer.status_code == 200
        assert answer.headers["content-type"].split(";")[0] == expected


@pytest.mark.parametrize("read", READS)
def test_a_repeated_parameter_is_refused(stack: Stack, read: str) -> None:
    twice = get(stack, read, timezone=["UTC", "Europe/London"])
    assert twice.status_code == 422
    (error,) = twice.json()["errors"]
    assert (error["parameter"], error["value"]) == ("timezone", "UTC, Europe/London")
    assert "once" in error["message"]
    assert get(stack, read, circuit_type=["power", "solar"]).status_code == 200
    many = get(stack, read, site=",".join(["x"] * 101))
    assert many.status_code == 422
    (error,) = many.json()["errors"]
    assert error["value"].startswith("x,x,x")


def test_a_foreign_id_never_gives_304(stack: Stack) -> None:
    with stack.client("wlce") as client:
        foreign = client.get("/rest/v1/circuits?select=id&limit=1").json()[0]["id"]
    for circuit in (foreign, "00000000-0000-4000-8000-000000000000"):
        answer = get(stack, f"circuits/{circuit}/energy", "hmce", headers={"If-None-Match": "*"})
        assert answer.status_code == 404


@pytest.mark.parametrize("read", WINDOWED)
@pytest.mark.parametrize("name", ["period_from", "period_to"])
@pytest.mark.parametrize(
    ("value", "advice"),
    [
        ("2026-10-20T00:00:00", "with its offset, like 2026-10-01T00:00:00Z"),
        ("2026-13-20", "or a local day"),
        ("2026-10-2", "or a local day"),
        ("1760000000", "with its offset"),
        ("2026-10-20T00:00:00 01:00", "write + as %2B"),
        ("0001-01-01T00:00:00Z", "between 2000 and 2100"),
        ("294277-01-01T00:00:00Z", "Input should be a valid datetime"),
    ],
)
def test_a_bad_time_is_refused_with_advice(
    stack: Stack, read: str, name: str, value: str, advice: str
) -> None:
    answer = get(stack, read, **{name: value})
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert (error["parameter"], error["value"]) == (name, value)
    assert advice in error["message"]


@pytest.mark.parametrize("read", ["profile", "peak", "completeness"])
def test_a_period_that_is_too_long_is_refused_by_name(stack: Stack, read: str) -> None:
    answer = get(stack, read, period_from="2020-01-01T00:00Z")
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["parameter"] == "period_to"
    assert "366 days" in error["message"]
    assert "1830 for one circuit" in error["message"]


@pytest.mark.parametrize(
    ("read", "change"),
    [
        ("peak", {"top": "0"}), ("peak", {"direction": "down"}), ("profile", {"days": "sunday"}),
        ("balance", {"granularity": "PT1M"}), ("energy", {"group_by": "planet"}),
        ("energy", {"limit": "0"}), ("energy", {"cursor": "zzz"}),
        ("energy", {"updated_since": "yesterday"}), ("energy", {"cursor": ""}),
        ("energy", {"updated_since": "0001-01-01T00:00:00Z"}),
    ],
)  # fmt: skip
def test_a_read_names_its_own_parameters(stack: Stack, read: str, change: dict[str, str]) -> None:
    answer = get(stack, read, **change)
    assert answer.status_code == 422
    ((name, value),) = change.items()
    (error,) = answer.json()["errors"]
    assert error["parameter"] == name
    assert error["value"] == value


@pytest.mark.parametrize("read", READS)
def test_the_etag_changes_exactly_when_the_data_do(
    stack: Stack, committed: Admin, read: str
) -> None:
    def ask(tag: str) -> httpx.Response:
        return get(stack, read, headers={"If-None-Match": tag})

    first = get(stack, read)
    assert first.headers["cache-control"] == "private, no-cache"
    assert {"Authorization", "apikey", "Accept"} <= set(first.headers["vary"].split(", "))
    again = ask(first.headers["etag"])
    assert (again.status_code, again.content) == (304, b"")
    # Change the end of a mapping, then restore it.
    where = (
        "where (circuit, register, start_time) = (select m.circuit, m.register, m.start_time from"
        " flows.circuit_register as m join flows.meter_registers as r on r.register_id = m.register"
        " join flows.meter_registry as g on g.id = r.meter_id where g.esco = %s"
        " order by m.circuit limit 1)"
    )
    esco = stack.contract["escos"]["wlce"]["id"]
    end = stack.midnight(36)
    tag = first.headers["etag"]
    for ends in (end, None):
        committed.execute(f"update flows.circuit_register set end_time = %s {where}", (ends, esco))
        committed.execute("call flows.follow()")
        changed = ask(tag)
        assert changed.status_code == 200
        assert changed.headers["etag"] != tag
        tag = changed.headers["etag"]
    assert changed.json()["rows"] == first.json()["rows"]


def test_each_page_has_its_own_etag(stack: Stack) -> None:
    first = get(stack, "energy", limit=3)
    following = {"limit": 3, "cursor": first.json()["next"]}
    tag = {"If-None-Match": first.headers["etag"]}
    second = get(stack, "energy", headers=tag, **following)
    assert second.status_code == 200
    assert second.json()["rows"] != first.json()["rows"]
    assert get(stack, "energy", limit=3, headers={"If-None-Match": "*"}).status_code == 304


@pytest.mark.parametrize("form", ["json", "csv", "ndjson"])
def test_pages_together_are_the_whole(stack: Stack, form: str) -> None:
    whole = get(stack, "energy", format=form)
    assert "link" not in whole.headers
    with stack.client("wlce") as client:
        answer = get(stack, "energy", format=form, limit=5)
        pages = [answer]
        while following := answer.links.get("next"):
            answer = client.get(following["url"])
            assert answer.status_code == 200, answer.text
            pages.append(answer)
    if form == "json":
        assert [page.json()["next"] is None for page in pages[-2:]] == [False, True]
        rows = [row for page in pages for row in page.json()["rows"]]
        assert rows == whole.json()["rows"]
    else:
        skip = int(form == "csv")
        lines = [line for page in pages for line in page.text.splitlines()[skip:]]
        assert lines == whole.text.splitlines()[skip:]
    assert len(pages) > 2


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("form", ["json", "csv", "ndjson", "parquet", "arrow", "columns"])
def test_headers_carry_the_metadata_that_lines_cannot(stack: Stack, read: str, form: str) -> None:
    answer = get(stack, read, format=form)
    said = get(stack, read).json()
    for header, member in (
        ("data-as-of", "data_as_of"), ("available-from", "available_from"),
        ("available-to", "available_to"),
    ):  # fmt: skip
        told, shown = answer.headers.get(header), said.get(member)
        assert (told is None) == (shown is None)
        if told:
            assert datetime.fromisoformat(told) == datetime.fromisoformat(shown)
    with stack.client("wlce") as client:
        head = client.head(f"/v1/{read}", params=period(stack, read) | {"format": form})
    assert (head.status_code, head.content) == (200, b"")
    ignored = {"date", "x-request-id", "server-timing", "transfer-encoding", "ratelimit"}
    assert {n: v for n, v in head.headers.items() if n not in ignored} == {
        n: v for n, v in answer.headers.items() if n not in ignored
    }
    if read == "latest":
        return
    with stack.client("wlce") as client:
        wrong = period(stack, read) | {"timezone": "Mars/Olympus"}
        refused = client.head(f"/v1/{read}", params=wrong)
    assert (refused.status_code, refused.content) == (422, b"")


def test_a_query_that_fails_is_an_error_not_a_cut_answer(stack: Stack, committed: Admin) -> None:
    # Provoke a statement timeout: the aggregate stays locked until the statement is cancelled.
    committed.execute("alter role public_backend set statement_timeout = '1s'")
    try:
        with psycopg.connect(stack.contract["database_url"]) as blocker:
            blocker.execute("lock table flows.register_interval_hh in access exclusive mode")
            answer = get(stack, "completeness")
    finally:
        committed.execute("alter role public_backend set statement_timeout = '30s'")
    assert answer.status_code == 504
    assert answer.headers["content-type"] == "application/problem+json"


def test_the_latest_is_the_newest_half_hour_and_the_balance(stack: Stack, admin: Admin) -> None:
    rows = get(stack, "latest").json(parse_float=Decimal)["rows"]
    expected = admin.execute(
        "select g.serial, s.balance, newest.at, newest.energy from flows.meter_registry as g"
        " join flows.meter_shadows as s using (id)"
        ' cross join lateral (select "timestamp" as at, sum(import_kwh) as energy'
        " from flows.register_interval_hh join flows.meter_registers as r using (register_id)"
        " where r.meter_id = g.id group by 1 order by 1 desc limit 1) as newest"
        " where g.esco = %s order by g.serial",
        (stack.contract["escos"]["wlce"]["id"],),
    ).fetchall()
    assert len(expected) == 13
    found = [
        (row["meter"], row["balance"], datetime.fromisoformat(row["interval_start"]),
         row["import_kwh"])
        for row in rows
    ]  # fmt: skip
    assert found == expected
    one = get(stack, f"meters/{rows[0]['meter']}/latest").json()["rows"]
    assert [row["meter"] for row in one] == [rows[0]["meter"]]
    solar = get(stack, "latest", circuit_type="solar").json()["rows"]
    assert [row["meter"] for row in solar] == ["WLCEPV01"]


def test_a_new_balance_shows_at_once(own_home: OwnHome) -> None:
    def ask(**headers: str) -> httpx.Response:
        return own_home.client.get("/v1/latest", headers=headers)

    def balance(answer: httpx.Response) -> float | None:
        (row,) = answer.json()["rows"]
        found: float | None = row["balance"]
        return found

    tag = ""
    for credit in (7.25, 3.5):
        own_home.execute(f"update flows.meter_shadows set balance = {credit} where id = %(meter)s")
        after = ask(**{"If-None-Match": tag})
        assert after.status_code == 200
        assert balance(after) == credit
        tag = after.headers["etag"]
    assert ask(**{"If-None-Match": tag}).status_code == 304


def test_the_future_has_no_gaps(own_home: OwnHome) -> None:
    def half_hours_until_now() -> datetime:
        now = datetime.now(UTC)
        return now.replace(minute=30 * (now.minute // 30), second=0, microsecond=0)

    # Readings stopped five hours before the last half-hour that has ended.
    before = half_hours_until_now()
    since, stopped = before - timedelta(days=2), before - timedelta(hours=5)
    own_home.read(since, stopped)
    tomorrow = before + timedelta(days=1)
    asked = {"period_from": since.isoformat(), "period_to": tomorrow.isoformat()}
    (row,) = own_home.client.get("/v1/completeness", params=asked).json()["rows"]
    (gap,) = row["gaps"]
    # Another half-hour may have ended meanwhile.
    until = datetime.fromisoformat(gap["end"])
    assert before <= until <= half_hours_until_now()
    assert datetime.fromisoformat(gap["start"]) == stopped
    assert row["expected_intervals"] == (until - since) / timedelta(minutes=30)
    assert row["present_intervals"] == (stopped - since) / timedelta(minutes=30)
    day_after = (tomorrow + timedelta(days=1)).isoformat()
    asked = {"period_from": tomorrow.isoformat(), "period_to": day_after}
    to_come = own_home.client.get("/v1/completeness", params=asked)
    assert to_come.json()["rows"] == []
