"""Programs of existing deployments find kwh, looser columns, every update, and their relations."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.conftest import Stack

Admin = psycopg.Connection[Any]
# Parameters of tests: the same in every process that collects them.
METER, REGISTER, SOLAR, ROOF, CIRCUIT, FEEDER = (str(UUID(int=0xD000 + n)) for n in range(6))
SINCE = "2021-03-01T00:00Z"
KEPT = 'select count(*), count(distinct "timestamp") from flows.{} where {} = %s'
ENERGY = "select import_kwh, export_kwh, kwh from flows.register_interval_hh"
# Series, its key, the update of a shadow that appends to it, and the value in the row.
UPDATES = [
    ("meter_csq", METER, "csq = 20", "csq", 20),
    ("meter_csq", METER, "csq = 99", "csq", 99),
    ("meter_csq", METER, "csq = null", "csq", None),
    ("meter_voltage", METER, "voltage = 241.5", "voltage", Decimal("241.5")),
    ("meter_3p_voltage", METER, '"3p_voltage_l2" = 240', "voltage_l2", 240),
    ("meter_prepay_balance", METER, "balance = 3", "balance", 3),
    ("meter_health_history", METER, "health = 'healthy'", "health", "healthy"),
    ("register_import", REGISTER, "import_a = 2100.5", "read", Decimal("2100.5")),
    ("register_import", REGISTER, "import_a = null", "read", None),
    ("register_export", SOLAR, "export_b = 7", "read", 7),
]


@pytest.fixture
def home(admin: Admin, stack: Stack) -> Admin:
    """A connection with a meter of wlce and its registers A (power) and B (solar)."""
    esco = stack.contract["escos"]["wlce"]["id"]
    run = admin.execute
    run(
        "insert into flows.meter_registry (id, serial, esco) values (%s, %s, %s)",
        (METER, METER, esco),
    )
    for register, element, nature in (
        (REGISTER, "A", "power"),
        (SOLAR, "B", "solar"),
        (ROOF, None, None),
    ):
        run("insert into flows.meter_registers (register_id, meter_id, element, nature)"
            " values (%s, %s, %s, %s)", (register, METER, element, nature))  # fmt: skip
    run("insert into flows.circuits (id, type) values (%s, 'solar')", (CIRCUIT,))
    run("insert into flows.circuit_register (circuit, register, start_time) values (%s, %s, %s)",
        (CIRCUIT, ROOF, SINCE))  # fmt: skip
    return admin


def rows(admin: Admin, query: str, *values: object) -> list[tuple[Any, ...]]:
    """Return the rows of a query."""
    return admin.execute(query.encode(), values).fetchall()


def set_shadow(home: Admin, assignments: str, *values: object) -> None:
    """Update the shadow of the meter."""
    query = f"update flows.meter_shadows set {assignments} where id = %s"
    home.execute(query.encode(), (*values, METER))


def set_half_hour(home: Admin, assignments: str, register: str) -> None:
    """Update the half-hours of a register."""
    query = f"update flows.register_interval_hh set {assignments} where register_id = %s"
    home.execute(query.encode(), (register,))


@pytest.mark.parametrize(("series", "key", "update", "column", "value"), UPDATES)
def test_three_equal_updates_of_a_shadow_leave_three_rows(
    home: Admin, series: str, key: str, update: str, column: str, value: object
) -> None:
    for _ in range(3):
        set_shadow(home, update)
    owner = "register_id" if series.startswith("register") else "meter_id"
    assert rows(home, KEPT.format(series, owner), key) == [(3, 3)]
    newest = f'select {column}, "timestamp" from flows.{series} where {owner} = %s order by 2 desc'
    moved = rows(home, "select updated_at from flows.meter_shadows where id = %s", METER)
    assert rows(home, newest, key)[0] == (value, *moved[0])


def test_an_update_of_another_column_leaves_no_row(home: Admin) -> None:
    set_shadow(home, "csq = 5, import_a = 1")
    set_shadow(home, "backlight = 'on'")
    for series, owner, key, expected in (
        ("meter_csq", "meter_id", METER, 1),
        ("meter_voltage", "meter_id", METER, 0),
        ("register_import", "register_id", REGISTER, 1),
    ):
        assert rows(home, KEPT.format(series, owner), key)[0][0] == expected, series


def test_what_is_empty_there_may_be_empty_here(home: Admin) -> None:
    empty = (
        "escos.code", "escos.name", "meter_registry.serial", "meter_registry.name",
        "meter_registry.mode", "properties.plot", "meter_registers.status", "register_import.read",
        "register_export.read", "meter_csq.csq", "meter_shadows.csq",
    )  # fmt: skip
    required = rows(
        home,
        "select attrelid::regclass::text, attname from pg_attribute as a"
        " join pg_class as c on c.oid = a.attrelid"
        " where attnotnull and relnamespace = 'flows'::regnamespace"
        " and relname || '.' || attname = any(%s)",
        list(empty),
    )
    assert required == []
    for csq in (99, -2_147_483_648, 2_147_483_647, None):
        set_shadow(home, "csq = %s", csq)
    kept = rows(home, "select csq from flows.meter_csq where meter_id = %s order by csq", METER)
    assert kept == [(-2_147_483_648,), (99,), (2_147_483_647,), (None,)]


def test_a_counter_that_stands_still_is_no_gap(home: Admin) -> None:
    for minutes, read in ((0, 5), (60, None), (90, 5), (180, 5)):
        home.execute(
            'insert into flows.register_import (register_id, "timestamp", read)'
            " values (%s, %s::timestamptz + make_interval(mins => %s), %s)",
            (REGISTER, SINCE, minutes, read),
        )
    derived = rows(
        home,
        "select count(*), sum(import_kwh), sum(kwh) from flows.register_interval_hh"
        " where register_id = %s and derived",
        REGISTER,
    )
    assert derived == [(6, 0, 0)]


@pytest.mark.parametrize(
    ("register", "import_kwh", "export_kwh"),
    [(REGISTER, "0.5", None), (SOLAR, None, "0.5"), (ROOF, None, "0.5")],
    ids=["power", "solar by nature", "solar by circuit"],
)
def test_kwh_alone_is_taken_as_consumption_or_generation(
    home: Admin, register: str, import_kwh: str | None, export_kwh: str | None
) -> None:
    upsert = (
        'insert into flows.register_interval_hh (register_id, "timestamp", kwh) values (%s, %s, %s)'
        ' on conflict (register_id, "timestamp") do update set kwh = excluded.kwh'
    )
    found = ENERGY + " where register_id = %s"
    for factor in (1, 2):
        home.execute(upsert, (register, SINCE, factor * Decimal("0.5")))
        expected = [value and factor * Decimal(value) for value in (import_kwh, export_kwh, "0.5")]
        assert rows(home, found, register) == [tuple(expected)]
    set_half_hour(home, "import_kwh = 1, export_kwh = 2", register)
    assert rows(home, found, register) == [(1, 2, 3)]
    set_half_hour(home, "kwh = null", register)
    assert rows(home, found, register) == [(None, None, None)]


def test_kwh_that_is_not_the_sum_is_refused(home: Admin) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match="kwh is the sum"):
        home.execute(
            'insert into flows.register_interval_hh (register_id, "timestamp", import_kwh, kwh)'
            " values (%s, %s, 1, 2)",
            (REGISTER, SINCE),
        )


@pytest.mark.parametrize("level", ["hh", "daily", "daily_london", "monthly"])
def test_aggregates_have_kwh(admin: Admin, level: str) -> None:
    total = "coalesce(total_import_kwh + total_export_kwh, total_import_kwh, total_export_kwh)"
    for schema in ("flows", "api"):
        ((different, energy),) = rows(
            admin,
            f"select count(*) filter (where kwh is distinct from {total}), sum(kwh)"
            f" from {schema}.circuit_interval_{level}",
        )
        assert different == 0
        assert energy > 0


def test_a_meter_whose_site_is_not_there_is_still_changed(stack: Stack, admin: Admin) -> None:
    meter = str(uuid4())
    admin.execute(
        "insert into flows.meter_registry (id, serial, name, esco, site)"
        " values (%s, %s, null, %s, %s)",
        (meter, meter, stack.contract["escos"]["wlce"]["id"], uuid4()),
    )
    admin.commit()
    path, merge = "/rest/v1/meter_registry", {"prefer": "resolution=merge-duplicates"}
    try:
        with stack.client("wlce", "write") as client:
            own = f"{path}?id=eq.{meter}"
            for body in (
                {"firmware_version": "2"},
                {"prepay_enabled": True},
                {"daylight_savings_correction_enabled": False},
            ):
                assert client.patch(own, json=body).status_code == 204
            (row,) = client.get(own).json()
            assert client.patch(own, json={"site": row["site"]}).status_code == 204
            upsert = client.post(path, json=row | {"name": "Named"}, headers=merge)
            assert upsert.status_code in (200, 201), upsert.text
            assert client.patch(own, json={"site": str(uuid4())}).status_code == 403
            another = row | {"id": str(uuid4()), "serial": "another"}
            assert client.post(path, json=another).status_code == 403
    finally:
        admin.execute("delete from flows.meter_registry where id = %s", (meter,))
        admin.commit()


def test_kwh_is_written_and_read_through_the_gateway(stack: Stack, admin: Admin) -> None:
    registers = (
        "select register_id::text from flows.meter_registers where esco = %s and nature = %s"
    )
    power, solar = (
        rows(admin, registers, stack.contract["escos"]["wlce"]["id"], nature)[0][0]
        for nature in ("power", "solar")
    )
    path, when = "/rest/v1/register_interval_hh", "timestamp=eq.2011-01-01T00:00Z"
    asked = f"{path}?{when}&select=register_id,import_kwh,export_kwh,kwh"
    with stack.client("wlce", "write") as client:
        try:
            for kwh in (0.5, 1.0):
                written = client.post(
                    path,
                    json=[
                        {"register_id": register, "timestamp": "2011-01-01T00:00Z", "kwh": kwh}
                        for register in (power, solar)
                    ],
                    headers={"prefer": "resolution=merge-duplicates"},
                )
                assert written.status_code in (200, 201), written.text
                found = {row.pop("register_id"): row for row in client.get(asked).json()}
                assert found == {
                    power: {"import_kwh": kwh, "export_kwh": None, "kwh": kwh},
                    solar: {"import_kwh": None, "export_kwh": kwh, "kwh": kwh},
                }
            months = client.get("/rest/v1/circuit_interval_monthly?select=month,kwh&limit=1").json()
            assert months[0]["kwh"] > 0
        finally:
            client.delete(f"{path}?{when}")


@pytest.mark.parametrize(
    ("details", "reason"),
    [("", None), ("no answer", "no answer"), ('{"reason": "spare"}', "spare"), ("{", "{")],
)
def test_health_details_are_words_or_json(home: Admin, details: str, reason: str | None) -> None:
    set_shadow(home, "health = 'unhealthy', health_details = %s", details)
    kept = rows(home, "select reason from flows.meter_health_history where meter_id = %s", METER)
    assert kept == [(reason,)]


def test_events_of_a_lost_clock_are_kept(home: Admin) -> None:
    home.execute(
        'insert into flows.meter_event_log (meter_id, "timestamp", event_type)'
        " values (%s, '1970-01-01Z', 1)",
        (METER,),
    )
    kept = rows(home, 'select "timestamp" from flows.meter_event_log where meter_id = %s', METER)
    assert kept == [(datetime(1970, 1, 1, tzinfo=UTC),)]


def test_monitoring_reads_every_relation_of_flows_and_changes_none(admin: Admin) -> None:
    relations = rows(
        admin,
        "select relname from pg_class where relnamespace = 'flows'::regnamespace"
        " and relkind in ('r', 'p', 'v', 'm')",
    )
    assert len(relations) > 40
    admin.execute("set role grafanareader")
    for (name,) in relations:
        admin.execute(f'select from flows."{name}" limit 1')
    changed = rows(
        admin,
        """
        select c.oid::regclass::text from pg_class as c
        where c.relkind in ('r', 'p', 'v', 'm', 'S') and c.relnamespace::regnamespace::text
            in ('flows', 'api', 'gateway', 'public')
            and case when c.relkind = 'S' then has_sequence_privilege(c.oid, 'usage, update')
                else has_table_privilege(
                    c.oid, 'insert, update, delete, truncate, references, trigger'
                )
            end
        """,
    )
    assert changed == []
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        admin.execute("select from gateway.client")


def test_the_casts_of_deployments_load(admin: Admin) -> None:
    admin.execute("set search_path = flows")
    casts = """
        select 'power'::circuit_type_enum, 'online'::emnify_device_connectivity_status_enum,
            'enabled'::emnify_device_installation_status_enum, 'healthy'::health_check_status,
            'hourly'::meter_metric_run_frequency_enum, 'active'::meter_mode_enum,
            'A'::meter_register_element, 'enabled'::meter_register_status_enum,
            'solar'::flows.register_nature_enum
    """
    assert len(rows(admin, casts)[0]) == 9


def test_tariffs_have_a_time_and_leave_three_phase_meters_out(home: Admin) -> None:
    asked = (
        "select future_activation_datetime, future_standing_charge"
        " from flows.meter_shadows_tariffs where id = %s"
    )
    for activation, expected in (
        ("2030-06-01T01:00:00+01:00", datetime(2030, 6, 1)),
        ("2030-06-01T00:00:00", datetime(2030, 6, 1)),
        ("soon", None),
    ):
        tariff = {"activation_datetime": activation, "standing_charge": 0.4}
        set_shadow(home, "tariffs_future = %s", Jsonb(tariff))
        assert rows(home, asked, METER) == [(expected, Decimal("0.4"))]
    home.execute("update flows.meter_registry set hardware = 'P1.ax' where id = %s", (METER,))
    assert rows(home, asked, METER) == []


def test_days_without_a_read_are_missing(home: Admin) -> None:
    for days in (4, 3, 1):
        home.execute(
            "insert into flows.register_import values"
            " (%s, date_trunc('day', now(), 'UTC') - make_interval(days => %s), 5)",
            (REGISTER, days),
        )
    asked = (
        "select (now() at time zone 'UTC')::date - date, expected_count, actual_count,"
        " missing_count from flows.register_{}_missing where register_id = %s"
    )
    assert rows(home, asked.format("import"), REGISTER) == [(2, 1, 0, 1)]
    assert rows(home, asked.format("export"), REGISTER) == []
    set_shadow(home, "export_a = 1")
    assert rows(home, asked.format("export"), REGISTER) == []
    counts = rows(
        home,
        "select expected_count, actual_count, record_count, missing_count"
        " from flows.register_interval_hh_missing limit 50",
    )
    assert all(48 == e == a + m and a == r for e, a, r, m in counts)


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        ("30 minutes", "2026-10-25T13:00Z"),
        ("1 day", "2026-10-24T23:00Z"),
        ("7 days", "2026-10-18T23:00Z"),
        ("1 month", "2026-09-30T23:00Z"),
        ("3 months", "2026-09-30T23:00Z"),
        ("1 year", "2026-01-01T00:00Z"),
    ],
)
def test_time_bucket_is_there_on_both_engines(admin: Admin, width: str, expected: str) -> None:
    admin.execute("set search_path = flows, api, public")
    asked = (
        f"select time_bucket(interval '{width}', '2026-10-25T13:11Z'::timestamptz, 'Europe/London')"
    )
    assert rows(admin, asked) == [(datetime.fromisoformat(expected),)]


def test_statements_are_on_the_search_path_of_monitoring(admin: Admin) -> None:
    settings = rows(
        admin,
        """
        select r.rolname::text, setting from pg_db_role_setting as s
        join pg_roles as r on r.oid = s.setrole join pg_database as d on d.oid = s.setdatabase
        cross join unnest(s.setconfig) as setting
        where d.datname = current_database() and r.rolname in ('grafanareader', 'tsdbadmin')
            and starts_with(setting, 'search_path=')
        """,
    )
    path = "search_path=flows, api, public"
    assert sorted(settings) == [("grafanareader", path), ("tsdbadmin", path)]
    admin.execute("set role grafanareader; set search_path = flows, api, public")
    assert rows(admin, "select count(*) > 0 from pg_stat_statements") == [(True,)]
