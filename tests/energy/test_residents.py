"""Residents at both doors: what is their own while they live there, and nothing is written."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import psycopg
import pytest

from tests.conftest import Stack
from tests.homes import TODAY, Home, Resident, add_residents, home_of, token_of

Bodies = dict[str, Any]
REPORTS = ("energy", "balance", "profile", "peak", "completeness")
EVER = {
    "period_from": (TODAY - timedelta(days=80)).isoformat(),
    "period_to": TODAY.isoformat(),
    "timezone": "UTC",
}


@pytest.fixture(scope="module")
def residents(stack: Stack) -> Iterator[dict[str, Resident]]:
    """The residents of `tests.homes`, while this module's tests run."""
    with psycopg.connect(stack.contract["database_url"]) as admin:
        found = add_residents(admin)
        admin.commit()
        yield found
        admin.execute("delete from gateway.issuer where url = 'https://residents.example'")
        admin.commit()


@pytest.fixture
def clients(stack: Stack, residents: dict[str, Resident]) -> Iterator[dict[str, httpx.Client]]:
    """A client of the gateway for each resident, and one for the ESCO."""
    found = {name: client_of(stack, resident) for name, resident in residents.items()}
    found["esco"] = httpx.Client(
        base_url=stack.contract["base_url"], headers=stack.client("wlce").headers, timeout=30
    )
    yield found
    for client in found.values():
        client.close()


def client_of(stack: Stack, resident: Resident) -> httpx.Client:
    return httpx.Client(
        base_url=stack.contract["base_url"],
        headers={"Authorization": f"Bearer {token_of(stack, resident)}"},
        timeout=30,
    )


def answered(client: httpx.Client, path: str, **parameters: Any) -> Any:
    answer = client.get(path, params=parameters)
    assert answer.status_code in (200, 206), (path, answer.text)
    return answer.json()


def strangers(stack: Stack, resident: Resident) -> set[str]:
    """Return the ids and serials of all other homes of the ESCO."""
    with psycopg.connect(stack.contract["database_url"]) as admin:
        rows = admin.execute(
            "select unnest(array[m.id::text, m.serial, r.register_id::text, c.circuit::text,"
            " h.service_head::text, p.property::text]) as id"
            " from flows.meter_registry as m"
            " left join flows.meter_registers as r on r.meter_id = m.id"
            " left join flows.circuit_register as c on c.register = r.register_id"
            " left join flows.service_head_meter as h on h.meter = m.id"
            " left join flows.properties_service_head as p on p.service_head = h.service_head"
            " where m.id <> all(%s::uuid[])",
            ([home.meter for home, _ in resident.stays],),
        )
        return {row[0] for row in rows if row[0]}


def test_no_answer_names_a_neighbour(
    stack: Stack, residents: dict[str, Resident], clients: dict[str, httpx.Client]
) -> None:
    paths = [f"/v1/{name}" for name in ("circuits", "meters", "properties", "sites", "escos")]
    paths += ["/v1/latest", "/v1/alerts"]
    relations = answered(clients["settled"], "/rest/v1/")["definitions"]
    for name, resident in residents.items():
        others = strangers(stack, resident)
        asked: list[tuple[str, Bodies]] = [(path, {}) for path in paths]
        asked += [(f"/v1/{report}", EVER) for report in REPORTS]
        asked += [
            ("/v1/energy", EVER | {"group_by": by})
            for by in ("property", "meter", "register", "circuit", "circuit_type", "site", "esco")
        ]
        asked += [(f"/rest/v1/{relation}", {"limit": 1000}) for relation in relations]
        # Back from what several homes have in common.
        asked += [
            (f"/rest/v1/{relation}", {"select": select})
            for relation, select in (
                ("escos", "*,sites_new(*),meter_registry(*)"),
                ("sites_new", "*,properties(*),circuits(*)"),
                ("circuits", "*,circuit_register(*,meter_registers(*,meter_registry(*)))"),
            )
        ]
        for path, parameters in asked:
            text = clients[name].get(path, params=parameters).raise_for_status().text
            assert not [other for other in others if other in text], (name, path, parameters)


def test_lists_are_the_homes_own(
    residents: dict[str, Resident], clients: dict[str, httpx.Client]
) -> None:
    for name, resident in residents.items():
        homes = [home for home, _ in resident.stays]
        circuits = answered(clients[name], "/v1/circuits")["rows"]
        assert {row["circuit"] for row in circuits} == {c for h in homes for c in h.circuits}
        meters = answered(clients[name], "/v1/meters")["rows"]
        assert {row["meter_id"] for row in meters} == {home.meter for home in homes}
        assert {row["properties"] for row in meters} == {home.house for home in homes}
        assert len(answered(clients[name], "/v1/properties")["rows"]) == len(homes)
        assert len(answered(clients[name], "/v1/sites")["rows"]) == 1
        assert len(answered(clients[name], "/v1/escos")["rows"]) == 1


