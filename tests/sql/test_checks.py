"""Invalid values are refused on both engines, with what is allowed."""

import psycopg
import pytest

from tests.conftest import Stack

SINCE_2000 = "the_time_is_between_2000_and_2100"
# A bound that callers are held to is told first; the check beneath it holds for administrators too.
NUMBER, EARLY, LATE = "must be a number", "is before 2000", "in the future"
REFUSED = {
    "a half-hour on :10": ("register_interval_hh", "2024-01-01T00:10Z", "import_kwh", 1,
                           None, "a_half_hour_starts_on_00_or_30"),
    "energy below nothing": ("register_interval_hh", "2024-01-01T00:00Z", "import_kwh", -1,
                             None, "import_kwh_check"),
    "no number": ("register_interval_hh", "2024-01-01T00:00Z", "import_kwh", "NaN",
                  NUMBER, "import_kwh_check"),
    "a voltage that is no number": ("meter_voltage", "2024-01-01T00:00Z", "voltage", "NaN",
                                    NUMBER, "voltage_check"),
    "a balance without end": ("meter_prepay_balance", "2024-01-01T00:00Z", "balance", "Infinity",
                              NUMBER, "balance_check"),
    "the year 294000": ("register_interval_hh", "294000-01-01T00:00Z", "import_kwh", 1,
                        LATE, SINCE_2000),
    "the end of time": ("meter_csq", "infinity", "csq", 1, LATE, SINCE_2000),
    "the last century": ("register_import", "1999-12-31T23:59Z", "read", 1, EARLY, SINCE_2000),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_is_refused(stack: Stack, engine: str, what: str) -> None:
    relation, at, column, value, bound, check = REFUSED[what]
    key, registry = (
        ("register_id", "meter_registers?select=id:register_id")
        if relation.startswith("register")
        else ("meter_id", "meter_registry?select=id")
    )
    with stack.client("wlce", "write") as client:
        (row,) = client.get(f"/rest/v1/{registry}&limit=1").json()
        answer = client.post(
            f"/rest/v1/{relation}", json={key: row["id"], "timestamp": at, column: value}
        )
    if engine == "postgres" and check == SINCE_2000:
        # It fits no partition, which is checked first.
        check = "no partition"
    told = answer.json()["message"]
    if bound is None or "no partition" in told:
        assert answer.status_code == 400, answer.text
        assert check in told
    else:
        assert answer.status_code == 422, answer.text
        assert bound in told
    with (
        psycopg.connect(stack.contract["database_url"]) as admin,
        pytest.raises(psycopg.errors.CheckViolation, match=check),
    ):
        admin.execute(
            f'insert into flows.{relation} ({key}, "timestamp", {column}) values (%s, %s, %s)',
            (row["id"], at, value),
        )
