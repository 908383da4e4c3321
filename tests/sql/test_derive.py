"""Half-hours from counter reads: derived where the reads suffice, and empty elsewhere."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from tests.conftest import Stack

Admin = psycopg.Connection[Any]
MIDNIGHT = datetime(2023, 5, 4, tzinfo=UTC)
METER, REGISTER = (f"dd000000-0000-4000-8000-00000000000{n}" for n in range(2))


@pytest.fixture
def register(stack: Stack, admin: Admin) -> Iterator[str]:
    """A register without readings; each test is rolled back."""
    admin.execute(
        "insert into flows.meter_registry (id, serial, name, esco) values (%s, 'DERIVE', 'x', %s)",
        (METER, stack.contract["escos"]["wlce"]["id"]),
    )
    admin.execute(
        "insert into flows.meter_registers (register_id, meter_id) values (%s, %s)",
        (REGISTER, METER),
    )
    yield REGISTER
    admin.rollback()


def read(admin: Admin, direction: str, *reads: tuple[int, float]) -> None:
    """Insert counter reads: (minutes after midnight, kWh)."""
    for minutes, energy in reads:
        admin.execute(
            f'insert into flows.register_{direction} (register_id, "timestamp", read)'
            " values (%s, %s, %s)",
            (REGISTER, MIDNIGHT + timedelta(minutes=minutes), energy),
        )


def half_hours(admin: Admin) -> dict[str, tuple[Decimal | None, Decimal | None, bool]]:
    """Return the register's half-hours: time of day → import, export, derived."""
    rows = admin.execute(
        'select "timestamp", import_kwh, export_kwh, derived from flows.register_interval_hh'
        ' where register_id = %s order by "timestamp"',
        (REGISTER,),
    )
    return {f"{at.astimezone(UTC):%H:%M}": (imported, exported, derived)
            for at, imported, exported, derived in rows}  # fmt: skip


def imports(admin: Admin) -> dict[str, float]:
    """Return the imported energy by time of day."""
    return {at: float(row[0]) for at, row in half_hours(admin).items() if row[0] is not None}


def test_reads_on_the_half_hour_are_subtracted(admin: Admin, register: str) -> None:
    read(admin, "import", (0, 10), (30, 10.5), (60, 12))
    assert imports(admin) == {"00:00": 0.5, "00:30": 1.5}
    assert all(derived for _, _, derived in half_hours(admin).values())


def test_between_reads_energy_is_linear(admin: Admin, register: str) -> None:
    # 0.1 kWh a minute up to 00:45, then 0.2.
    read(admin, "import", (-15, 0), (45, 6), (75, 12))
    assert imports(admin) == {"00:00": 3.0, "00:30": 4.5}


def test_a_gap_beyond_the_limit_stays_empty(admin: Admin, register: str) -> None:
    read(admin, "import", (0, 10), (30, 11), (30 + 121, 15), (180, 16), (210, 18))
    assert imports(admin) == {"00:00": 1.0, "03:00": 2.0}


def test_a_replaced_counter_leaves_its_half_hour_empty(admin: Admin, register: str) -> None:
    read(admin, "import", (0, 500), (30, 501), (60, 3), (90, 4))
    assert imports(admin) == {"00:00": 1.0, "01:00": 1.0}


def test_a_counter_that_rolls_over_goes_on(admin: Admin, register: str) -> None:
    read(admin, "import", (0, 99998), (30, 99999), (60, 1), (90, 2))
    assert imports(admin) == {"00:00": 1.0, "00:30": 2.0, "01:00": 1.0}


def test_a_reversed_register_exports_what_its_import_counter_counts(
    admin: Admin, register: str
) -> None:
    admin.execute(
        "update flows.meter_registers set direction_reversed = true where register_id = %s",
        (register,),
    )
    read(admin, "import", (0, 10), (30, 12))
    read(admin, "export", (0, 5), (30, 6))
    assert half_hours(admin) == {"00:00": (Decimal(1), Decimal(2), True)}


def test_a_late_read_corrects_what_was_derived(admin: Admin, register: str) -> None:
    read(admin, "import", (0, 0), (60, 6))
    assert imports(admin) == {"00:00": 3.0, "00:30": 3.0}
    read(admin, "import", (30, 1))
    assert imports(admin) == {"00:00": 1.0, "00:30": 5.0}


def test_a_measured_half_hour_is_never_overwritten(admin: Admin, register: str) -> None:
    read(admin, "import", (0, 0), (30, 3))
    admin.execute(
        'insert into flows.register_interval_hh (register_id, "timestamp", import_kwh)'
        " values (%s, %s, 2.9)",
        (register, MIDNIGHT),
    )
    assert half_hours(admin) == {"00:00": (Decimal("2.9"), None, False)}
    read(admin, "import", (60, 5))
    admin.execute(
        "select flows.derive_interval_hh(%s, %s, %s)",
        (register, MIDNIGHT, MIDNIGHT + timedelta(hours=2)),
    )
    assert half_hours(admin)["00:00"] == (Decimal("2.9"), None, False)
    assert imports(admin)["00:30"] == 2.0


def test_it_can_be_called_for_an_own_register_only(stack: Stack, admin: Admin) -> None:
    period = {"period_from": "2023-05-04T00:00Z", "period_to": "2023-05-05T00:00Z"}
    with stack.client("wlce", "write") as client:
        registers = client.get("/rest/v1/meter_registers?select=register_id&limit=1").json()
        own = client.post("/rest/v1/rpc/derive_interval_hh", json=registers[0] | period)
        assert (own.status_code, own.json()) == (200, 0)
        backwards = client.post(
            "/rest/v1/rpc/derive_interval_hh",
            json=registers[0] | {"period_from": "2023-05-04", "period_to": "2023-05-03"},
        )
        assert backwards.status_code == 422
    with stack.client("hmce", "write") as client:
        foreign = client.post("/rest/v1/rpc/derive_interval_hh", json=registers[0] | period)
        unknown = client.post(
            "/rest/v1/rpc/derive_interval_hh", json={"register_id": METER} | period
        )
        assert foreign.status_code == unknown.status_code == 404
        assert foreign.json() == unknown.json()