def energy_by_half_hours(
    client: httpx.Client, home: Home, stay: tuple[Any, Any]
) -> dict[str, float]:
    """Return the sums of the ESCO's half-hours that lie within a stay, by day in UTC."""
    start, end = stay
    first, last = max(start, TODAY - timedelta(days=80)), min(end or TODAY, TODAY)
    # The half-hours that lie wholly in it.
    first = datetime.fromtimestamp(-(-first.timestamp() // 1800) * 1800, UTC)
    last = datetime.fromtimestamp(last.timestamp() // 1800 * 1800, UTC)
    days: dict[str, float] = {}
    for register in home.registers:
        rows = client.get(
            "/rest/v1/register_interval_hh",
            params={"register_id": f"eq.{register}", "select": "timestamp,import_kwh", "and":
                    f"(timestamp.gte.{first.isoformat()},timestamp.lt.{last.isoformat()})"},
        ).raise_for_status().json()  # fmt: skip
        for row in rows:
            day = row["timestamp"][:10]
            days[day] = days.get(day, 0) + (row["import_kwh"] or 0)
    return days


@pytest.mark.parametrize("by", ["property", "meter", "circuit", "esco"])
@pytest.mark.parametrize("granularity", ["P1D", "P1M", "P1Y"])
def test_energy_is_that_of_the_stay(
    residents: dict[str, Resident], clients: dict[str, httpx.Client], by: str, granularity: str
) -> None:
    """Also on the days on which it began and ended, of which stored sums have more."""
    for name, resident in residents.items():
        expected: dict[str, float] = {}
        for home, stay in resident.stays:
            for day, kwh in energy_by_half_hours(clients["esco"], home, stay).items():
                key = day[: {"P1D": 10, "P1M": 7, "P1Y": 4}[granularity]]
                expected[key] = expected.get(key, 0) + kwh
        rows = answered(
            clients[name], "/v1/energy", **EVER, granularity=granularity, group_by=by, limit=10000
        )["rows"]
        found: dict[str, float] = {}
        for row in rows:
            key = row["interval_start"][: {"P1D": 10, "P1M": 7, "P1Y": 4}[granularity]]
            found[key] = found.get(key, 0) + (row["import_kwh"] or 0)
        assert {key: round(kwh, 3) for key, kwh in found.items() if kwh} == {
            key: round(kwh, 3) for key, kwh in expected.items() if kwh
        }, name


def test_a_stay_is_complete(
    residents: dict[str, Resident], clients: dict[str, httpx.Client]
) -> None:
    """The stay is expected, and no more; the time before and after is nobody's gap."""
    for name, resident in residents.items():
        rows = answered(clients[name], "/v1/completeness", **EVER)["rows"]
        assert len(rows) == sum(len(home.registers) for home, _ in resident.stays), name
        assert all(row["expected_intervals"] == row["present_intervals"] for row in rows), rows
        balance = answered(clients[name], "/v1/balance", **EVER, granularity="P1D")
        told = [row for row in balance["rows"] if row["expected_intervals"]]
        assert told


def test_the_present_is_for_who_lives_there_now(
    residents: dict[str, Resident], clients: dict[str, httpx.Client]
) -> None:
    former = answered(clients["former"], "/v1/latest")["rows"]
    assert [row["balance"] for row in former] == [None]
    assert [row["interval_start"] for row in former] == [None]
    assert answered(clients["former"], "/rest/v1/meter_shadows") == []
    following = answered(clients["next"], "/v1/latest")["rows"]
    assert [row["meter"] for row in following] == [row["meter"] for row in former]
    assert following[0]["balance"] is not None
    assert following[0]["interval_start"] is not None
    moved = answered(clients["moved"], "/v1/latest")["rows"]
    assert len(moved) == 2
    assert sum(row["balance"] is not None for row in moved) == 1


def test_nothing_is_missed_after_a_stay(
    residents: dict[str, Resident], clients: dict[str, httpx.Client]
) -> None:
    """Half-hours are expected of a home from who moved in until it moves out."""
    query = {"alert": ["missing_readings", "stuck_register"], "silent_hours": 1, "stuck_days": 1}
    assert answered(clients["former"], "/v1/alerts", **query)["rows"] == []
    found = answered(clients["moved"], "/v1/alerts", **query)["rows"]
    left, _ = (home for home, _ in residents["moved"].stays)
    assert not {row["register"] for row in found} & set(left.registers)


def test_a_neighbours_id_is_unknown(
    stack: Stack, residents: dict[str, Resident], clients: dict[str, httpx.Client]
) -> None:
    with psycopg.connect(stack.contract["database_url"]) as admin:
        other = home_of(admin, "5")
        row = admin.execute(
            "select serial from flows.meter_registry where id = %s", (other.meter,)
        ).fetchone()
    assert row is not None
    asked = {
        "circuit": (other.circuits[0], "00000000-0000-4000-8000-000000000000"),
        "property": (other.house, "00000000-0000-4000-8000-000000000000"),
        "meter": (row[0], "NONE"),
    }
    for report in REPORTS:
        for name, values in asked.items():
            answers = [
                clients["settled"].get(f"/v1/{report}", params=EVER | {name: value})
                for value in values
            ]
            told = [(one.status_code, one.json()["code"]) for one in answers]
            assert told[0] == told[1], (report, name)
            assert told[0][0] == 404
    assert clients["settled"].get(
        "/rest/v1/register_interval_hh", params={"register_id": f"eq.{other.registers[0]}"}
    ).json() == []  # fmt: skip


def test_writing_and_the_rest_is_refused_with_a_reason(
    stack: Stack, residents: dict[str, Resident], clients: dict[str, httpx.Client]
) -> None:
    client, home = clients["settled"], residents["settled"].stays[0][0]
    row = {"register_id": home.registers[0], "timestamp": TODAY.isoformat(), "import_kwh": 1}
    tries = [
        client.post("/rest/v1/register_interval_hh", json=row),
        client.post("/rest/v1/meter_registry", json={"serial": "X", "name": "x"}),
        client.patch(f"/rest/v1/meter_shadows?id=eq.{home.meter}", json={"balance": 100}),
        client.patch(f"/rest/v1/properties?id=eq.{home.house}", json={"plot": "x"}),
        client.delete(f"/rest/v1/circuits?id=eq.{home.circuits[0]}"),
        client.post("/rest/v1/rpc/derive_interval_hh", json={
            "register_id": home.registers[0], "period_from": EVER["period_from"],
            "period_to": EVER["period_to"]}),
        client.get("/rest/v1/ev_chargers"),
        client.get("/rest/v1/feeder_registry"),
        client.get("/rest/v1/rpc/get_meters_for_cli"),
        client.get("/rest/v1/rpc/newest_register_interval_hh?rows=1&with_ties=true"),
        client.post("/v1/imports", files={"file": ("x.csv", b"a,b\n1,2\n")}),
        client.get("/v1/imports/00000000-0000-4000-8000-000000000000"),
        client.get("/v1/energy", params=EVER | {"group_by": "feeder"}),
        client.get("/v1/energy", params=EVER | {"feeder": "wlce-feeder-1"}),
        client.get("/v1/energy", params=EVER | {"updated_since": TODAY.isoformat()}),
        client.get("/admin/clients"),
        client.get("/admin/members"),
    ]  # fmt: skip
    for answer in tries:
        assert answer.status_code == 403, (answer.request.url, answer.text)
        told = answer.json()
        assert told.get("message") or told.get("detail"), answer.text


def version_of(client: httpx.Client) -> tuple[str, ...]:
    """Return what tells a client that its figures have changed."""
    answer = client.get("/v1/energy", params=EVER | {"granularity": "P1D"})
    listed = client.get("/v1/meters")
    latest = client.get("/v1/latest")
    return (
        answer.headers["etag"], answer.headers.get("data-as-of", ""), listed.headers["etag"],
        latest.headers["etag"], str(answer.json()["next_changes"]),
    )  # fmt: skip


def test_a_tag_moves_with_what_is_seen_alone(
    stack: Stack, residents: dict[str, Resident], clients: dict[str, httpx.Client]
) -> None:
    """Neither a neighbour's reading nor its name nor the next resident's moves anything."""
    (home, _), (before, _) = residents["settled"].stays[0], residents["former"].stays[0]
    at = TODAY - timedelta(days=10, hours=-12)
    with psycopg.connect(stack.contract["database_url"], autocommit=True) as admin:
        neighbour = home_of(admin, "5")

        def change(register: str, kwh: str) -> None:
            admin.execute(
                f"update flows.register_interval_hh set import_kwh = import_kwh + {kwh}"
                ' where register_id = %s and "timestamp" = %s'.encode(),
                (register, at),
            )

        versions = {name: version_of(clients[name]) for name in residents}
        assert versions["settled"][4] == "None"
        change(neighbour.registers[0], "1")
        admin.execute(
            "update flows.meter_registry set name = name || ' x' where id = %s", (neighbour.meter,)
        )
        assert {name: version_of(clients[name]) for name in residents} == versions
        # The former resident of the next one's home does not see its reading.
        change(before.registers[0], "1")
        moved = {name: version_of(clients[name]) for name in residents}
        assert moved["former"] == versions["former"]
        assert moved["settled"] == versions["settled"]
        assert moved["next"][0] != versions["next"][0]
        change(home.registers[0], "1")
        admin.execute("update flows.meter_registry set name = name || ' x' where id = %s",
                      (home.meter,))  # fmt: skip
        now = version_of(clients["settled"])
        assert now[0] != versions["settled"][0]
        assert now[2] != versions["settled"][2]
        tag = clients["settled"].get(
            "/v1/energy", params=EVER | {"granularity": "P1D"}, headers={"If-None-Match": now[0]}
        )
        assert tag.status_code == 304
        for register in (neighbour.registers[0], before.registers[0], home.registers[0]):
            change(register, "-1")
        admin.execute(
            "update flows.meter_registry set name = replace(name, ' x', '') where id = any(%s)",
            ([neighbour.meter, home.meter],),
        )


def test_who_moves_out_sees_no_more(
    stack: Stack, residents: dict[str, Resident], clients: dict[str, httpx.Client]
) -> None:
    """At both doors, with the token that it has."""
    client, resident = clients["next"], residents["next"]
    assert answered(client, "/rest/v1/meter_shadows")
    end = "update gateway.residence set end_time = %s where member = %s"
    with psycopg.connect(stack.contract["database_url"], autocommit=True) as admin:
        admin.execute(end, (TODAY - timedelta(days=5), resident.member))
        try:
            assert answered(client, "/rest/v1/meter_shadows") == []
            newest = answered(
                client, "/rest/v1/register_interval_hh", order="timestamp.desc", limit=1
            )
            assert newest[0]["timestamp"] < (TODAY - timedelta(days=5)).isoformat()
            rows = answered(client, "/v1/energy", **EVER, granularity="P1D")["rows"]
            told = [row["interval_start"] for row in rows if row["import_kwh"] is not None]
            assert max(told)[:10] == (TODAY - timedelta(days=6)).date().isoformat()
        finally:
            admin.execute(end, (None, resident.member))


def test_a_disabled_resident_is_refused_within_seconds(
    stack: Stack, residents: dict[str, Resident], clients: dict[str, httpx.Client]
) -> None:
    client, member = clients["moved"], residents["moved"].member
    with psycopg.connect(stack.contract["database_url"], autocommit=True) as admin:
        admin.execute("update gateway.member set disabled_at = now() where id = %s", (member,))
        disabled = time.monotonic()
        try:
            for path in ("/rest/v1/circuits", "/v1/circuits"):
                while client.get(path).status_code != 401:
                    assert time.monotonic() < disabled + 5, path
        finally:
            admin.execute("update gateway.member set disabled_at = null where id = %s", (member,))


def test_the_newest_rows_come_by_index(
    residents: dict[str, Resident], clients: dict[str, httpx.Client]
) -> None:
    """The same rows as of the relation itself, which a filter that leaves out none asks."""
    for name in residents:
        for relation, label in (
            ("register_interval_hh", "timestamp"), ("meter_prepay_balance", "timestamp"),
            ("circuit_interval_daily", "day"),
        ):  # fmt: skip
            asked = {"order": f"{label}.desc,{relation.split('_')[0]}_id", "limit": 5}
            whole = answered(
                clients[name], f"/rest/v1/{relation}", **asked, **{label: "gte.2000-01-01"}
            )
            assert answered(clients[name], f"/rest/v1/{relation}", **asked) == whole
            assert len(whole) == 5


def test_the_document_offers_what_a_resident_can_do(clients: dict[str, httpx.Client]) -> None:
    document = answered(clients["settled"], "/openapi.json")
    for path, item in document["paths"].items():
        methods = item.keys() & {"get", "post", "put", "patch", "delete"}
        if path.startswith(("/rest/v1/", "/v1/")) and not path.startswith("/rest/v1/rpc/"):
            assert methods == {"get"}, path
        assert not path.startswith("/admin"), path
    assert "/rest/v1/circuits" in document["paths"]
    for absent in ("ev_chargers", "feeder_registry", "meter_tophat_registry"):
        assert f"/rest/v1/{absent}" not in document["paths"]
    assert {path for path in document["paths"] if "/rpc/" in path} <= {"/rest/v1/rpc/current_esco"}


def test_samples_in_the_document_are_the_residents_own(
    stack: Stack, residents: dict[str, Resident], clients: dict[str, httpx.Client]
) -> None:
    """Though its ESCO's document has been asked for before, with samples of all."""
    assert clients["esco"].get("/openapi.json").status_code == 200
    for name, resident in residents.items():
        text = clients[name].get("/openapi.json").text
        others = strangers(stack, resident)
        assert not [other for other in others if other in text], name
