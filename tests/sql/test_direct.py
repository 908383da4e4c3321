"""SQL as a caller's role, as a direct login or a hole in a door would have it (SECURITY 75)."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg
import pytest

from app.auth import keyring
from app.db.isolation import become
from app.db.logins import READER_CONNECTIONS, grant_login, revoke_login
from tests.conftest import Stack

Admin = psycopg.Connection[Any]
ROLES = ("flows", "public_backend", "grafanareader")
PASSWORD = "a long password of your own"

# Statements for things of the server, not of a tenant.
REFUSED = {
    "a temporary table": "create temporary table t (a int)",
    "a temporary view": "create temporary view v as select 1 as a",
    "a function of the session": "create function pg_temp.f() returns int language sql return 1",
    "a large object": "select lo_create(0)",
    "a large object of bytes": "select lo_from_bytea(0, 'x')",
    "a file of the server in a large object": "select lo_import('/etc/passwd')",
    "a session's lock": "select pg_advisory_lock(1)",
    "a transaction's lock": "select pg_advisory_xact_lock(1, 2)",
    "a lock if it is free": "select pg_try_advisory_lock_shared(1)",
    "the lock of those who follow": "select pg_advisory_lock(hashtext('flows.follow'))",
    "a message in the log of writes": "select pg_logical_emit_message(false, 'x', 'x')",
    "a table of api": "create table api.t (a int)",
    "a table of public": "create table public.t (a int)",
    "a schema": "create schema s",
    "an extension": "create extension dblink schema public",
    "a role": "create role r",
    "the settings of another role": "alter role authenticator set statement_timeout = 0",
    "the settings of the database": "alter database flows set statement_timeout = 0",
    "a server's setting": "set log_statement = 'all'",
    "a server's file": "select pg_read_file('postgresql.conf')",
    "a program": "copy (select 1) to program 'true'",
    "a file": "copy (select 1) to '/tmp/flows-copied'",
    "another's session": "select pg_terminate_backend(pid) from pg_stat_activity"
    " where usename in ('authenticator', 'flows_gateway', 'postgres') and pid <> pg_backend_pid()"
    " limit 1",
    "a row security": "alter table flows.circuits disable row level security",
    "everybody's statistics": "select pg_stat_reset()",
    "secrets": "select * from gateway.client_secret",
    "the audit": "select * from gateway.audit",
    "password hashes": "select * from pg_authid",
    "the statistics of values": "select * from pg_statistic",
}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("what", REFUSED)
def test_75_sql_as_a_caller_takes_nothing_of_the_servers(
    stack: Stack, admin: Admin, role: str, what: str
) -> None:
    become(admin, role, stack.contract["escos"]["wlce"]["id"])
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        admin.execute(REFUSED[what].encode())


@pytest.mark.parametrize("role", ["flows", "public_backend"])
@pytest.mark.parametrize(
    "setting",
    ["search_path = pg_temp, flows", "row_security = off", "plan_cache_mode = auto",
     "session_replication_role = replica", "enable_seqscan = off", "app.current_esco = 'x'"],
)  # fmt: skip
def test_75_no_setting_shows_a_foreign_row(
    stack: Stack, admin: Admin, role: str, setting: str
) -> None:
    """It may fail or be refused, but it shows no other's rows, by view or by table."""
    escos = stack.contract["escos"]
    queries = ("select id::text from api.meter_registry", "select id::text from flows.circuits",
               "select distinct register_id::text from api.register_interval_hh")  # fmt: skip
    become(admin, "flows", escos["hmce"]["id"])
    foreign = {row[0] for query in queries for row in admin.execute(query.encode())}
    become(admin, role, escos["wlce"]["id"])
    seen: set[str] = set()
    for query in queries:
        try:
            with admin.transaction(force_rollback=True):
                admin.execute(f"set local {setting}".encode())
                seen |= {row[0] for row in admin.execute(query.encode())}
        except psycopg.Error:
            continue
    assert not seen & foreign


@pytest.mark.parametrize("role", ["flows", "public_backend"])
def test_75_the_catalogue_tells_no_values(stack: Stack, admin: Admin, role: str) -> None:
    """Histograms and most common values would be other tenants' serials and energy."""
    become(admin, role, stack.contract["escos"]["wlce"]["id"])
    told = admin.execute(
        "select distinct schemaname || '.' || tablename from pg_stats"
        " where schemaname !~ '^(pg_catalog|information_schema)$' and not exists ("
        # An extension's own: of TimescaleDB the chunks' names and times.
        "select from pg_depend where classid = 'pg_class'::regclass and deptype = 'e'"
        " and objid = format('%I.%I', schemaname, tablename)::regclass)"
    ).fetchall()
    assert told == []
    activity = admin.execute(
        "select distinct query from pg_stat_activity where pid <> pg_backend_pid()"
        " and query not in ('', '<insufficient privilege>')"
    ).fetchall()
    assert activity == []
    # A definition of an object is the program's, and names no ESCO.
    ids = [esco["id"] for esco in stack.contract["escos"].values()]
    for source in ("select prosrc from pg_proc", "select setting from pg_settings",
                   "select relname::text from pg_class", "select description from pg_description",
                   "select setconfig::text from pg_db_role_setting"):  # fmt: skip
        found = {row[0] or "" for row in admin.execute(source.encode())}
        assert not any(esco in text for esco in ids for text in found), source


