"""No answer fails on what is stored, however it got there: administrators are held to no bounds."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from app.db.isolation import exposed
from app.energy.formats import MEDIA_TYPES
from tests.energy.conftest import OwnHome

DAY = datetime(2024, 5, 1, tzinfo=UTC)
HALF_HOURS = """
    insert into flows.register_interval_hh (register_id, "timestamp", import_kwh, export_kwh)
    select %(register)s, '2024-05-01Z'::timestamptz + n * interval '30 minutes', i, e
    from (values
        (0, 1e400, 1), (1, 1e308, 1e308), (2, 1.7e308, 1e-400), (3, repeat('9', 1000)::numeric, 0),
        (4, null, null), (5, 1, repeat('9', 5000)::numeric), (6, 0, 1e300), (7, 2, 3)
    ) as given (n, i, e)
"""
NAME = "=1+1 \u202e\u0001\x1b[31m\"',;\r\n\\ \U0001f600\ufffe\u2028"
WORST = (
    HALF_HOURS,
    "update flows.escos set name = {name} where id = %(esco)s",
    "insert into flows.sites_new (id, esco, name, code, location, capacity_kw, created_at)"
    " values (%(register)s, %(esco)s, {name}, '', {name}, 'NaN', 'infinity')",
    "update flows.meter_registry set name = {name}, site = %(register)s, created_at = '-infinity'"
    " where id = %(meter)s",
    "update flows.meter_registers set start_time = '4713-01-01 BC', end_time = 'infinity',"
    " notes = {name} where register_id = %(register)s",
    "update flows.circuits set name = '', rating_amps = 'Infinity', created_at = 'infinity'"
    " where id = %(circuit)s",
    # The mapping lasts from before the calendar to beyond it.
    "update flows.circuit_register set start_time = '-infinity', end_time = 'infinity',"
    " notes = {name} where circuit = %(circuit)s",
    "insert into flows.meter_registry (id, esco) values (%(circuit)s, %(esco)s)",
    'insert into flows.meter_prepay_balance (meter_id, "timestamp", balance, emergency_credit)'
    " values (%(meter)s, '2024-05-01Z', '-Infinity', -1e400)",
)
SHADOW = """
    update flows.meter_shadows set balance = %(number)s, emergency_credit = %(number)s,
        voltage = %(number)s, balance_updated_at = %(time)s, last_healthy_at = %(time)s,
        clock_time_diff_seconds = 'NaN', clock_time_diff_synced_at = %(time)s,
        tariffs_active = '{"rate": 1e400}', health_details = '' where id = %(meter)s
