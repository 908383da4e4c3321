"""`/v1/energy` by group, path, page and format: energy stays the same and is counted once."""

import csv
import io
import json
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import psycopg
import pytest

from tests.conftest import Stack, flows

Admin = psycopg.Connection[Any]
LONDON = ZoneInfo("Europe/London")

# Every half-hour with all of its group keys, read from the tables.
RAW = """
    select e.code as esco, s.id::text as site, c.id::text as circuit, c.type as circuit_type,
        meter.serial as meter, r.register_id::text as register, r."timestamp",
        r.import_kwh, r.export_kwh,
        (select link.property::text from flows.service_head_meter as on_head
         join flows.properties_service_head as link using (service_head)
         where on_head.meter = meter.id) as property
    from flows.register_interval_hh as r
    join flows.circuit_register as m on m.register = r.register_id
        and r."timestamp" >= m.start_time and (r."timestamp" < m.end_time or m.end_time is null)
    join flows.circuits as c on c.id = m.circuit
    join flows.meter_registers as g on g.register_id = r.register_id
    join flows.meter_registry as meter on meter.id = g.meter_id
    join flows.escos as e on e.id = meter.esco
    left join flows.sites_new as s on s.id = c.site
    where e.code = 'wlce' and r."timestamp" >= %(period_from)s and r."timestamp" < %(period_to)s
"""


def get(stack: Stack, path: str, esco: str = "wlce", **params: Any) -> httpx.Response:
    """Send GET with a read token of the ESCO."""
    headers = params.pop("headers", {})
    with stack.client(esco) as client:
        return client.get(path, params=period(stack) | params, headers=headers)


def period(stack: Stack) -> dict[str, str]:
    """Ten days of the demo."""
    return stack.period(37, 27)


def rows_of(answer: httpx.Response) -> list[dict[str, Any]]:
    """Return the rows of a JSON response, with exact numbers."""
    assert answer.status_code == 200, answer.text
    rows: list[dict[str, Any]] = answer.json(parse_float=Decimal)["rows"]
    return rows


def raw(stack: Stack, admin: Admin) -> list[dict[str, Any]]:
    """Return the half-hours of wlce in the period."""
    cursor = admin.execute(RAW, period(stack))
    names = [column.name for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor]


@pytest.mark.parametrize(
    "group_by",
    [
        ["esco"], ["site"], ["circuit_type"], ["circuit"], ["meter"], ["register"],
        ["site", "circuit_type"], ["meter", "circuit"], ["property", "circuit_type"],
    ],
)  # fmt: skip
def test_every_grouping_adds_up_to_the_raw_half_hours(
    stack: Stack, admin: Admin, group_by: list[str]
) -> None:
    expected: dict[tuple[Any, ...], list[Any]] = defaultdict(
        lambda: [Decimal(0), Decimal(0), set()]
    )
    for row in raw(stack, admin):
        day = row["timestamp"].astimezone(LONDON).date().isoformat()
        key = (day, *(row[name] for name in group_by))
        expected[key][0] += row["import_kwh"]
        expected[key][1] += row["export_kwh"]
        expected[key][2].add(row["meter"])
    found = {}
    for row in rows_of(get(stack, "/v1/energy", group_by=",".join(group_by))):
        if row["present_intervals"] == 0:
            assert row["import_kwh"] is None
            continue
        key = (row["interval_start"][:10], *(row[name] for name in group_by))
        assert key not in found
        found[key] = row
    assert found.keys() == expected.keys()
    assert len(found) >= 10
    for key, (imported, exported, meters) in expected.items():
        assert (Decimal(found[key]["import_kwh"]), Decimal(found[key]["export_kwh"])) == (
            imported,
            exported,
        )
        assert found[key]["meters_reporting"] == len(meters)
        start = datetime.fromisoformat(key[0]).replace(tzinfo=LONDON)
        length = (start + timedelta(days=1)).astimezone(UTC) - start.astimezone(UTC)
        assert found[key]["expected_intervals"] == length / timedelta(minutes=30)


def test_every_scope_shows_its_own_part(stack: Stack, admin: Admin) -> None:
    half_hours = raw(stack, admin)
    home = next(row for row in half_hours if row["property"])
    for path, name in (
        ("circuits", "circuit"),
        ("meters", "meter"),
        ("properties", "property"),
        ("sites", "site"),
        ("escos", "esco"),
    ):
        rows = rows_of(get(stack, f"/v1/{path}/{home[name]}/energy", group_by="esco"))
        total = sum(Decimal(row["import_kwh"]) for row in rows)
        assert total == sum(r["import_kwh"] for r in half_hours if r[name] == home[name]), path
        foreign = get(stack, f"/v1/{path}/{home[name]}/energy", esco="hmce")
        unknown = get(stack, f"/v1/{path}/00000000-0000-4000-8000-000000000000/energy", esco="hmce")
        assert foreign.status_code == unknown.status_code == 404, path
        assert foreign.json()["detail"] == unknown.json()["detail"]


def test_all_forms_say_the_same(stack: Stack) -> None:
    rows = rows_of(get(stack, "/v1/energy", group_by="circuit_type"))
    comma = get(stack, "/v1/energy", group_by="circuit_type", format="csv")
    assert comma.headers["content-type"].startswith("text/csv")
    assert ".csv" in comma.headers["content-disposition"]
    table = list(csv.DictReader(io.StringIO(comma.text)))
    lines = get(
        stack, "/v1/energy", group_by="circuit_type", headers={"Accept": "application/x-ndjson"}
    )
    parsed = [json.loads(line, parse_float=Decimal) for line in lines.text.splitlines()]
    assert parsed == rows
    for one, other in zip(table, rows, strict=True):
        assert (one["circuit_type"], Decimal(one["import_kwh"])) == (
            other["circuit_type"],
            Decimal(other["import_kwh"]),
        )


