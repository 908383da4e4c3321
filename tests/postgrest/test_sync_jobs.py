"""Sync jobs of deployments, over supabase-py: they are answered as they expect."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest
from supabase import Client, ClientOptions, create_client

from tests.conftest import Stack

# supabase-py uses deprecated parameters of its own components.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The '(timeout|verify)' parameter:DeprecationWarning"
)
SERIES = (
    "meter_csq", "meter_voltage", "meter_3p_voltage", "meter_prepay_balance",
    "meter_health_history", "meter_event_log",
)  # fmt: skip
HEALTHY = {"health": "healthy", "health_details": ""}


@pytest.fixture(scope="module")
def supabase(stack: Stack) -> Iterator[Client]:
    """A client with the write token of wlce and the schema `flows`."""
    with httpx.Client() as http:
        token = stack.contract["escos"]["wlce"]["write_token"]
        options = ClientOptions(
            schema="flows", auto_refresh_token=False, persist_session=False, httpx_client=http
        )
        yield create_client(stack.contract["base_url"], token, options)


@pytest.fixture
def meter(stack: Stack) -> Iterator[str]:
    """A meter of wlce as copied: its site is not there, and element A was replaced once."""
    made, registers = str(uuid4()), [str(uuid4()), str(uuid4())]
    with psycopg.connect(stack.contract["database_url"], autocommit=True) as admin:
        admin.execute(
            "insert into flows.meter_registry (id, serial, esco, site, hardware) values"
            " (%s, %s, %s, gen_random_uuid(), 'C1.w')",
            (made, f"JOB{made[:8]}", stack.contract["escos"]["wlce"]["id"]),
        )
        for register, status in zip(registers, ("replaced", "enabled"), strict=True):
            admin.execute(
                "insert into flows.meter_registers (register_id, meter_id, element, status)"
                " values (%s, %s, 'A', %s)",
                (register, made, status),
            )
        yield made
        for series in ("register_import", "register_export", "register_interval_hh"):
            admin.execute(
                f"delete from flows.{series} where register_id = any(%s::uuid[])", (registers,)
            )
        admin.execute("delete from flows.meter_registers where meter_id = %s", (made,))
        for series in SERIES:
            admin.execute(f"delete from flows.{series} where meter_id = %s", (made,))
        admin.execute("delete from flows.meter_shadows where id = %s", (made,))
        admin.execute("delete from flows.meter_registry where id = %s", (made,))
        admin.execute("call flows.follow()")


def rows(answer: Any) -> list[dict[str, Any]]:
    """Return the rows of an answer, which the library types as any JSON."""
    found: list[dict[str, Any]] = answer.data
    return found


def update(supabase: Client, meter: str, **values: Any) -> dict[str, Any]:
    """Update a shadow; return it as it is then."""
    (shadow,) = rows(supabase.table("meter_shadows").update(values).eq("id", meter).execute())
    return shadow


def test_a_job_finds_its_metrics_and_meters(supabase: Client, meter: str) -> None:
    metrics = supabase.table("meter_metrics").select("*").eq("enabled", True)
    assert {m["name"] for m in rows(metrics.eq("run_frequency", "hourly").execute())} == {
        "SyncerVoltage", "SyncerCsq", "SyncerEventLog", "SyncerPrepayBalance",
    }  # fmt: skip
    (esco,) = rows(supabase.table("escos").select("id").ilike("code", "WLCE").execute())
    listed = supabase.table("meter_registry").select("id,ip_address,serial,hardware")
    found = rows(
        listed.eq("esco", esco["id"]).eq("mode", "active").order(column="serial").execute()
    )
    assert meter in {row["id"] for row in found}
    assert [row["serial"] for row in found] == sorted(row["serial"] for row in found)
    others = supabase.table("meter_registry").select("*").neq("hardware", "P1.ax")
    assert [row["id"] for row in rows(others.neq("hardware", "P1.cx").execute())] == [meter]


def test_a_job_reads_shadows_with_their_meters_and_escos(supabase: Client, meter: str) -> None:
    update(supabase, meter, clock_time_diff_seconds=4321)
    asked = (
        supabase.table("meter_shadows")
        .select(
            "clock_time_diff_seconds, id, meter_registry!inner(serial, mode, escos!inner(code))"
        )
        .gt("clock_time_diff_seconds", 4000)
        .eq("meter_registry.mode", "active")
    )
    (found,) = rows(asked.eq("meter_registry.escos.code", "wlce").execute())
    assert found == {
        "clock_time_diff_seconds": 4321,
        "id": meter,
        "meter_registry": {
            "serial": f"JOB{meter[:8]}", "mode": "active", "escos": {"code": "wlce"},
        },
    }  # fmt: skip
    synced = datetime.now(UTC)
    shadow = update(supabase, meter, clock_time_diff_seconds=0,
                    clock_time_diff_synced_at=synced.isoformat())  # fmt: skip
    assert datetime.fromisoformat(shadow["clock_time_diff_synced_at"]) == synced
    assert rows(asked.eq("meter_registry.escos.code", "wlce").execute()) == []


def test_the_registry_of_a_copied_meter_is_patched(supabase: Client, meter: str) -> None:
    """Its site is not there, which is checked only when it changes."""
    for values in (
        {"firmware_version": "1.4.2"},
        {"prepay_enabled": True},
        {"daylight_savings_correction_enabled": False},
        {"hardware": "C1.w", "serial": f"JOB{meter[:8]}"},
    ):
        patched = supabase.table("meter_registry").update(values).eq("id", meter).execute()
        assert [{name: row[name] for name in values} for row in rows(patched)] == [values]
    with pytest.raises(Exception, match="row-level security"):
        supabase.table("meter_registry").update({"site": str(uuid4())}).eq("id", meter).execute()


def test_what_a_job_reads_from_a_meter_leaves_its_rows(supabase: Client, meter: str) -> None:
    """A balance comes as text, details of health as words, and an unknown signal as null."""
    update(supabase, meter, csq=23, **HEALTHY)
    update(supabase, meter, balance="12.31", **HEALTHY)
    update(supabase, meter, voltage=241.5, **HEALTHY)
    update(supabase, meter, import_a=2100.5, import_b=3.25, export_a=0.0, **HEALTHY)
    update(supabase, meter, **{"3p_voltage_l1": 240.1, "3p_voltage_l2": 241, "3p_voltage_l3": 239},
           **HEALTHY)  # fmt: skip
    tariffs = {"standing_charge": "0.3", "unit_rate_element_a": "0.25", "gate": [1, 2]}
    update(supabase, meter, tariffs_active=tariffs, backlight="ALWAYS_ON",
           load_switch="BUTTON_AUTO_RECONNECT", **HEALTHY)  # fmt: skip
    shadow = update(supabase, meter, health="unhealthy", health_details="no answer", csq=None)
    assert (shadow["health_details"], shadow["csq"]) == ("no answer", None)
    assert shadow["last_healthy_at"] is not None
    assert shadow["tariffs_active"] == tariffs
    for series, column, values in (
        ("meter_csq", "csq", [23, None]),
        ("meter_prepay_balance", "balance", [12.31]),
        ("meter_voltage", "voltage", [241.5]),
        ("meter_3p_voltage", "voltage_l2", [241]),
        ("meter_health_history", "health", ["healthy"] * 6 + ["unhealthy"]),
    ):
        asked = supabase.table(series).select(column).eq("meter_id", meter)
        assert [r[column] for r in rows(asked.order("timestamp").execute())] == values, series
    registers = supabase.table("meter_registers").select("register_id, register_import(read)")
    enabled = rows(registers.eq("meter_id", meter).eq("status", "enabled").execute())
    assert [row["register_import"] for row in enabled] == [[{"read": 2100.5}]]


def test_events_are_written_once_and_continued_from_the_newest(
    supabase: Client, meter: str
) -> None:
    """The clock was lost before the first of them."""
    now = datetime.now(UTC).replace(microsecond=0)
    times = [datetime(2000, 1, 1), *(now - timedelta(days=days) for days in (3, 2, 1))]
    log = [
        {"meter_id": meter, "timestamp": at.isoformat(), "event_type": kind, "event_set": 1}
        for at, kind in zip(times, (95, 34, 33, 4), strict=True)
    ]
    for events in (log[:3], log[::-1]):
        supabase.table("meter_event_log").upsert(
            events, on_conflict="meter_id,timestamp,event_type", ignore_duplicates=True
        ).execute()
    asked = supabase.table("meter_event_log").select("timestamp,event_type,event_set")
    asked = asked.eq("meter_id", meter).order(column="timestamp", desc=True)
    assert [row["event_type"] for row in rows(asked.execute())] == [4, 33, 34, 95]
    (newest,) = rows(asked.limit(1).execute())
    assert datetime.fromisoformat(newest["timestamp"]) == times[-1]


def test_a_function_is_called_with_or_without_a_filter(supabase: Client, meter: str) -> None:
    for esco, feeder in (("wlce", None), (None, None), (None, "null")):
        found = supabase.rpc("get_meters_for_cli", {"esco_filter": esco, "feeder_filter": feeder})
        assert meter in {row["id"] for row in rows(found.execute())}
    other = supabase.rpc("get_meters_for_cli", {"esco_filter": "hmce", "feeder_filter": None})
    assert other.execute().data == []