"""
STATES = [
    ("-Infinity", "infinity"), ("-1e400", "-infinity"), ("1e308", "294276-12-31Z"),
    ("1e400", "4713-01-01 BC"), ("1e-400", "0001-01-01Z"), ("-1e300", "9999-12-31 23:59:59.9Z"),
]  # fmt: skip
REMOVED = (
    "delete from flows.meter_voltage where meter_id = %(meter)s",
    "update flows.meter_registry set site = null where id = %(meter)s",
    "delete from flows.sites_new where id = %(register)s",
    "delete from flows.meter_registry where id = %(circuit)s",
)
STATE = ("meter_shadows", "meter_prepay_balance")
REPORTS = ("energy", "balance", "profile", "peak", "completeness", "latest", "alerts")
LISTS = ("circuits", "meters", "properties", "sites", "escos")
PERIOD = {"period_from": DAY.isoformat(), "period_to": (DAY + timedelta(days=2)).isoformat()}
LENGTHS = ("PT30M", "P1D", "P1M", "P1Y")


@pytest.fixture
def worst(own_home: OwnHome) -> Iterator[OwnHome]:
    """A home whose values no door takes, of a superuser."""
    quoted = own_home.admin.execute("select quote_literal(%s)", (NAME,)).fetchone()
    assert quoted
    own_home.execute(*(sql.replace("{name}", quoted[0].replace("%", "%%")) for sql in WORST))
    own_home.admin.execute("call flows.follow()")
    yield own_home
    own_home.execute(*REMOVED)


@pytest.mark.parametrize("form", MEDIA_TYPES)
def test_no_report_fails_on_the_worst_values(worst: OwnHome, form: str) -> None:
    """Null is written for a number beyond doubles, and for a time beyond the calendar."""
    paths = ("", f"/circuits/{worst.circuit}", f"/meters/{worst.code}", f"/sites/{worst.register}",
             f"/escos/{worst.code}")  # fmt: skip
    asked: list[tuple[str, dict[str, str]]] = [(f"/v1/{name}", {}) for name in LISTS]
    for report in REPORTS:
        lengths = [{"granularity": each} for each in LENGTHS] if report in REPORTS[:2] else [{}]
        period = {} if report in ("latest", "alerts") else PERIOD
        asked += [(f"/v1{path}/{report}", period | length) for path in paths for length in lengths]
    for path, parameters in asked:
        for zone in ("Europe/London", "Pacific/Apia"):
            parameters = parameters | {"format": form, "timezone": zone}
            answer = worst.client.get(path, params=parameters)
            assert answer.status_code == 200, (path, parameters, answer.text)
            if form in ("json", "columns"):
                answer.json()


def test_latest_is_null_where_a_state_cannot_be_written(worst: OwnHome) -> None:
    for number, time in STATES:
        worst.admin.execute(SHADOW, {"number": number, "time": time, "meter": worst.meter})
        for form in MEDIA_TYPES:
            answer = worst.client.get(
                "/v1/latest", params={"format": form, "timezone": "Etc/GMT+12"}
            )
            assert answer.status_code == 200, (number, time, form, answer.text)
        (row,) = [r for r in worst.client.get("/v1/latest").json()["rows"] if r["meter"]]
        number_is_written = number in ("1e308", "1e-400", "-1e300")
        assert (row["balance"] is not None) == number_is_written, row
        assert row["last_healthy_at"] is None


def test_numbers_beyond_doubles_are_null_beside_others(worst: OwnHome) -> None:
    rows = worst.client.get("/v1/energy", params=PERIOD | {"granularity": "PT30M"}).json()["rows"]
    assert [row["import_kwh"] for row in rows[:9]] == [
        None,
        1e308,
        1.7e308,
        None,
        None,
        1,
        0,
        2,
        None,
    ]
    assert [row["present_intervals"] for row in rows[:9]] == [1, 1, 1, 1, 1, 1, 1, 1, 0]


@pytest.mark.parametrize(
    ("start", "end"),
    [("-infinity", "infinity"), ("infinity", None), ("-infinity", None), ("294276-01-01", None),
     ("4713-01-01 BC", "294276-12-31")],
)  # fmt: skip
def test_78_nobody_waits_behind_a_time_without_end(
    own_home: OwnHome, start: str, end: str | None
) -> None:
    """Changes of all ESCOs are followed in one queue."""
    change = "update flows.circuit_register set start_time = %s, end_time = %s where circuit = %s"
    for begins, ends in ((start, end), ("2000-01-01Z", None)):
        own_home.admin.execute(change, (begins, ends, own_home.circuit))
        own_home.admin.execute("call flows.follow()")
    waiting = own_home.admin.execute(
        "select from flows.change where esco = %s and followed_at is null", (own_home.esco,)
    ).fetchall()
    assert waiting == []


def test_no_relation_fails_on_the_worst_values(worst: OwnHome) -> None:
    relations = exposed(worst.admin)
    assert len(relations) > 30
    for number, time in STATES:
        worst.admin.execute(SHADOW, {"number": number, "time": time, "meter": worst.meter})
        for accept in ("application/json", "text/csv"):
            named = relations if number == "-Infinity" else STATE
            for relation in named:
                answer = worst.client.get(
                    f"/rest/v1/{relation}?limit=100",
                    headers={"Accept": accept, "Prefer": "count=exact, timezone=Pacific/Apia"},
                )
                assert answer.status_code in (200, 206), (relation, number, answer.text)
