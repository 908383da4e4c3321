"""Isolation: no ESCO sees, changes or counts another's rows, in any relation of the catalogue."""

from typing import Any

import psycopg
import pytest

from app.db.isolation import SHARED_RELATIONS, become, exposed
from tests.conftest import Stack
from tests.sql.series import AGGREGATES, TIME_SERIES

Admin = psycopg.Connection[Any]
ESCOS = ("wlce", "hmce")
# The rows of these depend on the state of the meters; isolation is tested as for all others.
REPORTS = {
    "meters_low_balance",
    "meters_offline_all",
    "meters_offline_recently",
    "meters_clock_drift",
    "register_import_missing",
    "register_export_missing",
}


def rows_of(admin: Admin, relation: str) -> set[str]:
    """Return all rows of a relation that the current role sees, as text."""
    return {row[0] for row in admin.execute(f"select t::text from api.{relation} as t")}


def test_no_relation_shows_a_row_of_two_escos(stack: Stack, admin: Admin) -> None:
    escos = stack.contract["escos"]
    relations = exposed(admin)
    assert len(relations) >= 18
    # Half-hours are missing from the demo's first day, unless it began at midnight.
    admin.execute(
        'delete from flows.register_interval_hh where "timestamp" ='
        """ (select min("timestamp") + interval '1 day' from flows.register_interval_hh)"""
    )
    for relation in relations:
        seen = {}
        for code in ESCOS:
            for role in ("flows", "public_backend"):
                become(admin, role, escos[code]["id"])
                seen[code] = rows_of(admin, relation)
            become(admin, "flows", None)
            nothing = rows_of(admin, relation)
            assert relation in SHARED_RELATIONS or not nothing, relation
        if relation not in SHARED_RELATIONS:
            for code in ESCOS:
                assert seen[code] or relation in REPORTS, f"{relation} has demo rows of {code}"
            assert not seen["wlce"] & seen["hmce"], relation
            become(admin, "grafanareader", None)
            assert seen["wlce"] | seen["hmce"] <= rows_of(admin, relation), relation


def test_a_tenant_changes_and_deletes_no_foreign_row(stack: Stack, admin: Admin) -> None:
    foreign = stack.contract["escos"]["hmce"]["id"]
    own = stack.contract["escos"]["wlce"]["id"]
    for relation in exposed(admin):
        become(admin, "flows", foreign)
        before = rows_of(admin, relation)
        become(admin, "flows", own)
        if not admin.execute(
            "select has_table_privilege('flows', %s, 'delete')", (f"api.{relation}",)
        ).fetchone()[0]:  # type: ignore[index]
            continue
        with admin.transaction():
            admin.execute("savepoint before")
            try:
                admin.execute(f"delete from api.{relation}")
            except psycopg.errors.ForeignKeyViolation:
                admin.execute("rollback to savepoint before")
            become(admin, "flows", foreign)
            assert rows_of(admin, relation) == before, relation
        admin.rollback()


@pytest.mark.parametrize("relation", sorted(TIME_SERIES | AGGREGATES))
@pytest.mark.parametrize("role", ["flows", "public_backend", "grafanareader"])
def test_no_caller_reaches_the_time_series_themselves(
    admin: Admin, stack: Stack, relation: str, role: str
) -> None:
    become(admin, role, stack.contract["escos"]["wlce"]["id"])
    # Monitoring reads every ESCO, and changes none.
    statement = "delete" if role == "grafanareader" else "select"
    held = admin.execute(
        "select has_table_privilege(%s, %s)", (f"flows.{relation}", statement)
    ).fetchone()
    assert held == (False,)
    refusals: list[type[psycopg.Error]] = [psycopg.errors.InsufficientPrivilege]
    if statement == "delete" and relation in AGGREGATES:
        # On TimescaleDB they are views that nobody can delete from, and that is said first.
        refusals.append(psycopg.errors.ObjectNotInPrerequisiteState)
    with pytest.raises(tuple(refusals)):
        admin.execute(f"{statement} from flows.{relation}")


FOREIGN_WRITES = {
    "a meter for another ESCO": (
        "insert into api.meter_registry (serial, name, esco) values ('X1', 'x', %(foreign_esco)s)"
    ),
    "an own meter given away": "update api.meter_registry set esco = %(foreign_esco)s",
    "an own meter at a foreign site": "update api.meter_registry set site = %(foreign_site)s",
    "a register on a foreign meter": (
        "insert into api.meter_registers (meter_id) values (%(foreign_meter)s)"
    ),
    "a half-hour of a foreign register": (
        'insert into api.register_interval_hh (register_id, "timestamp", import_kwh)'
        " values (%(foreign_register)s, '2020-01-01Z', 1)"
    ),
    "a foreign circuit captured": (
        "insert into api.circuit_register (circuit, register, start_time)"
        " select %(foreign_circuit)s, register_id, '2020-01-01Z' from api.meter_registers limit 1"
    ),
    "a foreign register captured": (
        "insert into api.circuit_register (circuit, register, start_time)"
        " select id, %(foreign_register)s, '2020-01-01Z' from api.circuits limit 1"
    ),
    "a foreign service head captured": (
        "insert into api.service_head_meter (service_head, meter)"
        " select %(foreign_head)s, id from api.meter_registry limit 1"
    ),
}


@pytest.mark.parametrize("what", FOREIGN_WRITES)
def test_a_row_that_points_at_another_esco_is_refused(
    stack: Stack, admin: Admin, what: str
) -> None:
    escos = stack.contract["escos"]
    become(admin, "flows", escos["hmce"]["id"])
    row = admin.execute(
        "select (select min(id::text) from api.sites_new) as foreign_site,"
        " (select min(id::text) from api.meter_registry) as foreign_meter,"
        " (select min(register_id::text) from api.meter_registers) as foreign_register,"
        " (select min(id::text) from api.circuits) as foreign_circuit,"
        " (select min(id::text) from api.service_head_registry) as foreign_head"
    )
    names = [column.name for column in row.description or ()]
    foreign = dict(zip(names, row.fetchone() or (), strict=True))
    foreign["foreign_esco"] = escos["hmce"]["id"]
    assert all(foreign.values())
    become(admin, "flows", escos["wlce"]["id"])
    with pytest.raises(
        (psycopg.errors.InsufficientPrivilege, psycopg.errors.WithCheckOptionViolation)
    ):
        admin.execute(FOREIGN_WRITES[what], foreign)


def test_a_register_of_the_same_transaction_takes_half_hours(stack: Stack, admin: Admin) -> None:
    """Ownership is determined for each statement, and after each change of tenant."""
    half_hour = (
        'insert into api.register_interval_hh (register_id, "timestamp", import_kwh)'
        " values (%s, %s, 1)"
    )
    escos = stack.contract["escos"]
    become(admin, "flows", escos["wlce"]["id"])
    (register,) = admin.execute(
        "insert into api.meter_registers (meter_id) select id from api.meter_registry limit 1"
        " returning register_id"
    ).fetchone() or (None,)
    admin.execute(half_hour, (register, "2020-01-01Z"))
    become(admin, "flows", escos["hmce"]["id"])
    with pytest.raises(psycopg.errors.WithCheckOptionViolation):
        admin.execute(half_hour, (register, "2020-01-02Z"))
