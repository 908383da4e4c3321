"""A meter that moves to another ESCO: both sides before and after, at both doors (SECURITY 59)."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest

from tests.conftest import Stack, flows, running_stack, wait_until

START = datetime(2025, 3, 3, tzinfo=UTC)
MOVED = START + timedelta(days=1)
END = START + timedelta(days=2)
SERIES = ("register_interval_hh", "register_import", "meter_csq")


@pytest.fixture(scope="module")
def own() -> Iterator[Stack]:
    """A stack whose meters move."""
    with running_stack() as running:
        yield running


@pytest.fixture
def home(own: Stack) -> dict[str, str]:
    """A meter of wlce, at a site, on a head with a property, in a circuit with two days' energy."""
    names = ("meter", "register", "circuit", "site", "head", "house")
    ids = {name: str(uuid4()) for name in names}
    ids |= {"serial": f"MOVE-{ids['meter'][:8]}", "esco": own.contract["escos"]["wlce"]["id"]}
    ids |= {"start": START.isoformat(), "end": END.isoformat()}
    with psycopg.connect(own.contract["database_url"]) as admin:
        for statement in (
            "insert into flows.sites_new (id, esco, name) values (%(site)s, %(esco)s, 'Move')",
            "insert into flows.meter_registry (id, serial, name, esco, site, ip_address)"
            " values (%(meter)s, %(serial)s, 'Move', %(esco)s, %(site)s,"
            " ('10.98.' || (random() * 255)::int || '.' || (random() * 255)::int)::inet)",
            "insert into flows.meter_registers (register_id, meter_id, element, nature)"
            " values (%(register)s, %(meter)s, 'SINGLE', 'power')",
            "insert into flows.circuits (id, type, site) values (%(circuit)s, 'power', %(site)s)",
            "insert into flows.circuit_register (circuit, register, start_time)"
            " values (%(circuit)s, %(register)s, %(start)s)",
            "insert into flows.service_head_registry (id, name) values (%(head)s, %(serial)s)",
            "insert into flows.service_head_meter (service_head, meter)"
            " values (%(head)s, %(meter)s)",
            "insert into flows.properties (id, plot, site) values (%(house)s, '1', %(site)s)",
            "insert into flows.properties_service_head (property, service_head)"
            " values (%(house)s, %(head)s)",
            'insert into flows.register_interval_hh (register_id, "timestamp", import_kwh)'
            " select %(register)s, t, 1 from generate_series(%(start)s::timestamptz,"
            " %(end)s::timestamptz - interval '30 minutes', interval '30 minutes') as t",
            "insert into flows.meter_csq (meter_id, timestamp, csq)"
            " values (%(meter)s, %(start)s, 20)",
            "update flows.meter_shadows set balance = 7 where id = %(meter)s",
        ):
            admin.execute(statement, ids)
    follow(own)
    return ids


def follow(stack: Stack) -> None:
    """Bring the aggregates behind."""
    with psycopg.connect(stack.contract["database_url"], autocommit=True) as admin:
        admin.execute("call flows.follow()")


def energy(client: httpx.Client, **by: str) -> float | None:
    """Return the energy of the two days by /v1; None if there is nothing of that name."""
    period = {"period_from": START.isoformat(), "period_to": END.isoformat()}
    answer = client.get("/v1/energy", params=period | by | {"granularity": "P1D"})
    if answer.status_code == 404:
        return None
    assert answer.status_code == 200, answer.text
    rows = answer.json()["rows"]
    return float(sum(row["import_kwh"] or 0 for row in rows))


def day_sums(client: httpx.Client, circuit: str) -> list[float]:
    """Return the energy of each day of a circuit, by the aggregates of /rest."""
    rows = client.get(
        f"/rest/v1/circuit_interval_daily?circuit_id=eq.{circuit}&order=day&select=total_import_kwh"
    ).json()
    return [row["total_import_kwh"] for row in rows]


def count(client: httpx.Client, relation: str, **filters: str) -> int:
    """Return the number of rows that a client sees."""
    found = client.get(f"/rest/v1/{relation}", params={n: f"eq.{v}" for n, v in filters.items()})
    assert found.status_code == 200, found.text
    return len(found.json())


