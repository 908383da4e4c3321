"""Values and times of callers are plausible, at every door, by one rule (SECURITY 61 and 62)."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest

from app.db.isolation import become
from app.ingest.bounds import Bounds, read_bounds
from tests.conftest import Stack, flows
from tests.ingest.conftest import new_home
from tests.sql.series import KEYS, TIME_SERIES

Admin = psycopg.Connection[Any]
VALUES: dict[str, dict[str, Any]] = {
    "register_import": {"read": 1}, "register_export": {"read": 1},
    "register_interval_hh": {"import_kwh": 1, "export_kwh": 1}, "meter_voltage": {"voltage": 240},
    "meter_3p_voltage": {"voltage_l1": 240, "voltage_l2": 240, "voltage_l3": 240},
    "meter_csq": {}, "meter_health_history": {}, "meter_event_log": {"event_type": 1},
    "meter_prepay_balance": {"balance": 1, "emergency_credit": 1},
}  # fmt: skip
COLUMNS = [(series, column) for series in sorted(VALUES) for column in VALUES[series]
           if column != "event_type"]  # fmt: skip
# A number of 131,000 digits is written as text: JSON's readers differ about it.
NUMBERS = ["100000000", "-1e300", "1" * 131_000, "0." + "3" * 1_000, "1e-31", "NaN", "Infinity"]
MIDNIGHT = datetime(2024, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def home(stack: Stack) -> Iterator[dict[str, str]]:
    """A home of wlce with a register that no rating bounds; nothing is left of its rows."""
    with psycopg.connect(stack.contract["database_url"]) as admin, new_home(stack, admin) as ids:
        yield ids
        admin.rollback()
        for series, key in KEYS.items():
            if series in TIME_SERIES:
                admin.execute(f"delete from flows.{series} where {key} = %s", (owner(ids, series),))
        admin.commit()


@pytest.fixture(scope="module")
def client(stack: Stack) -> Iterator[httpx.Client]:
    """A client of wlce that writes."""
    with stack.client("wlce", "write") as client:
        yield client


def owner(home: dict[str, str], series: str) -> str:
    """Return the id that the rows of a series name."""
    return home["register"] if KEYS[series] == "register_id" else home["meter"]


def row(home: dict[str, str], series: str, at: datetime, **given: Any) -> dict[str, Any]:
    """Return a row of a series."""
    key = {KEYS[series]: owner(home, series), "timestamp": at.isoformat()}
    return key | VALUES[series] | given


def refused(answer: httpx.Response, *said: str, status: int = 422) -> None:
    """Expect a refusal with these words."""
    assert answer.status_code == status, answer.text[:300]
    told = answer.json()["message"]
    assert all(words in told for words in said), told
    assert len(answer.content) < 3_000


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: number[:10])
def test_62_no_number_is_stored_that_nobody_measured(
    client: httpx.Client, home: dict[str, str], number: str
) -> None:
    for series, column in COLUMNS:
        written = row(home, series, MIDNIGHT, **{column: number})
        refused(client.post(f"/rest/v1/{series}", json=written),
                column, "must be a number below 100,000,000")  # fmt: skip


@pytest.mark.parametrize(("series", "column"), COLUMNS)
def test_62_no_number_is_changed_to_such(
    client: httpx.Client, home: dict[str, str], series: str, column: str
) -> None:
    at = MIDNIGHT + timedelta(days=1)
    key = f"{KEYS[series]}=eq.{owner(home, series)}&timestamp=eq.{at:%Y-%m-%dT%H:%MZ}"
    upsert = {"Prefer": "resolution=merge-duplicates,return=representation"}
    kept = client.post(f"/rest/v1/{series}", json=row(home, series, at), headers=upsert)
    assert kept.status_code in (200, 201), kept.text
    changes = {column: "1e9"}
    refused(client.patch(f"/rest/v1/{series}?{key}", json=changes), column)
    refused(client.post(f"/rest/v1/{series}", json=row(home, series, at, **changes),
                        headers=upsert), column)  # fmt: skip
    ((stored,),) = ([r[column] for r in [x]] for x in client.get(f"/rest/v1/{series}?{key}").json())
    assert stored == VALUES[series][column]


@pytest.mark.parametrize("series", sorted(TIME_SERIES))
def test_62_no_time_is_far_off(client: httpx.Client, home: dict[str, str], series: str) -> None:
    """Neither of a new row nor of one that is moved."""
    grid = timedelta(minutes=30)
    now = datetime.now(UTC)
    soon = now.replace(minute=0, second=0, microsecond=0)
    late = soon + timedelta(hours=2) + grid
    for at in (late, datetime(2030, 1, 1, tzinfo=UTC)):
        answer = client.post(f"/rest/v1/{series}", json=row(home, series, at))
        refused(answer, "timestamp", "is more than 01:00:00 in the future")
    # In one statement, after a row of the same week that is no trouble.
    rows = [row(home, series, soon), row(home, series, late)]
    refused(client.post(f"/rest/v1/{series}", json=rows), "in the future")
    taken = client.post(f"/rest/v1/{series}", json=row(home, series, soon))
    assert taken.status_code == 201, taken.text
    key = f"{KEYS[series]}=eq.{owner(home, series)}&timestamp=eq.{soon:%Y-%m-%dT%H:%MZ}"
    moved = client.patch(f"/rest/v1/{series}?{key}", json={"timestamp": late.isoformat()})
    refused(moved, "in the future")
    assert len(client.get(f"/rest/v1/{series}?{key}").json()) == 1


@pytest.mark.parametrize("series", sorted(TIME_SERIES))
def test_61_nothing_is_written_before_a_set_time(
    admin: Admin, home: dict[str, str], stack: Stack, series: str
) -> None:
    admin.execute("update flows.bounds set earliest = '2015-01-01Z'")
    become(admin, "flows", stack.contract["escos"]["wlce"]["id"])
    early = row(home, series, datetime(2014, 12, 31, 23, 30, tzinfo=UTC))
    insert = f"insert into api.{series} select * from jsonb_populate_record(null::api.{series}, %s)"
    with pytest.raises(psycopg.Error) as refusal:
        admin.execute(insert.encode(), (json.dumps(early),))
    assert refusal.value.sqlstate == "PT422"
    assert "is before 2015-01-01" in str(refusal.value)


@pytest.mark.parametrize("series", sorted(TIME_SERIES))
def test_61_a_request_spans_a_bounded_time(
    client: httpx.Client, home: dict[str, str], series: str
) -> None:
    first = datetime(2012, 1, 1, tzinfo=UTC)
    weekly = [row(home, series, first + timedelta(weeks=n)) for n in range(60)]
    written = [[weekly[0], weekly[-1]], [weekly[-1], weekly[0]]]
    if series == "meter_event_log":  # some of a lost clock pass
        written = [
            [known | {"event_type": kind} for known in ends for kind in range(1, 202)]
            for ends in ((weekly[0], weekly[-1]), (weekly[-1], weekly[0]))
        ]
    if series == "meter_csq":  # each row may make a chunk, which takes its time
        written += [weekly, weekly[::-1], [weekly[30], *weekly[:30], *weekly[31:]]]
    for rows in written:
        answer = client.post(f"/rest/v1/{series}", json=rows)
        refused(answer, "what is written at once spans more than 1 year")
        assert "parts" in answer.json()["hint"]
    found = client.get(f"/rest/v1/{series}?{KEYS[series]}=eq.{owner(home, series)}"
                       "&timestamp=lt.2020-01-01").json()  # fmt: skip
    assert found == []


def test_61_some_events_of_a_lost_clock_come_with_those_of_today(
    client: httpx.Client, home: dict[str, str]
) -> None:
    """A meter's whole log, a hundred events, in any order."""
    lost, now = datetime(2000, 1, 1, tzinfo=UTC), datetime.now(UTC)
    log = [row(home, "meter_event_log", at, event_type=kind)
           for at in (lost, now - timedelta(days=1)) for kind in range(34, 84)]  # fmt: skip
    for events in (log, log[::-1]):
        answer = client.post(
            "/rest/v1/meter_event_log?on_conflict=meter_id,timestamp,event_type", json=events,
            headers={"prefer": "resolution=ignore-duplicates,return=representation"},
        )  # fmt: skip
        assert answer.status_code in (200, 201), answer.text
    found = client.get(f"/rest/v1/meter_event_log?meter_id=eq.{home['meter']}&event_type=gt.33")
    assert len(found.json()) == 100