def test_pages_make_up_the_whole(stack: Stack) -> None:
    whole = rows_of(get(stack, "/v1/energy"))
    pages: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    for _ in range(100):
        answer = get(stack, "/v1/energy", limit=33, **cursor)
        pages += rows_of(answer)
        if not (following := answer.json()["next"]):
            break
        cursor = {"cursor": following}
    assert pages == whole
    assert len(whole) > 100
    tampered = get(stack, "/v1/energy", limit=33, cursor=cursor["cursor"][:-4] + "AAAA")
    assert 400 <= tampered.status_code < 500


def test_an_unchanged_answer_is_not_sent_again(stack: Stack) -> None:
    first = get(stack, "/v1/energy", group_by="esco")
    tag = {"If-None-Match": first.headers["etag"]}
    again = get(stack, "/v1/energy", group_by="esco", headers=tag)
    assert (again.status_code, again.content) == (304, b"")
    other = get(stack, "/v1/energy", esco="hmce", group_by="esco", headers=tag)
    assert other.status_code == 200
    with stack.client("wlce", "write") as client:
        # Write a late reading, then restore it.
        noon = stack.midnight(34) + timedelta(hours=12)
        where = {"timestamp": f"eq.{noon.isoformat()}", "limit": "1", "order": "register_id"}
        (row,) = client.get("/rest/v1/register_interval_hh", params=where).json()
        key = {"timestamp": where["timestamp"], "register_id": f"eq.{row['register_id']}"}
        for energy in (row["import_kwh"] + 1, row["import_kwh"]):
            changed = client.patch(
                "/rest/v1/register_interval_hh", params=key, json={"import_kwh": energy}
            )
            assert changed.status_code == 204, changed.text
            flows(stack, "db", "refresh")
            now = get(stack, "/v1/energy", group_by="esco", headers=tag)
            assert now.status_code == 200
    assert now.json()["rows"] == first.json()["rows"]


# Change and its reversal, of a circuit of wlce and one of its half-hours.
CHANGES = {
    "a late reading": (
        "update flows.register_interval_hh set import_kwh = import_kwh + 1"
        ' where register_id = %(register)s and "timestamp" = %(noon)s',
        "update flows.register_interval_hh set import_kwh = import_kwh - 1"
        ' where register_id = %(register)s and "timestamp" = %(noon)s',
    ),
    "a removed reading": (
        "delete from flows.register_interval_hh"
        ' where register_id = %(register)s and "timestamp" = %(noon)s',
        'insert into flows.register_interval_hh (register_id, "timestamp", import_kwh, export_kwh)'
        " values (%(register)s, %(noon)s, %(import_kwh)s, %(export_kwh)s)",
    ),
    "a mapping that ends": (
        "update flows.circuit_register set end_time = %(midnight)s"
        " where circuit = %(circuit)s and register = %(register)s",
        "update flows.circuit_register set end_time = null"
        " where circuit = %(circuit)s and register = %(register)s",
    ),
    "a circuit of another type": (
        "update flows.circuits set type = 'solar' where id = %(circuit)s",
        "update flows.circuits set type = 'power' where id = %(circuit)s",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("granularity", ["PT30M", "P1D"])
def test_what_changed_since_brings_an_answer_up_to_date(
    stack: Stack, change: str, granularity: str
) -> None:
    def ask(**params: Any) -> dict[str, Any]:
        answer = get(
            stack, "/v1/energy", group_by="circuit,circuit_type", granularity=granularity, **params
        )
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body

    with psycopg.connect(stack.contract["database_url"], autocommit=True) as committed:
        home = committed.execute(
            "select m.circuit, m.register from flows.circuit_register as m"
            " join flows.circuits as c on c.id = m.circuit and c.type = 'power'"
            " join flows.meter_registers as r on r.register_id = m.register"
            " join flows.meter_registry as g on g.id = r.meter_id where g.esco = %s"
            " order by 1 limit 1",
            (stack.contract["escos"]["wlce"]["id"],),
        ).fetchone() or (None, None)
        noon = stack.midnight(34) + timedelta(hours=12)
        ((imported, exported),) = committed.execute(
            "select import_kwh, export_kwh from flows.register_interval_hh"
            ' where register_id = %s and "timestamp" = %s',
            (home[1], noon),
        ).fetchall()
        values = {
            "circuit": home[0], "register": home[1], "noon": noon, "midnight": stack.midnight(33),
            "import_kwh": imported, "export_kwh": exported,
        }  # fmt: skip
        before = ask()["rows"]
        since = ask()["data_as_of"]
        kept: dict[str, list[Any]] = defaultdict(list)
        for row in before:
            kept[row["interval_start"]].append(row)
        assert ask(updated_since=since)["rows"] == []
        for statement in CHANGES[change]:
            committed.execute(statement, values)
            committed.execute("call flows.follow()")
            changed = ask(updated_since=since)["rows"]
            assert changed
            # The same must hold in pages.
            page = ask(updated_since=since, limit=len(changed) // 2 + 1)
            rest = ask(updated_since=since, limit=len(changed) // 2 + 1, cursor=page["next"])
            assert page["rows"] + rest["rows"] == changed
            assert rest["next"] is None
            for start in {row["interval_start"] for row in changed}:
                kept[start] = [row for row in changed if row["interval_start"] == start]
            whole = ask()["rows"]
            assert [row for start in sorted(kept) for row in kept[start]] == sorted(
                whole, key=lambda row: (row["interval_start"], row["circuit"])
            )
            if change in ("a late reading", "a removed reading"):
                assert len({row["interval_start"] for row in changed}) <= 2
        assert whole == before  # as it was
