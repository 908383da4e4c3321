"""Rows of an existing deployment can be loaded as they are, and triggers keep derived data."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.conftest import Stack

Admin = psycopg.Connection[Any]

ESCO, SITE, PROPERTY, FEEDER, HEAD, METER, CIRCUIT, OTHER = (
    f"de000000-0000-4000-8000-00000000000{n}" for n in range(8)
)
REGISTER_A, REGISTER_B = (f"de000000-0000-4000-8000-0000000000a{n}" for n in range(2))
NOON = "2024-03-10T12:00Z"

# Every table of the data model, with exactly the columns that deployments have.
ROWS: list[tuple[str, dict[str, Any]]] = [
    ("regions", {"code": "de", "name": "Devon"}),
    ("escos", {"id": ESCO, "code": "dep", "name": "Deployed", "app_url": "https://x", "region": "de"}),
    ("sites_new", {"id": SITE, "esco": ESCO, "name": "Yard", "code": "dep-1", "location": "here",
                   "capacity_kw": 55}),
    ("properties", {"id": PROPERTY, "plot": "1", "site": SITE, "address": "1 Yard", "type": "flat"}),
    ("feeder_registry", {"id": FEEDER, "name": "dep-f", "esco": ESCO, "substation": "S",
                         "rating_amps": 400}),
    ("service_head_registry", {"id": HEAD, "name": "dep-h", "feeder": FEEDER, "phase": 2,
                               "fuse_rating": 100, "type": "network_owned"}),
    ("meter_registry", {"id": METER, "serial": "DEP1", "name": "One", "esco": ESCO, "site": SITE,
                        "mode": "active", "hardware": "emlite", "firmware_version": "1.2",
                        "ip_address": "10.9.8.7", "emnify_id": 7001, "iccid": "894400",
                        "installation_status": "enabled", "commissioned_iso_week_date": "2024-W01-1",
                        "prepay_enabled": True, "daylight_savings_correction_enabled": False,
                        "single_meter_app": True, "updated_at": NOON}),
    ("meter_shadows", {"id": METER, "balance": 12.5, "emergency_credit": 5, "balance_updated_at": NOON,
                       "csq": 20, "voltage": 240.1, "3p_voltage_l1": 240, "3p_voltage_l2": 241,
                       "3p_voltage_l3": 242, "import_a": 100, "import_b": 50, "export_a": 0,
                       "export_b": 0, "health": "healthy", "health_details": None,
                       "last_healthy_at": NOON, "clock_time_diff_seconds": 61,
                       "clock_time_diff_synced_at": NOON, "emnify_connectivity_status": "online",
                       "tariffs_active": '{"standing_charge": 0.3, "unit_rate_element_a": 0.25}',
                       "tariffs_future": '{"standing_charge": 0.4, "activation_datetime": "2030-01-01T00:00:00"}',
                       "backlight": "on", "load_switch": "closed", "updated_at": NOON}),
    ("meter_registers", {"register_id": REGISTER_A, "meter_id": METER, "element": "A",
                         "status": "enabled", "nature": "power", "direction_reversed": False,
                         "start_time": "2024-01-01Z", "end_time": None, "notes": "a"}),
    ("meter_registers", {"register_id": REGISTER_B, "meter_id": METER, "element": "B",
                         "nature": "heat"}),
    ("meter_tophat_registry", {"meter": METER, "emnify_id": 7002, "ip_address": "10.9.8.8",
                               "iccid": "894401", "updated_at": NOON}),
    ("circuits", {"id": CIRCUIT, "type": "power", "name": "P", "site": SITE, "rating_amps": 60}),
    ("circuits", {"id": OTHER, "type": "power"}),
    ("meter_metrics", {"name": "signal", "notes": None, "enabled": True, "run_frequency": "12hourly"}),
    ("meter_event_log_type", {"id": 900, "name": "opened"}),
    ("ev_chargers", {"esco": ESCO, "serial": "EV000001", "pin": "1234", "position": "P1",
                     "updated_at": NOON}),
    ("service_head_meter", {"service_head": HEAD, "meter": METER}),
    ("properties_service_head", {"property": PROPERTY, "service_head": HEAD}),
    # The mapping ends, and another begins, in the middle of a day.
    ("circuit_register", {"circuit": CIRCUIT, "register": REGISTER_A, "start_time": "2024-01-01Z",
                          "end_time": NOON, "notes": "moved"}),
    ("circuit_register", {"circuit": OTHER, "register": REGISTER_A, "start_time": NOON}),
    ("register_import", {"register_id": REGISTER_A, "timestamp": "2024-03-09T00:07Z", "read": 90}),
    ("register_export", {"register_id": REGISTER_A, "timestamp": "2024-03-09T00:07Z", "read": 0}),
    *(("register_interval_hh", {"register_id": REGISTER_A, "import_kwh": 0.1, "export_kwh": 0,
       "timestamp": datetime(2024, 3, 10, tzinfo=UTC) + timedelta(minutes=30 * n)})
      for n in range(48)),
    ("meter_voltage", {"meter_id": METER, "timestamp": NOON, "voltage": 240}),
    ("meter_3p_voltage", {"meter_id": METER, "timestamp": NOON, "voltage_l1": 1, "voltage_l2": 2,
                          "voltage_l3": 3}),
    ("meter_csq", {"meter_id": METER, "timestamp": NOON, "csq": 31}),
    ("meter_health_history", {"meter_id": METER, "timestamp": NOON, "health": "unhealthy",
                              "reason": "x"}),
    ("meter_prepay_balance", {"meter_id": METER, "timestamp": NOON, "balance": -1.5,
                              "emergency_credit": 5}),
    ("meter_event_log", {"meter_id": METER, "timestamp": NOON, "event_type": 900, "event_set": 1}),
]  # fmt: skip


@pytest.fixture(scope="module")
def deployed(stack: Stack) -> Iterator[Admin]:
    """A connection, as owner, to a database with the deployment's rows; removed afterwards."""
    with psycopg.connect(stack.contract["database_url"], autocommit=True) as connection:
        for table, row in ROWS:
            connection.execute(
                sql.SQL("insert into flows.{} ({}) values ({})").format(
                    sql.Identifier(table),
                    sql.SQL(", ").join(map(sql.Identifier, row)),
                    sql.SQL(", ").join(sql.Placeholder() * len(row)),
                ),
                list(row.values()),
            )
        yield connection
        for table, row in reversed(ROWS):
            column, value = next(iter(row.items()))
            if column in ("name", "esco"):
                column, value = next(pair for pair in row.items() if pair[0] != "notes")
            connection.execute(
                sql.SQL("delete from flows.{} where {} = %s").format(
                    sql.Identifier(table), sql.Identifier(column)
                ),
                (value,),
            )
        connection.execute("call flows.follow()")


