"""A deployment's database, copied and served: used through /rest, /v1 and SQL."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import psycopg
import pytest

from app.cli.admin import admin_url
from app.settings import Settings
from tests.commands import PARENT, command, run_command
from tests.conftest import STOP_SECONDS, wait_until
from tests.deployed import ESCO, HEAT, METER, POWER, THREE_PHASE, make_deployed
from tests.servers import enterable_folder

MONTHS = """
    select date_trunc('month', h.timestamp, 'UTC')::date::text, sum(h.kwh)::float8
    from flows.register_interval_hh as h
    join flows.circuit_register as m on m.register = h.register_id
        and m.start_time <= h.timestamp and (m.end_time > h.timestamp or m.end_time is null)
    group by 1 order by 1
"""
PERIOD = {"period_from": "2026-05-01T00:00Z", "period_to": "2026-07-01T00:00Z", "timezone": "UTC"}


@dataclass(frozen=True)
class Copied:
    """The URLs of the deployment's database and of its copy, and a client of the gateway."""

    old: str
    new: str
    client: httpx.Client


@pytest.fixture(scope="module")
def own() -> Iterator[Copied]:
    """A stack without the demo, into which the deployment is copied as an operator does."""
    with enterable_folder() as folder:
        env = os.environ | {"FLOWS_HOME": str(folder / "home"), "FLOWS_PORT": "0"}

        def flows(*words: str) -> str:
            done = run_command(words, env)
            assert done.returncode == 0, done.stderr
            return done.stdout

        with command(("up", "--parent", PARENT), env) as process:
            try:
                wait_until(lambda: "try " in process.output or process.poll() is not None)
                assert process.output.startswith("ready "), process.errors
                base_url = process.output.split()[1]
                new = admin_url(Settings(home=folder / "home"))
                old = new.replace("/flows?", "/deployed?")
                assert old != new
                with psycopg.connect(new, autocommit=True) as server:
                    server.execute("create database deployed")
                    [engine] = server.execute("select flows.engine()").fetchone() or [""]
                make_deployed(old, engine)
                flows("db", "copy", "--from", old)
                made = json.loads(
                    flows("client", "create", "sync", "--esco", "olde", "--scope", "read",
                          "--scope", "write", "--json")
                )  # fmt: skip
                [made] = made if isinstance(made, list) else [made]
                token = httpx.post(
                    f"{base_url}/auth/token",
                    data={"grant_type": "client_credentials"},
                    auth=(made["id"], made["client_secret"]),
                ).json()["access_token"]
                headers = {"Authorization": f"Bearer {token}"}
                with httpx.Client(base_url=base_url, headers=headers, timeout=30) as client:
                    yield Copied(old, new, client)
            finally:
                process.terminate()
                process.wait(STOP_SECONDS)


def ask(url: str, query: str, *values: object) -> list[tuple[Any, ...]]:
    """Return the rows of a query, run in a new connection."""
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(query.encode(), values).fetchall()


def rest(own: Copied, query: str) -> Any:
    """Return the rows of a read through /rest."""
    answer = own.client.get(f"/rest/v1/{query}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_its_rows_are_read_through_rest(own: Copied) -> None:
    energy = "select register_id::text, sum(kwh)::float8 from flows.register_interval_hh group by 1"
    expected = dict(ask(own.old, energy))
    found: dict[str, float] = {}
    for row in rest(own, "register_interval_hh?select=register_id,kwh"):
        found[row["register_id"]] = found.get(row["register_id"], 0) + row["kwh"]
    assert found == {register: expected[register] for register in found}
    assert len(found) == 4  # the fifth is of another ESCO
    assert rest(own, f"meter_csq?select=csq&meter_id=eq.{METER}&order=timestamp") == [
        {"csq": csq} for csq in (20, 99, -1, None, 2_147_483_647)
    ]
    embedded = "meter_registry?select=serial,shadow:meter_shadows(csq,health_details)&order=serial"
    assert rest(own, embedded) == [
        {"serial": "OLD1", "shadow": {"csq": 99, "health_details": ""}},
        {"serial": "OLD2", "shadow": {"csq": -1, "health_details": "no answer for two days"}},
    ]


def test_its_energy_is_what_its_half_hours_say(own: Copied) -> None:
    expected = ask(own.old, MONTHS)
    months = "select month::date::text, sum(kwh)::float8 from flows.circuit_interval_monthly"
    assert ask(own.new, f"{months} group by 1 order by 1") == expected != []
    answer = own.client.get(
        "/v1/energy", params=PERIOD | {"group_by": "esco", "granularity": "P1M"}
    )
    assert answer.status_code == 200, answer.text
    found = [
        (row["interval_start"][:10], (row["import_kwh"] or 0) + (row["export_kwh"] or 0))
        for row in answer.json()["rows"]
    ]
    assert found == expected


def test_its_jobs_write_on(own: Copied) -> None:
    client = own.client
    # The meter's site is not there.
    path = f"/rest/v1/meter_registry?id=eq.{THREE_PHASE}"
    assert client.patch(path, json={"firmware_version": "1.3"}).status_code == 204
    half_hours = [
        {"register_id": register, "timestamp": "2026-06-02T00:00Z", "kwh": 0.5}
        for register in (POWER, HEAT)
    ]
    written = client.post(
        "/rest/v1/register_interval_hh", json=half_hours,
        headers={"Prefer": "resolution=merge-duplicates,return=minimal"},
    )  # fmt: skip
    assert written.status_code in (200, 201), written.text
    new = f"register_interval_hh?select=import_kwh,export_kwh,kwh&register_id=eq.{POWER}"
    assert rest(own, f"{new}&timestamp=eq.2026-06-02T00:00Z") == [
        {"import_kwh": 0.5, "export_kwh": None, "kwh": 0.5}
    ]
    shadow = f"/rest/v1/meter_shadows?id=eq.{METER}"
    for _ in range(3):
        assert client.patch(shadow, json={"csq": 70_000}).status_code == 204
    signals = "select count(*), min(esco::text) from flows.meter_csq where csq = 70000"
    assert ask(own.new, signals) == [(3, ESCO)]
