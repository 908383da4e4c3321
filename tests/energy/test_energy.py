"""`/v1/energy`: sums of raw half-hours by local day, isolation of ESCOs, refused parameters."""

import itertools
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import psycopg
import pytest

from tests.conftest import Stack
from tests.energy.conftest import HALF_HOUR, OwnHome


def own_circuit(stack: Stack, esco: str) -> str:
    """Return the id of the first circuit of an ESCO."""
    with stack.client(esco) as client:
        identity: str = client.get("/rest/v1/circuits?select=id&order=id&limit=1").json()[0]["id"]
        return identity


def ask(stack: Stack, esco: str | None, **params: Any) -> httpx.Response:
    """Send GET /v1/energy with a read token of the ESCO."""
    with stack.client(esco) as client:
        return client.get("/v1/energy", params=params)


def half_hours(start: datetime, end: datetime) -> int:
    """The half-hours between two local times."""
    return (end.astimezone(UTC) - start.astimezone(UTC)) // HALF_HOUR


@pytest.mark.parametrize("timezone", ["Europe/London", "Asia/Kathmandu", "Australia/Lord_Howe"])
def test_days_are_local_days(stack: Stack, admin: psycopg.Connection[Any], timezone: str) -> None:
    circuit = own_circuit(stack, "wlce")
    zone = ZoneInfo(timezone)
    end = stack.midnight(0, timezone)
    start = stack.midnight(60, timezone)
    answer = ask(
        stack, "wlce", circuit=circuit, timezone=timezone,
        period_from=start.isoformat(), period_to=end.isoformat(),
    )  # fmt: skip
    assert answer.status_code == 200, answer.text
    days: dict[str, list[Decimal]] = {}
    for timestamp, energy in admin.execute(
        'select r."timestamp", r.import_kwh from flows.register_interval_hh as r'
        " join flows.circuit_register as m on m.register = r.register_id"
        ' and r."timestamp" >= m.start_time and (r."timestamp" < m.end_time or m.end_time is null)'
        ' where m.circuit = %s and r."timestamp" >= %s and r."timestamp" < %s',
        (circuit, start, end),
    ):
        days.setdefault(timestamp.astimezone(zone).date().isoformat(), []).append(energy)
    rows = {row["interval_start"][:10]: row for row in answer.json()["rows"]}
    assert rows.keys() == days.keys()
    assert len(days) > 40
    for day, energies in days.items():
        assert Decimal(str(rows[day]["import_kwh"])) == sum(energies)
        assert rows[day]["present_intervals"] == len(energies)
        midnight = datetime.fromisoformat(day).replace(tzinfo=zone)
        expected = half_hours(midnight, midnight + timedelta(days=1))
        assert rows[day]["expected_intervals"] == expected


@pytest.mark.parametrize(
    ("timezone", "changes"),
    [
        ("Europe/London", {"2025-10-26": 50, "2026-03-29": 46}),
        ("Australia/Lord_Howe", {"2025-10-05": 47, "2026-04-05": 49}),
        ("Asia/Kathmandu", {"2025-10-26": 48}),
    ],
)
def test_a_day_of_a_clock_change_has_its_own_length(
    own_home: OwnHome, timezone: str, changes: dict[str, int]
) -> None:
    zone = ZoneInfo(timezone)
    for changed, length in changes.items():
        middle = datetime.fromisoformat(changed).replace(tzinfo=zone)
        days = [middle + timedelta(days=n) for n in range(-2, 4)]
        # A half-hour that runs over midnight, as in Kathmandu, belongs to the day it begins on.
        first, last = (day.astimezone(UTC) for day in (days[0], days[-1]))
        own_home.read(first + timedelta(minutes=-first.minute % 30),
                      last + timedelta(minutes=-last.minute % 30))  # fmt: skip
        period = {"period_from": days[0].isoformat(), "period_to": days[-1].isoformat()}
        asked = period | {"timezone": timezone, "granularity": "P1D"}
        answer = own_home.client.get("/v1/energy", params=asked)
        assert answer.status_code == 200, answer.text
        found = [
            (row["interval_start"][:10], row["expected_intervals"], row["present_intervals"],
             Decimal(str(row["import_kwh"])))
            for row in answer.json()["rows"]
        ]  # fmt: skip
        lengths = [length if day == middle else 48 for day in days[:-1]]
        assert [half_hours(day, day + timedelta(days=1)) for day in days[:-1]] == lengths
        read = iter(range(1, sum(lengths) + 1))  # thousandths of a kWh, as they were inserted
        assert found == [
            (f"{day:%Y-%m-%d}", count, count,
             Decimal(sum(itertools.islice(read, count))) / 1000)
            for day, count in zip(days[:-1], lengths, strict=True)
        ]  # fmt: skip


def test_a_day_that_is_not_over_is_not_complete(own_home: OwnHome) -> None:
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    start, end = today - timedelta(days=1), today + timedelta(days=2)
    own_home.read(start, today + half_hours(today, datetime.now(UTC)) * HALF_HOUR)
    days = {"period_from": start.isoformat(), "period_to": end.isoformat(), "timezone": "UTC"}
    before = half_hours(today, datetime.now(UTC))
    body = own_home.client.get("/v1/balance", params=days | {"group_by": "circuit"}).json()
    after = half_hours(today, datetime.now(UTC))
    for rows in (own_home.client.get("/v1/energy", params=days).json()["rows"], body["rows"]):
        yesterday, now, tomorrow = rows
        assert (yesterday["expected_intervals"], yesterday["complete"]) == (48, True)
        # Another half-hour may have ended meanwhile, or the day.
        assert before <= now["expected_intervals"] <= half_hours(today, datetime.now(UTC))
        assert not now["complete"] or datetime.now(UTC) >= today + timedelta(days=1)
        assert not tomorrow["complete"]
        assert not any(row["partial"] for row in rows)
    (total,) = body["totals"]
    assert before <= total["expected_intervals"] - 48 <= after
    assert not total["complete"]


def test_a_foreign_circuit_and_an_unknown_one_are_the_same_404(stack: Stack) -> None:
    period = {"period_from": "2026-10-01T00:00Z", "period_to": "2026-10-02T00:00Z"}
    foreign = ask(stack, "hmce", circuit=own_circuit(stack, "wlce"), **period)
    unknown = ask(stack, "hmce", circuit="00000000-0000-0000-0000-000000000000", **period)
    assert foreign.status_code == unknown.status_code == 404
    assert foreign.json() | {"request_id": ""} == unknown.json() | {"request_id": ""}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"period_from": "2026-10-01T00:00:00"}, "period_from"),
        ({"period_to": "2026-09-01T00:00Z"}, "period_to"),
        ({"period_to": "2036-09-01T00:00Z"}, "period_to"),
        ({"granularity": "PT1S"}, "granularity"),
        ({"timezone": "Mars/Olympus"}, "timezone"),
        ({"timezone": "../../etc/passwd"}, "timezone"),
        ({"circuit": "'; drop table"}, "circuit"),
    ],
)
def test_a_bad_parameter_is_named(stack: Stack, change: dict[str, str], named: str) -> None:
    good = {"period_from": "2026-10-01T00:00Z", "period_to": "2026-10-02T00:00Z"}
    answer = ask(stack, "wlce", **(good | change))
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"].startswith(named)


def test_without_a_token_there_is_no_energy(stack: Stack) -> None:
    answer = ask(stack, None, period_from="2026-10-01T00:00Z", period_to="2026-10-02T00:00Z")
    assert answer.status_code == 401
