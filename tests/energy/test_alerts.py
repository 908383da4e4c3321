"""Alerts: each kind for what has it, with the time since which it is so, in every format."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from app.energy.formats import MEDIA_TYPES
from tests.conftest import Stack, flows
from tests.energy.conftest import OwnHome

NOW = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
BALANCES = (
    'insert into flows.meter_prepay_balance (meter_id, "timestamp", balance)'
    " select %(meter)s, t, case when t < %(low_from)s then 20 else 5 end"
    " from generate_series(%(now)s::timestamptz - interval '10 days', %(now)s, '6 hours') as t"
)
HALF_HOURS = (
    'insert into flows.register_interval_hh (register_id, "timestamp", import_kwh, export_kwh)'
    " select %(register)s, t, case when t < %(still_from)s then 0.2 else 0 end, 0"
    " from generate_series(%(now)s::timestamptz - interval '20 days',"
    " %(until)s::timestamptz - interval '30 minutes', '30 minutes') as t"
)
SHADOW = (
    "update flows.meter_shadows set balance = %(balance)s, last_healthy_at = %(healthy)s,"
    " clock_time_diff_seconds = %(drift)s, clock_time_diff_synced_at = %(now)s"
    " where id = %(meter)s"
)
WELL: dict[str, Any] = {"balance": 50, "healthy": NOW, "drift": 2, "now": NOW}
CLEAR = tuple(
    f"delete from flows.{series} where {key} = %({key.removesuffix('_id')})s"
    for series, key in (
        ("register_interval_hh", "register_id"),
        ("meter_prepay_balance", "meter_id"),
        ("meter_health_history", "meter_id"),
        ("meter_csq", "meter_id"),
    )
)


@pytest.fixture
def home(own_home: OwnHome) -> Iterator[OwnHome]:
    """A home with three weeks of half-hours, a good balance, a right clock and a signal."""
    set_state(own_home)
    fill(own_home, until=NOW)
    yield own_home
    own_home.execute(*CLEAR)


def set_state(home: OwnHome, **changes: Any) -> None:
    home.admin.execute(SHADOW, WELL | changes | {"meter": home.meter})


def fill(home: OwnHome, *, until: datetime, still_from: datetime = NOW) -> None:
    """Write the half-hours anew: up to a time, and without energy from a time on."""
    home.execute(CLEAR[0])
    times = {"register": home.register, "now": NOW, "until": until, "still_from": still_from}
    home.admin.execute(HALF_HOURS, times)


def alerts(home: OwnHome, path: str = "", **parameters: Any) -> dict[str, dict[str, Any]]:
    answer = home.client.get(f"/v1{path}/alerts", params={"timezone": "UTC", **parameters})
    assert answer.status_code == 200, answer.text
    rows = answer.json()["rows"]
    assert {row["esco"] for row in rows} <= {home.code}
    found = {row["alert"]: row for row in rows}
    assert len(found) == len(rows)
    return found


def since(row: dict[str, Any]) -> datetime | None:
    return datetime.fromisoformat(row["since"]) if row["since"] else None


def test_nothing_is_alerted_where_all_is_well(home: OwnHome) -> None:
    assert alerts(home) == {}


def test_a_low_balance_is_told_since_the_last_one_that_was_enough(home: OwnHome) -> None:
    low_from = NOW - 3 * DAY
    set_state(home, balance=5)
    home.execute(CLEAR[1])  # the state wrote it as well
    home.admin.execute(BALANCES, {"meter": home.meter, "now": NOW, "low_from": low_from})
    row = alerts(home)["low_balance"]
    assert (row["balance"], row["meter"], row["register"]) == (5, home.code, None)
    assert since(row) == NOW - 3 * DAY
    assert alerts(home, balance_below=4) == {}
    assert since(alerts(home, balance_below=30)["low_balance"]) == NOW - 10 * DAY
    # Of an older meter, nobody knows when the balance was enough.
    home.admin.execute("update flows.meter_registry set created_at = %s where id = %s",
                       (NOW - 90 * DAY, home.meter))  # fmt: skip
    assert since(alerts(home, balance_below=30)["low_balance"]) is None
    assert since(alerts(home)["low_balance"]) == NOW - 3 * DAY


def test_a_silent_meter_is_told_since_its_last_signal(home: OwnHome) -> None:
    set_state(home, healthy=NOW - 9 * HOUR)
    home.execute(*CLEAR[2:])
    assert since(alerts(home)["offline"]) == NOW - 9 * HOUR
    home.admin.execute(
        'insert into flows.meter_csq (meter_id, "timestamp", csq) values (%s, %s, 20)',
        (home.meter, NOW - 5 * HOUR),
    )
    assert since(alerts(home)["offline"]) == NOW - 5 * HOUR
    assert alerts(home, offline_hours=12) == {}
    home.execute("update flows.meter_registry set mode = 'passive' where id = %(meter)s")
    assert alerts(home) == {}


def test_a_wrong_clock_is_told_fast_or_slow(home: OwnHome) -> None:
    for drift in (-90, 90):
        set_state(home, drift=drift)
        row = alerts(home)["clock_drift"]
        assert (row["clock_seconds"], since(row)) == (drift, NOW)
        assert alerts(home, clock_seconds=91) == {}


def test_missing_readings_are_told_since_the_last_one(home: OwnHome) -> None:
    fill(home, until=NOW - 2 * DAY)
    row = alerts(home)["missing_readings"]
    assert (row["register"], since(row)) == (str(home.register), NOW - 2 * DAY)
    assert alerts(home, silent_hours=72) == {}
    home.execute("update flows.meter_registers set status = 'replaced'"
                 " where register_id = %(register)s")  # fmt: skip
    assert alerts(home) == {}


def test_a_register_that_is_stuck_is_told_since_it_moved(home: OwnHome) -> None:
    fill(home, until=NOW, still_from=NOW - 9 * DAY)
    row = alerts(home)["stuck_register"]
    assert (row["register"], since(row)) == (str(home.register), NOW - 9 * DAY)
    assert alerts(home, stuck_days=10) == {}
    # One that never moved is told since its first half-hour.
    fill(home, until=NOW, still_from=NOW - 30 * DAY)
    assert since(alerts(home)["stuck_register"]) == NOW - 20 * DAY
    assert set(alerts(home, alert="low_balance,offline")) == set()
    for path in (f"/meters/{home.code}", f"/circuits/{home.circuit}", f"/escos/{home.code}"):
        assert set(alerts(home, path)) == {"stuck_register"}


@pytest.mark.parametrize("form", MEDIA_TYPES)
def test_every_format_has_the_same_alerts(home: OwnHome, form: str) -> None:
    set_state(home, balance=-3.5, drift=120)
    answer = home.client.get("/v1/alerts", params={"format": form, "timezone": "Europe/London"})
    assert answer.status_code == 200, answer.text
    body = answer.content
    read: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "json": lambda: json.loads(body)["rows"],
        "columns": lambda: pl.DataFrame(json.loads(body)["columns"]).to_dicts(),
        "csv": lambda: list(csv.DictReader(io.StringIO(body.decode()))),
        "ndjson": lambda: [json.loads(line) for line in body.splitlines()],
        "parquet": lambda: pl.read_parquet(io.BytesIO(body)).to_dicts(),
        "arrow": lambda: pl.read_ipc_stream(io.BytesIO(body)).to_dicts(),
    }
    rows = read[form]()
    assert [row["alert"] for row in rows] == ["clock_drift", "low_balance"]
    assert [float(row["balance"]) for row in rows if row["alert"] == "low_balance"] == [-3.5]
    again = home.client.get("/v1/alerts", params={"format": form, "timezone": "Europe/London"},
                            headers={"If-None-Match": answer.headers["etag"]})  # fmt: skip
    assert again.status_code == 304
    if form == "csv":
        local = home.client.get("/v1/alerts", params={"format": form, "times": "local"})
        first = next(csv.DictReader(io.StringIO(local.text)))
        assert first["since_offset"].startswith("UTC+")


@pytest.mark.parametrize(
    "parameters",
    [{"balance_below": "NaN"}, {"offline_hours": 0}, {"clock_seconds": -60}, {"stuck_days": 60},
     {"alert": "fire"}, {"silent_hours": "inf"}, {"period_from": "2026-01-01"}],
)  # fmt: skip
def test_a_threshold_out_of_range_is_refused_by_name(
    stack: Stack, parameters: dict[str, str]
) -> None:
    with stack.client("wlce") as client:
        answer = client.get("/v1/alerts", params=parameters)
    assert answer.status_code == 422
    assert next(iter(parameters)) in answer.text


def test_the_command_shows_the_alerts_of_every_esco_or_one(home: OwnHome, stack: Stack) -> None:
    set_state(home, balance=1)
    told = json.loads(flows(stack, "alerts", "--esco", home.code, "--json").stdout)
    assert [(one["alert"], one["meter"], one["balance"]) for one in told] == [
        ("low_balance", home.code, 1.0)
    ]
    assert home.code in flows(stack, "alerts", "--alert", "low_balance").stdout
    assert "no ESCO" in flows(stack, "alerts", "--esco", "none", check=False).stderr
