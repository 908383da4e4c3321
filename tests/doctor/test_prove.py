"""`flows prove` finds what was broken by hand, names the relation, and leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.rows import dict_row

from app.db.isolation import SHARED_RELATIONS, exposed_relations
from app.db.migrate import migrate
from app.doctor.canaries import SERIES_VALUES, canaries, rows_of
from app.doctor.prove import prove_isolation
from app.settings import Settings
from tests.conftest import Stack, another_gateway, flows, running_stack, wait_until

Admin = psycopg.Connection[dict[str, Any]]
CANARIES = "select count(*) as n from flows.escos where code like 'flows-prove-%'"


@pytest.fixture(scope="module")
def own() -> Iterator[Stack]:
    """A stack whose policies may be broken."""
    with running_stack() as running:
        yield running


@pytest.fixture
def operator(own: Stack) -> Iterator[Admin]:
    """An administrator's connection in autocommit; what was broken is mended in the end."""
    url = own.contract["database_url"]
    with psycopg.connect(url, autocommit=True, row_factory=dict_row) as admin:
        yield admin
        migrate(url)


def counts(admin: Admin) -> dict[str, int]:
    """Return the rows of each table and series."""
    found = admin.execute(
        "select relname from pg_class where relnamespace = 'flows'::regnamespace"
        " and relkind in ('r', 'p') and not relispartition and relname !~ '^(change|circuit_sums)'"
    ).fetchall()
    return {
        row["relname"]: admin.execute(
            f"select count(*) as n from flows.{row['relname']}".encode()
        ).fetchone()["n"]  # type: ignore[index]
        for row in found
    }


def settings_of(own: Stack) -> Settings:
    """Return the settings of a command on a stack."""
    return Settings(home=own.home)


def test_what_holds_is_proven_and_leaves_nothing_behind(own: Stack, operator: Admin) -> None:
    before = counts(operator)
    told = json.loads(flows(own, "prove", "--json", check=False).stdout)
    assert (told["ok"], told["findings"]) == (True, [])
    assert told["tried"] > 500
    assert told["seconds"] < 60
    assert counts(operator) == before
    text = flows(own, "prove").stdout
    assert f"{told['tried']} ways tried in" in text
    assert text.strip().endswith("0 faults")


def test_every_relation_has_a_canarys_row(own: Stack, operator: Admin) -> None:
    """A new table or series cannot be forgotten."""
    series = {row["name"] for row in operator.execute("select name from flows.series()"
              " where key <> 'circuit_id'").fetchall()}  # fmt: skip
    assert series == set(SERIES_VALUES)
    with canaries(operator) as made:
        for relation in exposed_relations(operator):
            if relation.key and relation.name not in SHARED_RELATIONS:
                assert all(rows_of(operator, relation.name, one) for one in made)


# Of a relation each: proven together, because a proof takes seconds.
BROKEN = {
    "circuits":  # a policy that lets everybody read
        'alter policy "an ESCO has its rows" on flows.circuits using (true)',
    "meter_shadows":  # a policy beside
        "create policy oops on flows.meter_shadows for select using (true)",
    "properties":  # row security switched off
        "alter table flows.properties disable row level security",
    "ev_chargers":  # a policy that lets everybody delete
        "create policy oops on flows.ev_chargers to flows using (true)",
    "meter_csq":  # a table that is readable past its view
        "create or replace view api.meter_csq with (security_barrier) as"
        ' select meter_id, "timestamp", created_at, csq from flows.meter_csq',
}  # fmt: skip


# Views of the shadows.
OF_SHADOWS = {
    "meter_shadows_tariffs", "meters_offline_all", "meters_low_balance", "meters_clock_drift",
    "meters_offline_recently",
}  # fmt: skip


def found_broken(own: Stack, operator: Admin) -> set[str]:
    """Return the names of what `flows prove` finds, after which no canary is left."""
    done = flows(own, "prove", "--json", check=False)
    assert done.returncode == 1, done.stderr
    told = json.loads(done.stdout)
    assert not told["ok"]
    assert operator.execute(CANARIES).fetchone() == {"n": 0}
    return {one["check"] for one in told["findings"]}