def test_61_two_requests_may_span_more(client: httpx.Client, home: dict[str, str]) -> None:
    for at in (datetime(2014, 1, 1, tzinfo=UTC), datetime(2020, 1, 1, tzinfo=UTC)):
        answer = client.post("/rest/v1/meter_csq", json=row(home, "meter_csq", at, csq=1))
        assert answer.status_code == 201, answer.text


def test_61_an_administrator_sets_the_span_and_is_not_held_to_it(
    admin: Admin, home: dict[str, str], stack: Stack
) -> None:
    insert = 'insert into {}.meter_csq (meter_id, "timestamp", csq) values (%s, %s, 1)'
    admin.execute("update flows.bounds set request_span = '20 years', ahead = '1 day'")
    become(admin, "flows", stack.contract["escos"]["wlce"]["id"])
    tomorrow = datetime.now(UTC) + timedelta(hours=23)
    for at in (datetime(2011, 1, 1, tzinfo=UTC), tomorrow):
        admin.execute(insert.format("api").encode(), (home["meter"], at))
    become(admin, "tsdbadmin", None)
    for at in (datetime(2001, 1, 1, tzinfo=UTC), tomorrow + timedelta(days=200)):
        admin.execute(insert.format("flows").encode(), (home["meter"], at))


RATINGS = {
    "the circuit's rating": ("circuit", Decimal("10"), Decimal("4.3")),
    "the fuse's": ("head", 100, Decimal("43.1")),
    "a setting": (None, None, Decimal("500")),
}


