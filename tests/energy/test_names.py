"""Names beside keys, lists of everything that paths take, and local days."""

import csv
import io
import json
from datetime import datetime
from typing import Any

import polars as pl
import psycopg
import pytest

from tests.conftest import Stack
from tests.energy.conftest import OwnHome
from tests.energy.test_reads import get, iso

# List → its table, the column of what it lists, and where a report of it is.
LISTS = {
    "circuits": ("circuits", "id"),
    "meters": ("meter_registry", "serial"),
    "properties": ("properties", "id"),
    "sites": ("sites_new", "id"),
}
BY = {
    "circuit": ("circuit_name", "circuits", "id", "name"),
    "site": ("site_code", "sites_new", "id", "code"),
    "property": ("property_plot", "properties", "id", "plot"),
    "feeder": ("feeder_name", "feeder_registry", "id", "name"),
    "meter": ("meter_name", "meter_registry", "serial", "name"),
    "esco": ("esco_name", "escos", "code", "name"),
}


@pytest.mark.parametrize("by", BY)
@pytest.mark.parametrize("read", ["energy", "balance", "profile", "peak"])
def test_names_stand_beside_their_keys(
    stack: Stack, admin: psycopg.Connection[Any], read: str, by: str
) -> None:
    label, table, key, name = BY[by]
    names = dict(admin.execute(f"select {key}::text, {name} from flows.{table}").fetchall())
    rows = get(stack, read, group_by=by, include="names").json()["rows"]
    assert rows
    assert list(rows[0])[:2] == [by, label]
    assert {row[by]: row[label] for row in rows} == {
        row[by]: row[by] and names[row[by]] for row in rows
    }
    assert label not in get(stack, read, group_by=by).json()["rows"][0]
    columns = get(stack, read, group_by=by, include="names", format="columns").json()
    groups = columns["groups"] if "groups" in columns else [columns["columns"]]
    assert all(label in group for group in groups)
    for asked, expected in (({}, True), ({"include": "ids"}, False)):
        lines = get(stack, read, group_by=by, format="csv", **asked).text
        header = next(csv.reader(io.StringIO(lines)))
        assert (label in header) == expected


def test_a_meter_has_the_same_name_in_every_report(stack: Stack) -> None:
    listed = get(stack, "meters").json()["rows"]
    names = {row["meter"]: row["meter_name"] for row in listed}
    for read in ("energy", "completeness", "latest"):
        asked = {} if read == "latest" else {"include": "names"}
        by = {"group_by": "meter"} if read == "energy" else {}
        rows = get(stack, read, **asked, **by).json()["rows"]
        assert rows
        assert all(row["meter_name"] == names[row["meter"]] for row in rows), read


def test_a_new_name_moves_the_etag_of_rows_with_names_alone(own_home: OwnHome) -> None:
    asked = {"period_from": "2026-03-02", "period_to": "2026-03-03"}

    def tags() -> list[str]:
        return [
            own_home.client.get("/v1/energy", params=asked | more).headers["etag"]
            for more in ({}, {"include": "names"}, {"format": "csv"})
        ]

    before = tags()
    own_home.execute("update flows.circuits set name = 'Kitchen' where id = %(circuit)s")
    assert [one == other for one, other in zip(before, tags(), strict=True)] == [True, False, False]


@pytest.mark.parametrize("kind", [*LISTS, "escos"])
def test_a_list_is_the_same_in_every_format(stack: Stack, kind: str) -> None:
    rows = get(stack, kind).json()["rows"]
    lines = get(stack, kind, format="ndjson").text.splitlines()
    assert [json.loads(line) for line in lines] == rows
    columns = get(stack, kind, format="columns").json()["columns"]
    assert columns == {name: [row[name] for row in rows] for name in rows[0]}
    written = csv.DictReader(io.StringIO(get(stack, kind, format="csv").text))
    assert list(written) == [
        {name: value or "" for name, value in row.items()} for row in rows
    ]  # fmt: skip
    for form, parse in (("arrow", pl.read_ipc_stream), ("parquet", pl.read_parquet)):
        typed = parse(io.BytesIO(get(stack, kind, format=form).content)).to_dicts()
        assert [{name: iso(value) for name, value in row.items()} for row in typed] == [
            {name: iso(value) for name, value in row.items()} for row in rows
        ]