def one(connection: Admin, query: str, *args: object) -> tuple[Any, ...]:
    """Return the only row of a query."""
    rows = connection.execute(query, args).fetchall()
    (row,) = rows
    found: tuple[Any, ...] = row
    return found


def test_every_table_of_the_data_model_is_there(deployed: Admin) -> None:
    tables = {table for table, _ in ROWS}
    found = deployed.execute(
        "select relname from pg_class where relnamespace = 'flows'::regnamespace"
        " and relkind in ('r', 'p') and not relispartition"
    ).fetchall()
    ours = {
        "change", "retention", "bounds", "derived_register", "register_extent",
        "removed_half_hour", "former_service_head_meter", "former_properties_service_head",
    } | {row[0] for row in found if row[0].startswith("circuit_sums_")}  # fmt: skip
    assert {row[0] for row in found} - ours == tables


# Read from meters each hour; the others are read each day.
HOURLY = {"SyncerVoltage", "SyncerCsq", "SyncerEventLog", "SyncerPrepayBalance"}


def test_every_kind_of_event_and_every_metric_has_its_name(deployed: Admin) -> None:
    kinds = dict(
        deployed.execute(
            "select id, name from flows.meter_event_log_type where id < 900"
        ).fetchall()
    )
    assert len(kinds) == 80
    assert (min(kinds), max(kinds)) == (1, 105)
    assert [kinds[number] for number in (4, 33, 34, 86)] == [
        "BM_TERMINAL_COVER_REMOVED", "EVENT_POWER_UP", "EVENT_POWER_DN", "LAST_GASP_SENT_TO_HES",
    ]  # fmt: skip
    logged = deployed.execute(
        "select distinct t.name from flows.meter_event_log as e"
        " left join flows.meter_event_log_type as t on e.event_type = t.id where t.id < 900"
    ).fetchall()
    assert {name for (name,) in logged} == {kinds[number] for number in (4, 33, 34)}
    metrics = dict(
        deployed.execute(
            "select name, run_frequency from flows.meter_metrics where enabled and name ~ '^Syncer'"
        ).fetchall()
    )
    assert len(metrics) == 15
    assert {name for name, often in metrics.items() if often == "hourly"} == HOURLY
    assert set(metrics.values()) == {"hourly", "daily"}


def test_a_loaded_shadow_takes_the_place_of_the_empty_one(deployed: Admin) -> None:
    shadow = one(deployed, "select balance, csq from flows.meter_shadows where id = %s", METER)
    assert shadow == (12.5, 20)
    with pytest.raises(psycopg.errors.UniqueViolation):
        deployed.execute("insert into flows.meter_shadows (id) values (%s)", (METER,))


def test_a_mapping_that_changes_at_noon_splits_the_day(deployed: Admin) -> None:
    deployed.execute("call flows.follow()")
    for aggregate, label in (
        ("circuit_interval_daily", "day"),
        ("circuit_interval_daily_london", "day"),
        ("circuit_interval_monthly", "month"),
    ):
        found = deployed.execute(
            f"select circuit_id::text, total_import_kwh, present_intervals from flows.{aggregate}"
            f' where circuit_id = any(%s::uuid[]) order by 1, "{label}"',
            ([CIRCUIT, OTHER],),
        ).fetchall()
        assert [(row[0], float(row[1]), int(row[2])) for row in found] == [
            (CIRCUIT, 2.4, 24),
            (OTHER, 2.4, 24),
        ]