@pytest.fixture
def rated(stack: Stack, home: dict[str, str], request: pytest.FixtureRequest) -> Iterator[Decimal]:
    """The most energy of the home's register while a rating is known."""
    kind, amps, largest = RATINGS[request.param]
    head = uuid4()
    with psycopg.connect(stack.contract["database_url"], autocommit=True) as admin:
        if kind == "circuit":
            admin.execute("update flows.circuits set rating_amps = %s where id = %s",
                          (amps, home["circuit"]))  # fmt: skip
        elif kind == "head":
            admin.execute("insert into flows.service_head_registry (id, name, fuse_rating)"
                          " values (%s, %s, %s)", (head, f"h-{head}", amps))  # fmt: skip
            admin.execute("insert into flows.service_head_meter (service_head, meter)"
                          " values (%s, %s)", (head, home["meter"]))  # fmt: skip
        yield largest
        admin.execute("update flows.circuits set rating_amps = null where id = %s",
                      (home["circuit"],))  # fmt: skip
        admin.execute("delete from flows.service_head_meter where service_head = %s", (head,))
        admin.execute("delete from flows.service_head_registry where id = %s", (head,))


@pytest.mark.parametrize("rated", RATINGS, indirect=True)
def test_62_energy_is_bounded_alike_at_every_door(
    stack: Stack, client: httpx.Client, home: dict[str, str], rated: Decimal, tmp_path: Any
) -> None:
    at = MIDNIGHT + timedelta(days=7)
    half_hours = "/rest/v1/register_interval_hh"
    words = f"is more than the {rated:,} kWh believed"
    upsert = {"Prefer": "resolution=merge-duplicates"}
    for days, column in enumerate(("import_kwh", "export_kwh")):
        first = at + timedelta(days=days)
        times = [first + n * timedelta(minutes=30) for n in range(3)]
        rows = [row(home, "register_interval_hh", time) for time in times]
        rows[1][column] = str(rated + Decimal("0.0001"))
        refused(client.post(half_hours, json=rows, headers=upsert), words)
        rows[1][column] = str(rated)
        assert client.post(half_hours, json=rows, headers=upsert).status_code in (200, 201)
        key = f"?register_id=eq.{home['register']}&timestamp=eq.{first:%Y-%m-%dT%H:%MZ}"
        refused(client.patch(half_hours + key, json={column: str(rated + 1)}), words)
        rows[1][column] = str(rated + 1)
        refused(client.post(half_hours, json=rows, headers=upsert), words)

    def imported(kwh: Decimal) -> dict[str, Any]:
        file = tmp_path / "half-hours.csv"
        file.write_text(f"time,import\n{at + timedelta(days=2):%Y-%m-%dT%H:%MZ},{kwh}\n")
        done = flows(stack, "import", str(file), "--register", home["register"],
                     "--time-column", "time", "--import-column", "import", "--json",
                     check=False)  # fmt: skip
        told: dict[str, Any] = json.loads(done.stdout)
        return told

    assert imported(rated)["refused"] == []
    assert words in imported(rated + Decimal("0.01"))["refused"][0]["reason"]