def test_each_relation_broken_by_hand_is_named_and_no_other(own: Stack, operator: Admin) -> None:
    for statement in BROKEN.values():
        operator.execute(statement.encode())
    try:
        found = found_broken(own, operator)
    finally:
        operator.execute("alter table flows.properties enable row level security")
    relations = {name for name in found if not name.startswith("/v1/")}
    assert relations - {"meter_csq_latest"} - OF_SHADOWS == set(BROKEN)


BROKEN_FOR_RESIDENTS = {
    "circuits":  # a policy and a view that show a resident its whole ESCO
        'alter policy "a resident reads what is its own" on flows.circuits'
        " using (esco = flows.current_esco());"
        "create or replace view api.circuits with (security_invoker) as"
        " select id, type, name, site, rating_amps, created_at from flows.circuits",
    "service_head_meter":  # a link of today shown to who lived there before
        "create or replace view api.service_head_meter with (security_invoker) as"
        " select service_head, meter, created_at from flows.service_head_meter",
    "meter_shadows":  # the present shown to who lived there before
        'alter policy "a resident reads what is its own" on flows.meter_shadows'
        " using (id = any((select flows.own_ids('meters'))::uuid[]))",
    "properties":  # a right to write
        "grant update on api.properties to resident",
    "ev_chargers":  # a right to read
        "grant select on api.ev_chargers, flows.ev_chargers to resident;"
        "create policy oops on flows.ev_chargers for select to resident using (true)",
    "meter_voltage":  # a series of the whole ESCO
        "create or replace view api.meter_voltage with (security_barrier) as"
        ' select meter_id, "timestamp", voltage, created_at from flows.meter_voltage'
        " where esco = flows.current_esco()",
}  # fmt: skip


def test_what_shows_a_resident_more_is_named_and_nothing_else(own: Stack, operator: Admin) -> None:
    for statement in BROKEN_FOR_RESIDENTS.values():
        operator.execute(statement.encode())
    found = found_broken(own, operator)
    relations = {name for name in found if not name.startswith("/v1/")}
    assert relations - OF_SHADOWS == set(BROKEN_FOR_RESIDENTS)


def test_a_role_beyond_all_policies_is_found(own: Stack, operator: Admin) -> None:
    operator.execute("alter role public_backend bypassrls")
    try:
        found = found_broken(own, operator)
    finally:
        operator.execute("alter role public_backend nobypassrls")
    assert {"meter_registry", "circuits", "escos"} <= found


def test_metrics_tell_the_last_result(own: Stack, operator: Admin) -> None:
    """A gateway reads it as it starts, and then once a minute."""
    operator.execute("create policy oops on flows.circuits for select using (true)")
    proof = prove_isolation(
        own.contract["database_url"], settings_of(own), own.contract["base_url"]
    )
    broken = {finding.check for finding in proof.findings}
    assert "circuits" in broken
    recorded = operator.execute("select broken, tried from gateway.proof").fetchone()
    assert recorded == {"broken": sorted(broken), "tried": proof.tried}

    with another_gateway(own, FLOWS_METRICS="open") as started:
        url = f"{started.contract['base_url']}/metrics"
        text = wait_until(lambda: "flows_isolation" in (now := httpx.get(url).text) and now)
    assert f"flows_isolation_broken {len(broken)}.0" in text
    assert "flows_isolation_proof_age_seconds " in text


def test_what_a_killed_run_left_is_removed_by_the_next(own: Stack, operator: Admin) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "app.cli", "prove"],
        env=os.environ | {"FLOWS_HOME": str(own.home)},
        stdout=subprocess.DEVNULL,
    )
    wait_until(lambda: operator.execute(CANARIES).fetchone() == {"n": 2})
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert operator.execute(CANARIES).fetchone() == {"n": 2}
    proven = wait_until(lambda: _proven(own))
    assert proven["findings"] == []
    assert operator.execute(CANARIES).fetchone() == {"n": 0}


def _proven(own: Stack) -> dict[str, Any] | None:
    """Return the result, or None while the killed run still holds its lock."""
    told: dict[str, Any] = json.loads(flows(own, "prove", "--json", check=False).stdout)
    running = [one for one in told["findings"] if "another flows prove" in one["text"]]
    return None if running else told


def test_a_gateway_that_is_gone_is_a_fault(own: Stack) -> None:
    proof = prove_isolation(
        own.contract["database_url"], settings_of(own), own.contract["base_url"],
        "http://127.0.0.1:1",
    )  # fmt: skip
    assert [finding.check for finding in proof.findings] == ["doors"]