@pytest.mark.parametrize("kind", [*LISTS, "escos"])
def test_a_list_has_everything_that_paths_take(
    stack: Stack, admin: psycopg.Connection[Any], kind: str
) -> None:
    answer = get(stack, "latest", headers={})  # any read, for a warm gateway
    assert answer.status_code == 200
    with stack.client("wlce") as client:
        listed = client.get(f"/v1/{kind}")
        assert listed.status_code == 200, listed.text
        rows = listed.json()["rows"]
        first = next(iter(rows[0]))
        if kind == "escos":
            assert [row["esco"] for row in rows] == ["wlce"]
        else:
            table, key = LISTS[kind]
            own = admin.execute(
                f"select {key}::text from flows.{table} where esco = %s order by 1",
                (stack.contract["escos"]["wlce"]["id"],),
            )
            assert sorted(row[first] for row in rows) == [value for (value,) in own]
        for row in rows[:2]:
            latest = client.get(f"/v1/{kind}/{row[first]}/latest")
            assert latest.status_code == 200, latest.text
        tag = {"If-None-Match": listed.headers["etag"]}
        assert client.get(f"/v1/{kind}", headers=tag).status_code == 304
        assert client.head(f"/v1/{kind}").headers["etag"] == listed.headers["etag"]
        lines = client.get(f"/v1/{kind}", params={"format": "csv"}).text
        assert [line[first] for line in csv.DictReader(io.StringIO(lines))] == [
            row[first] for row in rows
        ]
        assert client.get(f"/v1/{kind}", params={"colour": "red"}).status_code == 422
    with stack.client(None) as client:
        assert client.get(f"/v1/{kind}").status_code == 401


def test_a_circuit_is_listed_with_its_extent(stack: Stack) -> None:
    with stack.client("wlce") as client:
        for row in client.get("/v1/circuits").json()["rows"][:3]:
            body = client.get(
                f"/v1/circuits/{row['circuit']}/energy",
                params={"period_from": "2026-10-01", "period_to": "2026-10-02"},
            ).json()
            assert (row["available_from"], row["available_to"]) == (
                body["available_from"], body["available_to"],
            )  # fmt: skip


@pytest.mark.parametrize(
    ("timezone", "start", "end"),
    [
        ("Europe/London", "2026-03-29T00:00:00+00:00", "2026-03-30T00:00:00+01:00"),
        ("Asia/Kathmandu", "2026-03-29T00:00:00+05:45", "2026-03-30T00:00:00+05:45"),
        ("Australia/Lord_Howe", "2026-03-29T00:00:00+11:00", "2026-03-30T00:00:00+11:00"),
    ],
)
def test_a_date_alone_is_a_local_day(
    own_home: OwnHome, timezone: str, start: str, end: str
) -> None:
    days = {"timezone": timezone, "period_from": "2026-03-29", "period_to": "2026-03-30"}
    body = own_home.client.get("/v1/energy", params=days).json()
    assert (body["period_from"], body["period_to"]) == (start, end)
    (row,) = body["rows"]
    assert (row["interval_start"], row["interval_end"]) == (start, end)


@pytest.mark.parametrize("read", ["energy", "peak", "latest", "circuits"])
def test_local_times_are_those_of_iso_in_two_columns(stack: Stack, read: str) -> None:
    params: dict[str, Any] = {} if read in ("latest", "circuits") else stack.period(9, 7)
    with stack.client("wlce") as client:
        found = {}
        for times in ("iso", "local"):
            answer = client.get(f"/v1/{read}", params=params | {"format": "csv", "times": times})
            assert answer.status_code == 200, answer.text
            found[times] = list(csv.DictReader(io.StringIO(answer.text)))
        refused = client.get(f"/v1/{read}", params=params | {"times": "local"})
    assert (refused.status_code, refused.json()["errors"][0]["parameter"]) == (422, "times")
    assert found["iso"]
    split = {name for name in found["local"][0] if name.endswith("_offset")}
    assert split
    for written, local in zip(found["iso"], found["local"], strict=True):
        for name in written:
            if f"{name}_offset" not in split:
                assert local[name] == written[name]
            elif not written[name]:
                assert local[name] == local[f"{name}_offset"] == ""
            else:
                moment = datetime.strptime(local[name], "%Y-%m-%d %H:%M:%S")
                offset = local[f"{name}_offset"]
                assert offset.startswith("UTC")
                given = datetime.fromisoformat(written[name])
                assert (
                    f"{moment.isoformat()}{offset[3:]}" == given.replace(microsecond=0).isoformat()
                )
