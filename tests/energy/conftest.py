"""A community of a test's own, whose readings, mapping and balance may change."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest

from app.auth.tokens import Grant
from tests.conftest import Stack

HALF_HOUR = timedelta(minutes=30)
MADE = (
    "insert into flows.escos (id, code, name) values (%(esco)s, %(code)s, 'Own')",
    "insert into flows.meter_registry (id, serial, name, esco, prepay_enabled)"
    " values (%(meter)s, %(code)s, 'Own', %(esco)s, true)",
    "insert into flows.meter_registers (register_id, meter_id, element)"
    " values (%(register)s, %(meter)s, 'SINGLE')",
    "insert into flows.circuits (id, type) values (%(circuit)s, 'power')",
    "insert into flows.circuit_register (circuit, register, start_time)"
    " values (%(circuit)s, %(register)s, '2000-01-01Z')",
)
REMOVED = (
    "delete from flows.register_interval_hh where register_id = %(register)s",
    "delete from flows.circuit_register where circuit = %(circuit)s",
    "delete from flows.circuits where id = %(circuit)s",
    "delete from flows.meter_registers where register_id = %(register)s",
    "delete from flows.meter_prepay_balance where meter_id = %(meter)s",
    "delete from flows.meter_registry where id = %(meter)s",
    "delete from flows.escos where id = %(esco)s",
    "call flows.follow()",
)


@dataclass(frozen=True)
class OwnHome:
    """An ESCO with one meter, its register and its circuit; `admin` commits each statement."""

    admin: psycopg.Connection[Any]
    client: httpx.Client
    code: str
    esco: UUID = field(default_factory=uuid4)
    meter: UUID = field(default_factory=uuid4)
    register: UUID = field(default_factory=uuid4)
    circuit: UUID = field(default_factory=uuid4)

    def execute(self, *statements: str) -> None:
        """Execute statements that name this home's ids."""
        ids = {name: getattr(self, name) for name in ("esco", "meter", "register", "circuit")}
        for statement in statements:
            self.admin.execute(statement.encode(), ids | {"code": self.code})

    def read(self, start: datetime, end: datetime) -> None:
        """Insert each half-hour from `start` to before `end`: 0.001 kWh, 0.002 kWh, and so on."""
        count = (end - start) // HALF_HOUR
        with self.admin.cursor() as cursor:
            cursor.executemany(
                'insert into flows.register_interval_hh (register_id, "timestamp", import_kwh)'
                " values (%s, %s, %s / 1000.0)",
                [(self.register, start + n * HALF_HOUR, n + 1) for n in range(count)],
            )
        self.admin.execute("call flows.follow()")


@pytest.fixture
def own_home(stack: Stack) -> Iterator[OwnHome]:
    """A home of an ESCO that only this test has."""
    code = f"own{uuid4().hex[:8]}"
    with (
        psycopg.connect(stack.contract["database_url"], autocommit=True) as admin,
        httpx.Client(base_url=stack.contract["base_url"], timeout=30) as client,
    ):
        home = OwnHome(admin, client, code)
        grant = Grant("flc_own", "public_backend", home.esco, code, ("read",))
        token = stack.issue(grant)
        client.headers["Authorization"] = f"Bearer {token}"
        home.execute(*MADE)
        try:
            yield home
        finally:
            home.execute(*REMOVED)
