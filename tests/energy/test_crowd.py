"""Each report of a tenant among a hundred others: no plan reads a row of another."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import product
from types import SimpleNamespace
from typing import Any, cast
from zoneinfo import ZoneInfo

import pytest
from psycopg import AsyncClientCursor, AsyncConnection, AsyncCursor
from psycopg.rows import dict_row, tuple_row

from app.auth.keyring import AuthState, Keyring
from app.db import batch
from app.db.session import Connection
from app.energy import reading
from app.energy.changes import SeenChanges
from app.energy.formats import Format
from app.energy.intervals import split
from app.energy.parameters import (
    AlertsQuery,
    BalanceQuery,
    EnergyQuery,
    LatestQuery,
    PeakQuery,
    ProfileQuery,
)
from app.energy.parameters import ScanQuery as CompletenessQuery
from app.energy.reports.alerts import AlertsReport
from app.energy.reports.balance import BalanceReport
from app.energy.reports.completeness import BY, CompletenessReport
from app.energy.reports.energy import EnergyReport
from app.energy.reports.latest import LatestReport
from app.energy.reports.peak import PeakReport
from app.energy.reports.profile import ProfileReport
from app.energy.response import DataVersion, Report, ReportRequest
from app.energy.scope import Selection
from tests.conftest import Stack
from tests.sql.test_crowd import OWNERS, crowd_statements, foreign_scans

LONDON = ZoneInfo("Europe/London")
# Every meter has a low balance then.
EVERY_ALERT = AlertsQuery(balance_below=1000)
Recorded = list[tuple[str, Any]]


@asynccontextmanager
async def tenant(stack: Stack, engine: str) -> AsyncIterator[Connection]:
    """Yield a session of wlce among the crowd of tests/sql/test_crowd.py, which is rolled back."""
    connection = await AsyncConnection.connect(stack.contract["database_url"], row_factory=dict_row)
    async with connection, connection.transaction(force_rollback=True):
        cursor = connection.cursor(row_factory=tuple_row)
        for statement in crowd_statements(engine):
            await cursor.execute(statement.encode())
        await cursor.execute(
            "select set_config('role', 'public_backend', true),"
            " set_config('app.current_esco', %s, true)",
            (stack.contract["escos"]["wlce"]["id"],),
        )
        yield connection


def reports(stack: Stack, path: dict[str, list[str]]) -> dict[str, Report]:
    """Return each report over a week, as its route makes it."""
    week: Any = stack.period(30, 23)
    first, last = (datetime.fromisoformat(week[name]) for name in ("period_from", "period_to"))
    days, half_hours = (split(name, LONDON, first, last) for name in ("P1D", "PT30M"))
    energy, balance = EnergyQuery(**week), BalanceQuery(**week)
    scope = Selection(path, energy)
    return {
        "energy": EnergyReport(energy, scope, ["circuit"], days, None, None),
        "energy by meter": EnergyReport(energy, scope, ["meter"], days, None, None),
        "energy of all": EnergyReport(energy, scope, ["esco"], days, None, None),
        "balance": BalanceReport(balance, scope, ["esco"], days),
        "profile": ProfileReport(ProfileQuery(**week), scope, ["circuit"], half_hours),
        "peak": PeakReport(PeakQuery(**week), scope, ["circuit"], half_hours),
        "completeness": CompletenessReport(CompletenessQuery(**week), scope, BY, half_hours),
        "latest": LatestReport(LONDON, Selection(path, LatestQuery())),
        "alerts": AlertsReport(EVERY_ALERT, Selection(path, EVERY_ALERT)),
    }


async def recorded(connection: Connection, report: Report, *, derived: bool) -> Recorded:
    """Render a report and return the statements that it sent, with their parameters.

    `derived` says that some half-hours of the caller's may be derived.
    """
    sent: Recorded = []
    execute = AsyncCursor.execute

    async def record(self: Any, query: Any, params: Any = None, **more: Any) -> Any:
        text = query.decode() if isinstance(query, bytes) else str(query)
        if text.lstrip().startswith(("select", "with")):
            sent.append((text, params))
        return await execute(self, query, params, **more)

    stream = AsyncCursor.stream

    def record_stream(self: Any, query: Any, params: Any = None, **more: Any) -> Any:
        sent.append((query.decode(), params))
        return stream(self, query, params, **more)

    send = batch._send

    def record_batch(connection: Any, query: batch.Query, *more: Any) -> bool:
        sent.append((query.sql, query.parameters))
        return send(connection, query, *more)

    keys = Keyring([])
    keys.update(AuthState(time.monotonic(), secret=bytes(32)))
    services = SimpleNamespace(keys=keys)
    request = cast(
        ReportRequest, SimpleNamespace(format=Format("json"), fingerprint="f", services=services)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AsyncCursor, "execute", record)
        patch.setattr(AsyncCursor, "stream", record_stream)
        patch.setattr(batch, "_send", record_batch)
        # The crowd is rolled back.
        patch.setattr(reading, "COMMIT", batch.Query("select"))
        version = DataVersion("1", datetime.now(UTC), False, SeenChanges("1/1", "1:1:"), derived)
        rendered = await report.render(request, connection, version)
        few = await rendered.few() if rendered.few else []
        frames = [frame async for frame in rendered.frames]
        if rendered.last_members is not None:
            await rendered.last_members()
    assert sum(frame.height for frame in frames)
    assert rendered.few is None or len(few) == sum(frame.height for frame in frames)
    return sent


def test_79_no_report_looks_at_a_row_of_another(stack: Stack, engine: str) -> None:
    async def offences() -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        async with tenant(stack, engine) as connection:
            cursor = AsyncClientCursor(connection, row_factory=tuple_row)
            await cursor.execute(OWNERS)
            owned = {name for (name,) in await cursor.fetchall()}
            await cursor.execute(
                "select mapping.circuit::text, meter.serial, home.property::text, site.id::text"
                " from api.circuit_register as mapping"
                " join api.meter_registers as register on mapping.register = register.register_id"
                " join api.meter_registry as meter on meter.id = register.meter_id"
                " join api.sites_new as site on site.id = meter.site"
                " join api.service_head_meter as head on head.meter = meter.id"
                " join api.properties_service_head as home using (service_head) limit 1"
            )
            circuit, meter, home, site = await cursor.fetchone() or ("",) * 4
            paths: tuple[dict[str, list[str]], ...] = (
                {}, {"circuit": [circuit]}, {"meter": [meter]}, {"property": [home]},
                {"site": [site]}, {"esco": ["wlce"]},
            )  # fmt: skip
            for path in paths:
                for (name, report), derived in product(reports(stack, path).items(), (False, True)):
                    await cursor.execute("set local enable_nestloop = on")
                    await cursor.execute("set local enable_mergejoin = on")
                    sent = await recorded(connection, report, derived=derived)
                    assert len(sent) >= 2
                    for statement, parameters in sent:
                        explain = f"explain (analyze, format json) {statement}"
                        await cursor.execute(explain.encode(), parameters)
                        ((plan,),) = await cursor.fetchall()
                        if scans := foreign_scans(plan[0]["Plan"], owned):
                            found[f"{path} {name} {derived}"] = scans
        return found

    assert asyncio.run(offences()) == {}


# Plans that PostgreSQL makes with the values before it considers to keep one.
FIRST_PLANS = 5


@pytest.mark.parametrize("by", ["circuit", "meter", "property"])
def test_the_plans_of_one_place_are_kept(stack: Stack, engine: str, by: str) -> None:
    """Else each request is planned anew, the longer the more the statistics know of others."""

    async def planned_anew() -> list[str]:
        async with tenant(stack, engine) as connection:
            cursor = connection.cursor(row_factory=tuple_row)
            await cursor.execute(
                "select mapping.circuit::text, meter.serial, home.property::text"
                " from api.circuit_register as mapping"
                " join api.meter_registers as register on mapping.register = register.register_id"
                " join api.meter_registry as meter on meter.id = register.meter_id"
                " join api.service_head_meter as head on head.meter = meter.id"
                " join api.properties_service_head as home using (service_head) limit 1"
            )
            circuit, meter, home = await cursor.fetchone() or ("",) * 3
            path = {by: [{"circuit": circuit, "meter": meter, "property": home}[by]]}
            for report in reports(stack, path).values():
                for _ in range(FIRST_PLANS + 2):
                    await recorded(connection, report, derived=False)
            await cursor.execute(
                "select statement from pg_prepared_statements"
                " where name like 'flows%%' and custom_plans > %s",
                (FIRST_PLANS,),
            )
            return [statement for (statement,) in await cursor.fetchall()]

    assert asyncio.run(planned_anew()) == []
