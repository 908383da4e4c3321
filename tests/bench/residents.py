"""Residents: what they read of their homes, beside the same asked by their ESCO.

A session of the database favours the one or the other, by up to a tenth, for as long as it lives:
rounds in one session repeat what it favours. So every round has new ones, which both have used
before they are measured, now the one first and then the other.
"""

import statistics
from datetime import timedelta
from typing import Any

import psycopg

from tests.bench import generator
from tests.bench.generator import Request
from tests.bench.report import Report
from tests.conftest import Stack, answers, wait_until
from tests.homes import ISSUER, TODAY, Home, add_residents, token_of

ROUNDS = 12
SECONDS = 0.3
PAUSE = 0.002
OTHERS = 10_000
ADD_OTHERS = """
    with issuer as (
        insert into gateway.issuer (url, audiences) values (%(url)s, '{flows}') returning id
    ), added as (
        insert into gateway.member (id, issuer, subject, esco, name, scopes, resident)
        select 'flm_' || lpad(to_hex(n), 16, '0'), issuer.id, n, e.id, 'A resident', '{read}', true
        from generate_series(1, %(count)s) as n, issuer, flows.escos as e where e.code = 'wlce'
        returning id, esco
    ), homes as (
        select array_agg(p.id) as ids, e.id as esco
        from flows.properties as p inner join flows.escos as e on p.esco = e.id
        where e.code = 'wlce' group by e.id
    )
    insert into gateway.residence (member, property, esco, start_time)
    select a.id, h.ids[1 + mod(row_number() over (), cardinality(h.ids))], a.esco, '2025-01-01Z'
    from added as a inner join homes as h on a.esco = h.esco
"""
END_SESSIONS = """
    select count(pg_terminate_backend(pid, 5000)) from pg_stat_activity
    where usename in ('authenticator', 'flows_gateway')
"""


def run(stack: Stack, report: Report) -> None:
    """Measure each read of who lives there, and the ESCO's, in turn."""
    with psycopg.connect(stack.contract["database_url"], autocommit=True) as admin:
        resident = add_residents(admin)["settled"]
        home = resident.stays[0][0]
        row = admin.execute(
            "select serial from flows.meter_registry where id = %s", (home.meter,)
        ).fetchone()
        assert row is not None
        tokens = {
            "resident": token_of(stack, resident),
            "esco": stack.contract["escos"]["wlce"]["read_token"],
        }
        ratios: dict[str, list[float]] = {}
        try:
            for number in range(ROUNDS):
                admin.execute(END_SESSIONS)
                wait_until(lambda: answers(f"{stack.contract['base_url']}/ready", 200))
                order = sorted(tokens, reverse=number % 2 == 0)
                for name, path in reads(home, row[0]).items():
                    p50 = {
                        who: _p50(stack.contract["base_url"] + path, tokens[who])
                        for who in order * 2
                    }
                    ratios.setdefault(name, []).append(p50["resident"] / p50["esco"])
        finally:
            admin.execute("delete from gateway.issuer where url = %s", (ISSUER,))
        for name, found in ratios.items():
            ratio = statistics.median(found)
            report.figure(f"{name}, p50 / the ESCO's", ratio, "×", limit="<= 1.3")
        _measure_others(stack, admin, report)


def _measure_others(stack: Stack, admin: psycopg.Connection[Any], report: Report) -> None:
    """Measure what a client of an ESCO pays for the residents that its ESCO has, round by round."""
    token = stack.contract["escos"]["wlce"]["read_token"]
    paths = {"pass-through": "/rest/v1/escos?select=code", "/v1": "/v1/escos"}
    ratios: dict[str, list[float]] = {name: [] for name in paths}
    for _ in range(ROUNDS):
        p50 = {}
        for people in ("none", "many"):
            if people == "many":
                admin.execute(ADD_OTHERS, {"count": OTHERS, "url": ISSUER})
            for name, path in paths.items():
                for _ in range(2):
                    p50[name, people] = _p50(stack.contract["base_url"] + path, token)
        admin.execute("delete from gateway.issuer where url = %s", (ISSUER,))
        for name, found in ratios.items():
            found.append(p50[name, "many"] / p50[name, "none"])
    for name, found in ratios.items():
        ratio = statistics.median(found)
        report.figure(
            f"{name} with {OTHERS} residents, p50 / with none", ratio, "×", limit="<= 1.05"
        )


def _p50(url: str, token: str) -> float:
    request = Request(url, {"Authorization": f"Bearer {token}"})
    result = generator.measure(request, connections=1, seconds=SECONDS, pause=PAUSE)
    return result.require(200).p50


def reads(home: Home, serial: str) -> dict[str, str]:
    """Return name → path of the reads of an app for residents; the ESCO's give the same rows."""
    first, last = TODAY - timedelta(days=31), TODAY
    month = f"period_from={first:%Y-%m-%dT%H:%M:%SZ}&period_to={last:%Y-%m-%dT%H:%M:%SZ}"
    register, circuit = home.registers[0], home.circuits[0]
    half_hours = f"/rest/v1/register_interval_hh?register_id=eq.{register}"
    return {
        "circuits": f"/rest/v1/circuits?id=eq.{circuit}",
        "balance": f"/rest/v1/meter_shadows?id=eq.{home.meter}&select=balance",
        "tariffs": f"/rest/v1/meter_shadows_tariffs?id=eq.{home.meter}",
        "a month's half-hours": f"{half_hours}&timestamp=gte.{first:%Y-%m-%d}&limit=1488",
        "newest half-hours": "/rest/v1/register_interval_hh?order=timestamp.desc&limit=48",
        "days": f"/rest/v1/circuit_interval_daily?circuit_id=eq.{circuit}",
        "/v1/energy, half-hours": f"/v1/energy?meter={serial}&granularity=PT30M&{month}",
        "/v1/energy, days": f"/v1/energy?circuit={circuit}&granularity=P1D&{month}",
        "/v1/balance": f"/v1/balance?property={home.house}&granularity=P1D&{month}",
        "/v1/profile": f"/v1/profile?circuit={circuit}&{month}",
        "/v1/completeness": f"/v1/completeness?meter={serial}&{month}",
        "/v1/latest": f"/v1/latest?meter={serial}",
        "/v1/circuits": "/v1/circuits",
    }