def test_a_changed_shadow_is_kept_in_its_series(deployed: Admin) -> None:
    with deployed.transaction(force_rollback=True):
        deployed.execute(
            "update flows.meter_shadows set import_a = 101.5, export_b = 1, csq = 12,"
            " voltage = 239,"
            " \"3p_voltage_l2\" = 238, health = 'unhealthy', balance = 11 where id = %s",
            (METER,),
        )
        for table, column, key, value in (
            ("register_import", "read", REGISTER_A, 101.5),
            ("register_export", "read", REGISTER_B, 1),
            ("meter_csq", "csq", METER, 12),
            ("meter_voltage", "voltage", METER, 239),
            ("meter_3p_voltage", "voltage_l2", METER, 238),
            ("meter_health_history", "health", METER, "unhealthy"),
            ("meter_prepay_balance", "balance", METER, 11),
        ):
            owner = "register_id" if table.startswith("register") else "meter_id"
            found = one(
                deployed,
                f'select {column} from flows.{table} where {owner} = %s and "timestamp" = now()',
                key,
            )
            assert found == (value,), table
        moved = one(
            deployed, "select updated_at = now() from flows.meter_shadows where id = %s", METER
        )
        assert moved == (True,)


def test_a_counter_without_a_register_is_a_warning_and_the_update_stands(deployed: Admin) -> None:
    warnings: list[str] = []
    deployed.add_notice_handler(lambda notice: warnings.append(notice.message_primary or ""))
    with deployed.transaction(force_rollback=True):
        deployed.execute(
            "update flows.meter_registers set status = 'replaced' where register_id = %s",
            (REGISTER_B,),
        )
        deployed.execute("update flows.meter_shadows set import_b = 51 where id = %s", (METER,))
        assert one(deployed, "select import_b from flows.meter_shadows where id = %s", METER) == (
            51,
        )
    assert any("element B" in warning for warning in warnings)


def test_being_healthy_sets_last_healthy_at(deployed: Admin) -> None:
    with deployed.transaction(force_rollback=True):
        deployed.execute(
            "update flows.meter_shadows set health = 'healthy' where id = %s", (METER,)
        )
        assert one(
            deployed, "select last_healthy_at = now() from flows.meter_shadows where id = %s", METER
        ) == (True,)


def test_the_views_answer(deployed: Admin) -> None:
    assert one(
        deployed,
        "select active_standing_charge, active_unit_rate_a, active_unit_rate_b,"
        " future_standing_charge, future_activation_datetime from api.meter_shadows_tariffs"
        " where serial = 'DEP1'",
    ) == (Decimal("0.3"), Decimal("0.25"), None, Decimal("0.4"), datetime(2030, 1, 1))
    assert one(deployed, "select balance from api.meters_low_balance where serial = 'DEP1'") == (
        12.5,
    )
    assert one(
        deployed, "select clock_time_diff_seconds from api.meters_clock_drift where serial = 'DEP1'"
    ) == (61,)
    offline = "select serial from api.{} where serial = 'DEP1'"
    for hours, recently, at_all in ((1, 0, 0), (5, 1, 1), (30, 0, 1)):
        with deployed.transaction(force_rollback=True):
            deployed.execute(
                "update flows.meter_shadows set health = 'unhealthy', last_healthy_at ="
                " now() - make_interval(hours => %s) where id = %s",
                (hours, METER),
            )
            deployed.execute("delete from flows.meter_csq where meter_id = %s", (METER,))
            for view, expected in (
                ("meters_offline_recently", recently),
                ("meters_offline_all", at_all),
            ):
                assert len(deployed.execute(offline.format(view)).fetchall()) == expected, view
    missing = "select record_count, missing_count from api.register_interval_hh_missing"
    assert one(
        deployed, missing + " where register_id = %s and date = '2024-03-11'", REGISTER_A
    ) == (0, 48)
    assert not deployed.execute(
        missing + " where register_id = %s and date = '2024-03-10'", (REGISTER_A,)
    ).fetchall()


def test_get_meters_for_cli_filters(deployed: Admin) -> None:
    columns = "serial, ip_address, single_meter_app, esco, csq, health, hardware, feeder"
    assert one(deployed, f"select {columns} from api.get_meters_for_cli('dep', 'dep-f')") == (
        "DEP1", "10.9.8.7", True, "dep", 20, "healthy", "emlite", "dep-f",
    )  # fmt: skip
    for unfiltered in ("null", "'null'"):
        query = f"select from flows.get_meters_for_cli('dep', {unfiltered})"
        assert deployed.execute(query).rowcount == 1
    assert deployed.execute("select from api.get_meters_for_cli('dep', 'other')").rowcount == 0
    assert deployed.execute("select from api.get_meters_for_cli()").rowcount > 10