@pytest.mark.parametrize("rated", ["the circuit's rating"], indirect=True)
def test_62_no_half_hour_beyond_the_bound_is_derived(
    client: httpx.Client, home: dict[str, str], rated: Decimal
) -> None:
    """The counter was replaced or misread: its reads are kept, and the energy is unknown."""
    at = MIDNIGHT + timedelta(days=14)
    counted = [100, 101, 900, 901]
    reads = [
        row(home, "register_import", at + n * timedelta(minutes=30), read=read)
        for n, read in enumerate(counted)
    ]
    assert client.post("/rest/v1/register_import", json=reads).status_code == 201
    period = {"period_from": at.isoformat(), "period_to": (at + timedelta(hours=2)).isoformat()}
    again = client.post("/rest/v1/rpc/derive_interval_hh",
                        json={"register_id": home["register"], **period})  # fmt: skip
    assert again.status_code == 200, again.text
    found = client.get(
        "/rest/v1/register_interval_hh",
        params=[("select", "import_kwh"), ("order", "timestamp"),
                ("register_id", f"eq.{home['register']}"),
                ("timestamp", f"gte.{period['period_from']}"),
                ("timestamp", f"lt.{period['period_to']}")],
    ).json()  # fmt: skip
    assert found == [{"import_kwh": 1}, {"import_kwh": 1}]


@pytest.mark.parametrize("column", ["notes", "name"])
def test_62_texts_have_lengths(client: httpx.Client, column: str, home: dict[str, str]) -> None:
    relation = {"notes": "meter_registers", "name": "circuits"}[column]
    key = {"notes": f"register_id=eq.{home['register']}", "name": f"id=eq.{home['circuit']}"}
    long = client.patch(f"/rest/v1/{relation}?{key[column]}", json={column: "x" * 2_001})
    refused(long, column, "at most 2,000 characters")
    kept = client.patch(f"/rest/v1/{relation}?{key[column]}", json={column: "x" * 2_000})
    assert kept.status_code == 204, kept.text


INDEXED = {
    "meter_registry": ("serial", "iccid"), "sites_new": ("code",), "feeder_registry": ("name",),
    "service_head_registry": ("name",), "meter_tophat_registry": ("iccid",),
    "meter_registers": ("mpan",),
}  # fmt: skip
# Characters of four bytes, none of which is another's: what an index does not compress.
LONG = "".join(map(chr, range(0x20000, 0x20000 + 501)))


