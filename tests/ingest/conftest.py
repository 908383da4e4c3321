"""Meters to import into."""

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import pytest

from tests.conftest import Stack
from tests.ingest.command import Admin


@contextmanager
def new_meter(stack: Stack, admin: Admin, name: str) -> Iterator[dict[str, str]]:
    """Insert a meter of wlce with one register, and remove them afterwards; yield their ids."""
    ids = {"meter": str(uuid4()), "register": str(uuid4()), "name": name}
    ids["serial"] = f"{name.upper()}-{ids['meter'][:8]}"
    ids["esco"] = stack.contract["escos"]["wlce"]["id"]
    for statement in (
        "insert into flows.meter_registry (id, serial, name, esco)"
        " values (%(meter)s, %(serial)s, %(name)s, %(esco)s)",
        "insert into flows.meter_registers (register_id, meter_id, element)"
        " values (%(register)s, %(meter)s, 'SINGLE')",
    ):
        admin.execute(statement, ids)
    admin.commit()
    yield ids
    admin.rollback()
    for statement in (
        "delete from flows.register_interval_hh where register_id = %(register)s",
        "delete from flows.circuit_register where register = %(register)s",
        "delete from flows.meter_registers where meter_id = %(meter)s",
        "delete from flows.meter_registry where id = %(meter)s",
    ):
        admin.execute(statement, ids)
    admin.commit()


@contextmanager
def new_home(stack: Stack, admin: Admin) -> Iterator[dict[str, str]]:
    """Insert a home of wlce with one register and circuit, and remove them afterwards."""
    with new_meter(stack, admin, "Import") as ids:
        ids["circuit"] = str(uuid4())
        for statement in (
            "insert into flows.circuits (id, type) values (%(circuit)s, 'power')",
            "insert into flows.circuit_register (circuit, register, start_time)"
            " values (%(circuit)s, %(register)s, '2000-01-01Z')",
        ):
            admin.execute(statement, ids)
        admin.commit()
        yield ids
    admin.execute("delete from flows.circuits where id = %(circuit)s", ids)
    admin.commit()


@pytest.fixture
def home(stack: Stack, admin: Admin) -> Iterator[dict[str, str]]:
    """A home of wlce with one register and circuit, removed afterwards."""
    with new_home(stack, admin) as ids:
        yield ids
