"""Health of this process (`/live`) and of all that it depends on (`/ready`)."""

import asyncio
import time
from collections.abc import Sequence
from typing import Literal

import httpx
import psycopg
from fastapi import APIRouter, Request, Response
from psycopg_pool import PoolTimeout
from pydantic import BaseModel

from app.app_state import Services, ServicesDep
from app.auth.tokens import issue_own
from app.db.replica import Replica
from app.db.schema import DATABASE_VERSION, NO_VERSION, mismatch, program_version
from app.db.session import Connection
from app.db.status import LACKS
from app.errors import Unavailable

router = APIRouter(tags=["operations"])

PROBE_SECONDS = 2.0
KEPT_SECONDS = 0.25
# A function that every version of the schema has; it finds no ESCO for the gateway's own token.
PROBE_PATH = "/rpc/current_esco?select=code"
PROBE_ROLE = "public_backend"


class Live(BaseModel):
    """The process is alive."""

    status: Literal["ok"] = "ok"


class Component(BaseModel):
    """The state of a component that the gateway depends on; `detail` tells why it is not ok."""

    status: Literal["ok", "down"]
    detail: str | None = None


class SchemaComponent(Component):
    """The schema: its version in the database, and the one this gateway was written for."""

    database: int | None
    gateway: int


class ReplicaComponent(Component):
    """The replica: `down` sends reads to the primary, and keeps nobody from being served."""

    seconds_behind: float | None


class Ready(BaseModel):
    """The readiness to serve requests; `lacks` lists functions that the database's engine lacks.

    `degraded` are reads alone, which a replica answers while the primary does not.
    """

    status: Literal["ok", "degraded", "down"]
    engine: Literal["timescale", "postgres"] | None
    lacks: list[str]
    components: dict[str, SchemaComponent | ReplicaComponent | Component]


DatabaseState = tuple[Literal["timescale", "postgres"] | None, Component, SchemaComponent]


@router.get("/live", summary="Is this process alive?")
async def live() -> Live:
    """Answer 200 as long as the process can answer at all; other components are not checked."""
    return Live()


@router.get(
    "/ready",
    summary="Can requests be served?",
    responses={503: {"model": Ready, "description": "A component that requests need is down."}},
)
async def ready(request: Request, services: ServicesDep, response: Response) -> Ready:
    """Check the database, its schema, PostgREST and the keys; 503 names what is down."""
    probe: Probe = request.app.state.probe
    (engine, database, schema), postgrest = await probe.result()
    components: dict[str, SchemaComponent | ReplicaComponent | Component] = {
        "database": database,
        "schema": schema,
        "postgrest": postgrest,
        "keys": _keys(services),
    }
    if getattr(request.app.state, "draining", False):
        components["gateway"] = Component(status="down", detail="is shutting down")
    down = {name for name, component in components.items() if component.status == "down"}
    status: Literal["ok", "degraded", "down"] = "down" if down else "ok"
    if services.replica:
        components["replica"] = replica = await _replica(services, services.replica)
        if down and replica.status == "ok" and down <= _spared(services):
            status = "degraded"
    if status == "down":
        response.status_code = 503
    response.headers["Cache-Control"] = "no-store"
    return Ready(
        status=status,
        engine=engine,
        lacks=list(LACKS[engine]) if engine else [],
        components=components,
    )


class Probe:
    """The check of the database and PostgREST: anybody may ask, and all share one at a time."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._check: asyncio.Task[tuple[DatabaseState, Component]] | None = None
        self._ended = float("-inf")

    async def result(self) -> tuple[DatabaseState, Component]:
        """Return the states of a check that runs, has just ended, or begins now."""
        check = self._check
        if check is None or (check.done() and time.monotonic() - self._ended > KEPT_SECONDS):
            check = self._check = asyncio.create_task(self._run())
        return await asyncio.shield(check)

    async def _run(self) -> tuple[DatabaseState, Component]:
        try:
            return await asyncio.gather(_database(self._services), _postgrest(self._services))
        finally:
            self._ended = time.monotonic()


async def _database(services: Services) -> DatabaseState:
    program = program_version()
    asking = asyncio.create_task(_engine(services))
    try:
        # Not cancelled and awaited: a statement behind PgBouncer takes seconds to be given up.
        async with asyncio.timeout(PROBE_SECONDS):
            version, oldest_gateway, engine = await asyncio.shield(asking)
    except (psycopg.Error, PoolTimeout, TimeoutError):
        asking.add_done_callback(lambda task: task.cancelled() or task.exception())
        asking.cancel()
        unknown = SchemaComponent(
            status="down", detail="is not known", database=None, gateway=program
        )
        return None, Component(status="down", detail="does not answer"), unknown
    reason = mismatch(version, oldest_gateway, program)
    schema = SchemaComponent(
        status="down" if reason else "ok", detail=reason, database=version, gateway=program
    )
    return engine, Component(status="ok"), schema


async def _engine(services: Services) -> tuple[int, int, Literal["timescale", "postgres"] | None]:
    """Return the schema's version, the oldest gateway that it serves, and the engine."""
    async with services.probe_pool.connection() as connection:
        version, oldest_gateway = await _version(connection)
        row = await (await connection.execute("select gateway.engine() as engine")).fetchone()
    return version, oldest_gateway, row["engine"] if row else None


