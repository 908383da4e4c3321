"""`/v1/energy`: sums of raw half-hours by local day, isolation of ESCOs, refused parameters."""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import psycopg
import pytest

from tests.conftest import Stack


def own_circuit(stack: Stack, esco: str) -> str:
    """Return the id of the first circuit of an ESCO."""
    with stack.client(esco) as client:
        identity: str = client.get("/rest/v1/circuits?select=id&order=id&limit=1").json()[0]["id"]
        return identity


def ask(stack: Stack, esco: str | None, **params: Any) -> httpx.Response:
    """Send GET /v1/energy with a read token of the ESCO."""
    with stack.client(esco) as client:
        return client.get("/v1/energy", params=params)


@pytest.mark.parametrize("timezone", ["Europe/London", "Asia/Kathmandu", "Australia/Lord_Howe"])
def test_days_are_local_days(stack: Stack, admin: psycopg.Connection[Any], timezone: str) -> None:
    circuit = own_circuit(stack, "wlce")
    zone = ZoneInfo(timezone)
    end = datetime.now(zone).replace(hour=0, minute=0, second=0, microsecond=0)
    start = end - timedelta(days=60)
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
    # The clocks of London went back on 25 October 2026, those of Lord Howe forward by half an hour.
    hours = {row["expected_intervals"] for row in rows.values()}
    assert hours <= {46, 47, 48, 49, 50}


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
