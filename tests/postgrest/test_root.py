"""Base URLs without /rest/v1, and further schemas: both by a setting, the latter if guarded."""

import re
from collections.abc import Iterator

import httpx
import psycopg
import pytest

from app.db.exposed import SchemaRefused, check_exposed
from app.db.migrate import migrate
from tests.conftest import Stack, running_stack, wait_until

OWN = """
    create schema {0};
    create table {0}.customers (id integer primary key, esco uuid not null, name text);
    alter table {0}.customers enable row level security;
    create policy own on {0}.customers to flows, public_backend
    using (esco = flows.current_esco());
    create view {0}.names with (security_invoker) as select name from {0}.customers;
    grant usage on schema {0} to flows, public_backend;
    grant select on all tables in schema {0} to flows, public_backend;
    insert into {0}.customers select row_number() over (order by code), id, 'of ' || code
    from flows.escos;
"""
DEFINER = "create function myenergy.bare{} language sql security definer as {}"
UNGUARDED = {
    "a table": ("create table myenergy.bare (id integer)", "bare: the table has no row level"),
    "a view": ("create view myenergy.bare as select from myenergy.customers", "bare: the view is"),
    "a materialized view": (
        "create materialized view myenergy.bare as select from myenergy.customers",
        "bare: neither materialized views",
    ),
    "a function": (
        DEFINER.format("(which text) returns bigint", "'select count(*) from myenergy.customers'"),
        "bare(which text): the function is security definer",
    ),
}


@pytest.fixture(scope="module")
def own() -> Iterator[Stack]:
    """A stack that answers at the root, and exposes myenergy once that is migrated."""
    with running_stack(FLOWS_POSTGREST_AT_ROOT="true") as running:
        yield running


def test_relations_and_functions_answer_at_the_root(own: Stack) -> None:
    with own.client("wlce", "write") as client:
        for path in (
            "meter_registry?select=serial,esco:escos(code)&order=serial",
            "circuit_interval_daily?select=day,kwh&limit=2&order=day",
            "rpc/get_meters_for_cli?esco_filter=null",
        ):
            below = client.get(f"/rest/v1/{path}")
            assert below.status_code == 200, below.text
            for profile in ("flows", "public", None):
                headers = {"accept-profile": profile} if profile else {}
                at_root = client.get(f"/{path}", headers=headers)
                assert at_root.status_code == 200, at_root.text
                assert at_root.json() == below.json()
        meter = client.get("/meter_registry?limit=1").json()[0]
        patched = client.patch(
            f"/meter_registry?id=eq.{meter['id']}", json={"firmware_version": meter["name"]}
        )
        assert patched.status_code == 204
        counted = client.head("/meter_registry", headers={"prefer": "count=exact"})
        assert counted.headers["content-range"].rpartition("/")[2] != "*"
        assert client.get("/no_such_relation").json()["code"] in ("42P01", "PGRST205")
        assert client.get("/meter_registry/more").status_code == 404


def test_the_gateways_own_paths_stay_its_own(own: Stack, stack: Stack) -> None:
    for path in ("/docs", "/openapi.json", "/ready", "/live", "/v1/escos", "/"):
        with own.client("wlce") as at_root, stack.client("wlce") as plain:
            assert at_root.get(path).status_code == plain.get(path).status_code, path
    assert httpx.get(own.contract["base_url"] + "/meter_registry").status_code == 401
    with stack.client("wlce") as client:
        assert client.get("/meter_registry").status_code == 404


def test_further_schemas_are_exposed_while_they_are_guarded(own: Stack) -> None:
    url = own.contract["database_url"]
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(OWN.format("myenergy").encode())
        migrate(url, schemas=("myenergy",))
        with httpx.Client(base_url=own.contract["postgrest_url"], timeout=30) as postgrest:
            token = own.contract["escos"]["wlce"]["read_token"]
            postgrest.headers["authorization"] = f"Bearer {token}"
            postgrest.headers["accept-profile"] = "myenergy"

            def exposed(relation: str = "customers") -> bool:
                return postgrest.get(f"/{relation}").status_code == 200

            wait_until(exposed)
            assert postgrest.get("/customers?select=name").json() == [{"name": "of wlce"}]
            assert postgrest.get("/names").json() == [{"name": "of wlce"}]
            # A relation that shows everything closes the schema, until it is gone.
            for change, told in UNGUARDED.values():
                admin.execute(change.encode())
                with pytest.raises(SchemaRefused, match=re.escape(told)):
                    migrate(url, schemas=("myenergy",))
                assert told in (check_exposed(url, ("myenergy",)) or "")
                wait_until(lambda: not exposed())
                kind = "materialized view" if "materialized" in change else change.split()[1]
                admin.execute(f"drop {kind} myenergy.bare".encode())
                migrate(url, schemas=("myenergy",))
                wait_until(exposed)
            # Functions that no caller may call, and those of triggers, show nothing.
            admin.execute(DEFINER.format("() returns bigint", "'select 1'").encode())
            admin.execute("revoke execute on function myenergy.bare() from public")
            admin.execute(
                "create function myenergy.noted() returns trigger language plpgsql"
                " security definer as 'begin return new; end'"
            )
            migrate(url, schemas=("myenergy",))
            admin.execute("grant execute on function myenergy.bare() to flows")
            with pytest.raises(SchemaRefused, match=r"bare\(\): the function"):
                migrate(url, schemas=("myenergy",))
        with pytest.raises(SchemaRefused, match="flux: there is no such schema"):
            migrate(url, schemas=("myenergy", "flux"))
        migrate(url)
        assert admin.execute("select gateway.exposed_schemas()").fetchone() == ([],)
        admin.execute("drop schema myenergy cascade")


def test_a_profile_that_is_not_set_is_refused(own: Stack) -> None:
    with own.client("wlce") as client:
        answer = client.get("/meter_registry", headers={"accept-profile": "myenergy"})
        assert answer.status_code == 406