def _keys(services: Services) -> Component:
    """Tell whether tokens can be verified and issued; a damaged key beside a good one is told."""
    if not services.verifier.fresh:
        return Component(status="down", detail="cannot be read")
    if not (damaged := services.keys.damaged):
        return Component(status="ok")
    detail = f"the row of the key {', '.join(sorted(damaged))} is damaged"
    try:
        services.keys.current()
    except Unavailable:
        return Component(status="down", detail=detail)
    return Component(status="ok", detail=detail)


async def _version(connection: Connection) -> tuple[int, int]:
    """Version of the database's schema and the oldest gateway it serves; 0 where it has none."""
    try:
        async with connection.transaction():
            row = await (await connection.execute(DATABASE_VERSION)).fetchone()
    except NO_VERSION:
        return 0, 0
    return (row["version"], row["oldest_gateway"]) if row else (0, 0)


async def _postgrest(services: Services) -> Component:
    """Tell whether a PostgREST serves, and how many do not."""
    return await _ask_all(services, services.postgrests)


def _spared(services: Services) -> set[str]:
    """Return the components that reads do without while there is a replica."""
    return {"database", "schema", *(["postgrest"] if services.replica_postgrests else [])}


async def _replica(services: Services, replica: Replica) -> ReplicaComponent:
    behind = replica.behind
    seconds = None if behind is None else round(behind, 3)
    found = ReplicaComponent(status="ok", seconds_behind=seconds)
    if not replica.usable:
        detail = "does not answer" if behind is None else "is too far behind"
        return found.model_copy(update={"status": "down", "detail": detail})
    if services.replica_postgrests:
        asked = await _ask_all(services, services.replica_postgrests)
        if asked.status == "down":
            detail = f"its PostgREST {asked.detail}"
            return found.model_copy(update={"status": "down", "detail": detail})
    return found


async def _ask_all(services: Services, clients: Sequence[httpx.AsyncClient]) -> Component:
    found = await asyncio.gather(*(_ask(services, client) for client in clients))
    down = [component for component in found if component.status == "down"]
    if len(found) == 1 or not down:
        return found[0]
    number = f"{len(down)} of {len(found)}"
    status: Literal["ok", "down"] = "down" if len(down) == len(found) else "ok"
    return Component(status=status, detail=f"{number} do not serve: one {down[0].detail}")


async def _ask(services: Services, client: httpx.AsyncClient) -> Component:
    """Ask PostgREST as a client would: its schema cache, its login and its keys have to work."""
    settings = services.settings
    try:
        token = issue_own(services.keys.current(), settings.base_url, PROBE_ROLE)
    except Unavailable:
        return await _ask_without_token(client)
    try:
        answer = await client.head(
            PROBE_PATH, headers={"Authorization": f"Bearer {token}"}, timeout=PROBE_SECONDS
        )
    except httpx.HTTPError:
        return Component(status="down", detail="does not answer")
    if answer.status_code == 401:
        return Component(status="down", detail="refuses a fresh token")
    if answer.status_code != 200:
        return Component(status="down", detail=f"answers {answer.status_code}")
    return Component(status="ok")


async def _ask_without_token(client: httpx.AsyncClient) -> Component:
    """Ask PostgREST while no key signs, which is the state of another component: 401 is well."""
    try:
        answer = await client.head("/", timeout=PROBE_SECONDS)
    except httpx.HTTPError:
        return Component(status="down", detail="does not answer")
    if answer.status_code >= 500:
        return Component(status="down", detail=f"answers {answer.status_code}")
    return Component(status="ok")