@pytest.mark.parametrize(
    ("relation", "column"), [(name, column) for name in INDEXED for column in INDEXED[name]]
)
def test_62_texts_that_an_index_has_are_bounded_in_bytes(
    stack: Stack, client: httpx.Client, home: dict[str, str], relation: str, column: str
) -> None:
    esco = stack.contract["escos"]["wlce"]["id"]
    row = {
        "meter_registry": {"serial": uuid4().hex, "name": "long", "esco": esco},
        "sites_new": {"name": "long", "esco": esco}, "feeder_registry": {"esco": esco},
        "service_head_registry": {}, "meter_tophat_registry": {"meter": home["meter"]},
        "meter_registers": {"meter_id": home["meter"]},
    }[relation]  # fmt: skip
    refused(client.post(f"/rest/v1/{relation}", json=row | {column: LONG}),
            column, "must have at most 2,000 bytes")  # fmt: skip
    if column == "mpan":
        return  # it has thirteen digits
    kept = client.post(f"/rest/v1/{relation}", json=row | {column: LONG[:-1]},
                       headers={"Prefer": "return=representation"})  # fmt: skip
    assert kept.status_code == 201, kept.text
    assert kept.json()[0][column] == LONG[:-1]
    changed = client.patch(f"/rest/v1/{relation}?id=eq.{kept.json()[0]['id']}",
                           json={column: LONG})  # fmt: skip
    refused(changed, column, "must have at most 2,000 bytes")
    assert client.delete(f"/rest/v1/{relation}?id=eq.{kept.json()[0]['id']}").status_code == 204


def test_62_every_indexed_text_of_a_caller_is_among_them(admin: Admin) -> None:
    found = admin.execute(
        """
        select distinct c.relname, a.attname from pg_index as i
        join pg_class as c on c.oid = i.indrelid
        join pg_attribute as a on a.attrelid = c.oid and a.attnum = any(i.indkey)
        where c.relnamespace = 'flows'::regnamespace and a.atttypid = 'text'::regtype
            and to_regclass('api.' || quote_ident(c.relname)) is not null
            and has_table_privilege('flows', 'api.' || quote_ident(c.relname), 'insert, update')
        """
    ).fetchall()
    assert set(found) == {(name, column) for name in INDEXED for column in INDEXED[name]}


def test_62_every_number_and_text_of_a_caller_is_bounded(admin: Admin) -> None:
    """Whatever column the role of writers may write, also of tables that come later."""
    unbounded = admin.execute(
        """
        select c.relname || '.' || a.attname from pg_class as c
        join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
        where c.relnamespace = 'flows'::regnamespace and c.relkind in ('r', 'p')
            and not c.relispartition
            and a.atttypid = any('{numeric,text,jsonb,float8,varchar,bytea,json}'::regtype[])
            and to_regclass('api.' || quote_ident(c.relname)) is not null
            and has_table_privilege('flows', 'api.' || quote_ident(c.relname), 'insert, update')
            and not exists (
                select from pg_trigger as t
                where t.tgrelid = c.oid and t.tgname ~ '^bounds_of_'
                    and a.attname = any(string_to_array(encode(t.tgargs, 'escape'), '\\000'))
            )
        """
    ).fetchall()
    assert unbounded == []


def long_tariffs(size: int) -> str:
    return json.dumps({"x": "y" * size})


def test_52_long_rows_of_an_esco_are_few(stack: Stack, admin: Admin) -> None:
    """An answer of 50,000 of them took gigabytes of PostgreSQL and of PostgREST."""
    admin.execute("update flows.bounds set long_rows_bytes = 50000")
    wlce, hmce = (stack.contract["escos"][code]["id"] for code in ("wlce", "hmce"))
    change = (
        "update api.meter_shadows set tariffs_active = %s"
        " where id in (select id from api.meter_shadows order by id limit %s)"
    )
    become(admin, "flows", wlce)
    admin.execute(change, (long_tariffs(15_000), 3))
    for size, rows in ((15_000, 4), (48_000, 1)):
        with pytest.raises(psycopg.Error) as refusal, admin.transaction():
            admin.execute(change, (long_tariffs(size), rows))
        assert refusal.value.sqlstate == "PT422"
        assert "meter_shadows: rows of more than 2,000 bytes" in str(refusal.value)
    admin.execute(change, (long_tariffs(500), 24))
    become(admin, "flows", hmce)
    admin.execute(change, (long_tariffs(15_000), 3))