@pytest.mark.parametrize("how", ["command", "hand"])
def test_59_both_sides_before_and_after(own: Stack, home: dict[str, str], how: str) -> None:
    meter, register, circuit = home["meter"], home["register"], home["circuit"]
    with own.client("wlce", "write") as old, own.client("hmce", "write") as new:
        assert energy(old, circuit=circuit) == 96
        assert energy(new, circuit=circuit) is None
        assert day_sums(old, circuit) == [48, 48]
        if how == "command":
            told = flows(own, "meter", "move", home["serial"], "--to", "hmce", "--at",
                         MOVED.isoformat(), "--json")  # fmt: skip
            (moved,) = json.loads(told.stdout)
            assert (moved["from"], moved["to"]) == ("wlce", "hmce")
            (fresh,) = moved["registers"]
            kept = 48.0
        else:
            with psycopg.connect(own.contract["database_url"]) as admin:
                admin.execute("update flows.meter_registry set esco = %s where id = %s",
                              (own.contract["escos"]["hmce"]["id"], meter))  # fmt: skip
            ((fresh,),) = (
                [row["register_id"]]
                for row in new.get(f"/rest/v1/meter_registers?meter_id=eq.{meter}").json()
            )
            kept = 96.0  # it moves now
        follow(own)
        # The history is the old one's, at both doors; the mapping has ended.
        wait_until(lambda: sum(day_sums(old, circuit)) == kept)
        assert energy(old, circuit=circuit) == kept
        assert energy(old, property=home["house"]) == kept
        assert count(old, "register_interval_hh", register_id=register) == 96
        assert count(old, "meter_registers", register_id=register) == 1
        assert count(old, "meter_csq", meter_id=meter) == 1
        (mapping,) = old.get(f"/rest/v1/circuit_register?register=eq.{register}").json()
        assert mapping["end_time"] is not None
        assert count(old, "meter_registry", id=meter) == 0
        assert old.get(f"/v1/energy?meter={home['serial']}&{_period()}").status_code == 404
        # The new one starts empty, without site, head, circuit or the other's last state.
        (mine,) = new.get(f"/rest/v1/meter_registry?id=eq.{meter}").json()
        assert (mine["serial"], mine["site"]) == (home["serial"], None)
        (shadow,) = new.get(f"/rest/v1/meter_shadows?id=eq.{meter}").json()
        assert shadow["balance"] is None
        for series in SERIES:
            key = "meter_id" if series.startswith("meter") else "register_id"
            assert count(new, series, **{key: meter if key == "meter_id" else fresh}) == 0
            if key == "register_id":
                assert count(new, series, register_id=register) == 0
        assert count(new, "service_head_meter", meter=meter) == 0
        assert count(new, "circuit_register", register=fresh) == 0
        assert energy(new, meter=home["serial"]) in (None, 0)
        assert energy(new, circuit=circuit) is None
        # Each writes what is its own, and neither the other's.
        half_hour = {"timestamp": (START - timedelta(days=1)).isoformat(), "import_kwh": 2}
        for client, its, foreign in ((old, register, fresh), (new, fresh, register)):
            write = "/rest/v1/register_interval_hh"
            assert client.post(write, json=half_hour | {"register_id": its}).status_code == 201
            assert client.post(write, json=half_hour | {"register_id": foreign}).status_code == 403
        taken = new.post("/rest/v1/circuit_register", json={
            "circuit": circuit, "register": fresh, "start_time": MOVED.isoformat()})  # fmt: skip
        assert taken.status_code == 403
        follow(own)
        assert sum(day_sums(old, circuit)) == kept


def _period() -> str:
    return f"period_from={START:%Y-%m-%dT%H:%MZ}&period_to={END:%Y-%m-%dT%H:%MZ}"


def test_59_no_row_is_out_of_reach(own: Stack, home: dict[str, str]) -> None:
    """Every row of a table with an owner has one, and the one of its parents."""
    flows(own, "meter", "move", home["serial"], "--to", "hmce")
    with psycopg.connect(own.contract["database_url"]) as admin:
        for table, column, parent, key in (
            ("meter_registers", "meter_id", "meter_registry", "id"),
            ("meter_shadows", "id", "meter_registry", "id"),
            ("service_head_meter", "meter", "meter_registry", "id"),
            ("register_extent", "register_id", "meter_registers", "register_id"),
            ("register_interval_hh", "register_id", "meter_registers", "register_id"),
            ("circuit_register", "register", "meter_registers", "register_id"),
        ):
            (wrong,) = admin.execute(
                f"select count(*) from flows.{table} as t left join flows.{parent} as p"
                f" on t.{column} = p.{key} where t.esco is distinct from p.esco".encode()
            ).fetchone() or (None,)
            assert wrong == 0, table


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("NOSUCH", "--to", "hmce"), "There is no meter NOSUCH"),
        (("WLCE0001", "--to", "nosuch"), "There is no ESCO nosuch"),
        (("WLCE0001", "--to", "wlce"), "WLCE0001 is wlce's already"),
        (("WLCE0001", "--to", "hmce", "--at", "2999-01-01T00:00Z"), "in the future"),
        (("WLCE0001", "--to", "hmce", "--at", "2025-01-01"), "has no offset"),
        (("WLCE0001", "--to", "hmce", "--at", "soon"), "is not a time"),
    ],
)
def test_59_a_move_that_cannot_be_says_why(own: Stack, words: Any, said: str) -> None:
    done = flows(own, "meter", "move", *words, check=False)
    assert done.returncode == 1
    assert said in done.stderr
