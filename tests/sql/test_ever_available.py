"""The time for which an ESCO has half-hours, told without a look at each of its mappings."""

from typing import Any

import psycopg
import pytest

from app.db.isolation import become
from tests.conftest import Stack

Admin = psycopg.Connection[Any]
# Of the registers with the first or the last half-hour, mappings begin or end elsewhere, or never.
CHANGES = (
    "select",
    "update flows.circuit_register set start_time = %(first)s + interval '3 days'",
    "update flows.circuit_register set end_time = %(last)s - interval '3 days'",
    "update flows.circuit_register set end_time = %(last)s",
    "update flows.circuit_register set start_time = %(first)s where circuit in"
    " (select min(circuit::text)::uuid from flows.circuit_register group by esco)",
    "delete from flows.circuit_register",
)


@pytest.mark.parametrize("changes", [CHANGES[:1], CHANGES[1:3], CHANGES[3:5], CHANGES[5:]])
def test_it_is_what_all_mappings_say(stack: Stack, admin: Admin, changes: tuple[str, ...]) -> None:
    (first, last) = admin.execute(
        "select min(available_from), max(available_to) from flows.register_extent"
    ).fetchone() or (None, None)
    for change in changes:
        admin.execute(change.encode(), {"first": first, "last": last} if "%" in change else None)
    for esco in stack.contract["escos"].values():
        become(admin, "flows", esco["id"])
        each = admin.execute(
            "select min(available_from), max(available_to) from api.circuit_register_extent"
        ).fetchone()
        assert admin.execute("select * from flows.ever_available()").fetchone() == each
        become(admin, "tsdbadmin", None)