def test_52_every_table_with_texts_has_few_long_rows(admin: Admin) -> None:
    """Of those that callers write; for series see app/postgrest/row_limit.py."""
    unbounded = admin.execute(
        """
        select c.relname from pg_class as c
        where c.relnamespace = 'flows'::regnamespace and not c.relispartition
            and c.relname <> all(%s) and exists (
                select from pg_trigger as t
                where t.tgrelid = c.oid and t.tgname ~ '^bounds_of_'
                    and encode(t.tgargs, 'escape') ~ 'bytes|characters'
            )
            and (
                select count(*) from pg_trigger as t
                where t.tgrelid = c.oid and t.tgname ~ '^long_rows_are_few_'
            ) < 2
        """,
        (list(TIME_SERIES),),
    ).fetchall()
    assert unbounded == []


TIMES = ["infinity", "-infinity", "4713-01-01 BC", "10000-01-01"]


@pytest.mark.parametrize("time", TIMES)
def test_62_times_are_in_every_calendar(
    client: httpx.Client, home: dict[str, str], time: str
) -> None:
    for target, column in (
        (f"circuit_register?circuit=eq.{home['circuit']}", "start_time"),
        (f"circuit_register?circuit=eq.{home['circuit']}", "end_time"),
        (f"meter_registers?register_id=eq.{home['register']}", "start_time"),
        (f"meter_shadows?id=eq.{home['meter']}", "last_healthy_at"),
    ):
        answer = client.patch(f"/rest/v1/{target}", json={column: time})
        refused(answer, column, "must be a time of the years 1 to 9999")


def test_62_every_time_of_configuration_is_bounded(admin: Admin) -> None:
    unbounded = admin.execute(
        """
        select c.relname || '.' || a.attname from pg_class as c
        join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
        where c.relnamespace = 'flows'::regnamespace and c.relkind in ('r', 'p')
            and a.atttypid = 'timestamptz'::regtype and c.relname <> all(%s)
            and to_regclass('api.' || quote_ident(c.relname)) is not null
            and has_table_privilege('flows', 'api.' || quote_ident(c.relname), 'insert, update')
            and not exists (
                select from pg_trigger as t
                where t.tgrelid = c.oid and t.tgname = 'bounds_of_' || a.attname
            )
        """,
        (list(TIME_SERIES),),
    ).fetchall()
    assert unbounded == []


def test_62_a_shadow_is_bounded_too(client: httpx.Client, home: dict[str, str]) -> None:
    shadow = f"/rest/v1/meter_shadows?id=eq.{home['meter']}"
    for column in ("voltage", "balance", "import_a"):
        refused(client.patch(shadow, json={column: "1e300"}), column)
    refused(client.patch(shadow, json={"tariffs_active": {"x": "y" * 70_000}}), "tariffs_active")


def test_62_an_import_reads_the_same_bounds(admin: Admin) -> None:
    assert read_bounds(admin) == Bounds()
    admin.execute("update flows.bounds set earliest = '2015-01-01Z', ahead = '2 hours'")
    assert read_bounds(admin) == Bounds(
        datetime(2015, 1, 1, tzinfo=UTC), timedelta(hours=2), Bounds().largest_number
    )


@pytest.mark.parametrize("accept", ["application/json", "text/csv", "application/x-ndjson"])
def test_62_no_report_fails_on_the_largest_values(
    stack: Stack, client: httpx.Client, home: dict[str, str], accept: str
) -> None:
    at = MIDNIGHT + timedelta(days=21)
    digits = "499." + "9" * 30
    rows = [
        row(home, "register_interval_hh", at + n * timedelta(minutes=30), import_kwh=digits,
            export_kwh="0." + "0" * 29 + "1")
        for n in range(48)
    ]  # fmt: skip
    upsert = {"Prefer": "resolution=merge-duplicates"}
    assert client.post("/rest/v1/register_interval_hh", json=rows,
                       headers=upsert).status_code in (200, 201)  # fmt: skip
    period = {
        "period_from": at.isoformat(), "period_to": (at + timedelta(days=1)).isoformat(),
        "meter": home["serial"],
    }  # fmt: skip
    for report in ("energy", "balance", "profile", "peak", "completeness"):
        answer = client.get(f"/v1/{report}", params=period, headers={"Accept": accept})
        assert answer.status_code == 200, (report, answer.text)
