"""The functions behind the barrier views return exactly what the policies show."""

from typing import Any

import psycopg
import pytest

from tests.conftest import Stack
from tests.sql.test_isolation import become

Admin = psycopg.Connection[Any]
LOOKUPS = {
    "own_meters": ("meter_registry", "id"),
    "own_registers": ("meter_registers", "register_id"),
    "own_circuits": ("circuits", "id"),
}
# Ownership in every way there is one: by site, by register, by both of different ESCOs, by none.
CASES = """
    with site as (
        insert into flows.sites_new (esco, name) values (%(one)s, 'lookup') returning id
    ), meter as (
        insert into flows.meter_registry (serial, name, esco)
        values ('LOOKUP1', 'x', %(one)s), ('LOOKUP2', 'x', %(other)s), ('LOOKUP3', 'x', null)
        returning id
    ), register as (
        insert into flows.meter_registers (meter_id) select id from meter returning register_id
    ), circuit as (
        insert into flows.circuits (type, site)
        select 'power', site.id from site
        union all select 'heat', null
        union all select 'solar', null
        returning id, type
    )
    insert into flows.circuit_register (circuit, register, start_time, end_time)
    select circuit.id, register.register_id, '2020-01-01Z', '2021-01-01Z'
    from circuit cross join register where circuit.type <> 'solar'
"""


def found(admin: Admin, query: str) -> set[Any]:
    """The first column of a query."""
    return {row[0] for row in admin.execute(query.encode())}


@pytest.mark.parametrize("function", LOOKUPS)
def test_a_lookup_finds_what_the_policies_show(stack: Stack, admin: Admin, function: str) -> None:
    table, key = LOOKUPS[function]
    escos = [esco["id"] for esco in stack.contract["escos"].values()]
    admin.execute(CASES, {"one": escos[0], "other": escos[1]})
    seen = set()
    for role in ("flows", "public_backend", "grafanareader", "flows_owner", "tsdbadmin"):
        for esco in (*escos, None, "00000000-0000-0000-0000-000000000000"):
            become(admin, role, esco)
            shown = found(admin, f"select {key} from flows.{table}")
            looked_up = found(admin, f"select unnest(flows.{function}())")
            assert looked_up == shown, (role, esco)
            seen.add(frozenset(shown))
    # Each ESCO's, everything, and nothing.
    assert len(seen) == len(escos) + 2


def test_the_lookup_of_a_superuser_finds_everything(admin: Admin) -> None:
    assert found(admin, "select unnest(flows.own_meters())") == found(
        admin, "select id from flows.meter_registry"
    )


def test_a_definer_function_that_a_tenant_calls_looks_up_the_tenants(
    stack: Stack, admin: Admin
) -> None:
    """Whose function it is does not matter: the role that was set does."""
    admin.execute(
        "create function api.lookup() returns uuid[] language sql stable security definer"
        " set search_path = '' return flows.own_meters();"
        " alter function api.lookup() owner to flows_owner;"
        " grant execute on function api.lookup() to flows"
    )
    become(admin, "flows", stack.contract["escos"]["wlce"]["id"])
    assert found(admin, "select unnest(api.lookup())") == found(
        admin, "select id from api.meter_registry"
    )
