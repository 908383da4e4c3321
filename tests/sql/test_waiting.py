"""No ESCO waits for another's transaction, whatever it changes (SECURITY 54)."""

from typing import Any

import psycopg
import pytest

from app.db.isolation import become
from tests.conftest import Stack

LOCKS = "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()"
CHANGES = {
    "a mapping": "update api.circuit_register set notes = 'x', end_time = now()",
    "half-hours": "update api.register_interval_hh set import_kwh = 1"
    " where \"timestamp\" > now() - interval '1 day'",
    "configuration": "update api.meter_registers set notes = 'x'",
}


@pytest.mark.parametrize("what", CHANGES)
def test_54_an_open_transaction_of_one_esco_stops_no_other(stack: Stack, what: str) -> None:
    url, escos = stack.contract["database_url"], stack.contract["escos"]
    with psycopg.connect(url) as hostile, psycopg.connect(url) as other:
        become(hostile, "flows", escos["wlce"]["id"])
        assert hostile.execute(CHANGES[what].encode()).rowcount > 0
        become(other, "flows", escos["hmce"]["id"])
        other.execute("set local lock_timeout = '20s'")  # it would wait until the test ends
        for change in CHANGES.values():
            assert other.execute(change.encode()).rowcount > 0
        other.rollback()
        hostile.rollback()


@pytest.mark.parametrize("verb", ["update api.circuit_register set notes = 'x'",
                                  "delete from api.circuit_register"])  # fmt: skip
def test_54_what_changes_no_row_takes_no_lock(
    stack: Stack, admin: psycopg.Connection[Any], verb: str
) -> None:
    become(admin, "flows", stack.contract["escos"]["wlce"]["id"])
    admin.execute(f"{verb} where notes ~ '^nothing says this$'".encode())
    assert admin.execute(LOCKS).fetchone() == (0,)


def test_54_callers_statements_end(stack: Stack) -> None:
    """At both doors: what a filter costs beyond its bounds ends with the role's statement."""
    with psycopg.connect(stack.contract["database_url"]) as admin:
        for role in ("flows", "public_backend"):
            limits = admin.execute(
                "select setting from pg_roles cross join unnest(rolconfig) as setting"
                " where rolname = %s and setting ~ '^statement_timeout='", (role,),
            ).fetchall()  # fmt: skip
            assert limits == [("statement_timeout=30s",)]