def test_75_who_listens_learns_no_name(stack: Stack) -> None:
    """Every session may listen, so that nothing but the moment is told."""
    url = stack.contract["database_url"]
    with psycopg.connect(url, autocommit=True) as listener, psycopg.connect(url) as admin:
        listener.execute("set role public_backend")
        for channel in ("flows_tokens", "pgrst"):
            listener.execute(f"listen {channel}".encode())
        admin.execute("insert into gateway.revoked_token (jti, expires_at) values"
                      " ('test-75', now())")  # fmt: skip
        admin.execute("update gateway.signing_key set signs_from = signs_from")
        admin.commit()
        heard = {(n.channel, n.payload) for n in listener.notifies(timeout=5, stop_after=2)}
        admin.execute("delete from gateway.revoked_token where jti = 'test-75'")
    assert heard
    assert {payload for _, payload in heard} <= {"", "reload config", "reload schema"}


@pytest.mark.parametrize("limit", ["0", "'1h'"])
def test_75_a_role_lifts_no_limit_of_its_tenants(stack: Stack, admin: Admin, limit: str) -> None:
    """A role may alter its own settings; authorize() keeps the limit of a tenant's statement."""
    esco = stack.contract["escos"]["wlce"]["id"]
    become(admin, "flows", esco)
    admin.execute(f"alter role flows set statement_timeout = {limit}".encode())
    admin.execute("select set_config('role', 'none', true)")
    claims = {"aud": "flows", "role": "flows", "esco": esco, "scope": "read", "jti": "x"}
    admin.execute(
        "select set_config('request.jwt.claims', %s, true), set_config('role', 'flows', true),"
        " set_config('statement_timeout', (select split_part(setting, '=', 2) from pg_roles,"
        " unnest(rolconfig) as setting where rolname = 'flows'"
        " and setting ~ '^statement_t'), true)",
        (json.dumps(claims),),
    )
    admin.execute("select gateway.authorize()")
    assert admin.execute("show statement_timeout").fetchone() == ("30s",)
    # A limit that an operator has chosen is kept.
    admin.execute("set local statement_timeout = '2min'")
    admin.execute("select gateway.authorize()")
    assert admin.execute("show statement_timeout").fetchone() == ("2min",)


def test_75_a_session_may_not_log_in_as_a_tenant(stack: Stack, admin: Admin) -> None:
    logins = admin.execute("select rolname from pg_roles where rolcanlogin and rolname = any(%s)",
                           (["flows", "public_backend", "tsdbadmin"],))  # fmt: skip
    assert logins.fetchall() == []


def door_url(stack: Stack) -> str:
    """Return the URL of authenticator, whose password PostgREST has."""
    passwords = json.loads((stack.home / "passwords.json").read_text())
    parts = urlsplit(stack.contract["database_url"])
    login = f"authenticator:{quote(passwords['authenticator'])}@"
    return str(urlunsplit(parts._replace(netloc=login)))


def test_50_a_request_takes_one_core(stack: Stack) -> None:
    """An ESCO's requests are counted: with parallel workers one took three processes."""
    with psycopg.connect(door_url(stack)) as door:
        assert door.execute("show max_parallel_workers_per_gather").fetchone() == ("0",)


def test_75_the_doors_logins_read_and_make_nothing(stack: Stack) -> None:
    """As authenticator: no table of ours, and no temporary one."""
    url = door_url(stack)
    for statement in ("create temporary table t (a int)", "select lo_create(0)",
                      "select * from api.circuits", "select * from gateway.client",
                      "select pg_advisory_lock(1)", "set role tsdbadmin",
                      "set role flows_owner"):  # fmt: skip
        with psycopg.connect(url) as door, pytest.raises(psycopg.errors.InsufficientPrivilege):
            door.execute(statement.encode())


@pytest.fixture
def dashboard(stack: Stack) -> Iterator[str]:
    """The URL of grafanareader, who may log in during the test."""
    url = stack.contract["database_url"]
    grant_login(url, "grafanareader", PASSWORD)
    parts = urlsplit(url)._replace(netloc=f"grafanareader:{quote(PASSWORD)}@")
    try:
        yield str(urlunsplit(parts))
    finally:
        revoke_login(url, "grafanareader")


def test_75_a_dashboard_has_limits(stack: Stack, dashboard: str, admin: Admin) -> None:
    with psycopg.connect(dashboard) as connection:
        limits = connection.execute(
            "select current_setting('statement_timeout'), current_setting('search_path'),"
            " current_setting('idle_in_transaction_session_timeout'),"
            " (select rolconnlimit from pg_roles where rolname = current_user)"
        ).fetchone()
        assert limits == ("10min", "flows, api, public", "10min", READER_CONNECTIONS)
    # Its tokens have the limits of the door.
    assert admin.execute(
        "select from pg_roles where rolname = 'grafanareader' and rolconfig is not null"
    ).fetchall() == []  # fmt: skip


def test_75_a_flood_of_notifications_is_few_reloads(stack: Stack, dashboard: str) -> None:
    """NOTIFY asks for no right; each kept the gateway's event loop busy for a query."""
    loads: list[keyring.AuthState] = []

    async def flood() -> None:
        connection = await psycopg.AsyncConnection.connect(dashboard, autocommit=True)
        async with connection:
            while True:
                await connection.execute("notify flows_tokens")

    async def run() -> None:
        follower = keyring.follow_state(stack.contract["database_url"], lambda: [], loads.append)
        running = [asyncio.create_task(each) for each in (follower, flood())]
        await asyncio.sleep(1)
        for each in running:
            each.cancel()
        await asyncio.wait(running)

    asyncio.run(run())
    assert 2 < len(loads) <= 1 / keyring.GATHER_SECONDS + 1
