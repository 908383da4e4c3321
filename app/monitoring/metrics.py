"""`/metrics` for Prometheus: requests, latency, pools, failures, and how far aggregates are behind.

Nothing about clients; ESCOs are named to monitoring tokens alone.
"""

import asyncio
from contextlib import suppress
from dataclasses import replace

import psycopg
from fastapi import APIRouter, Request, Response
from prometheus_client.exposition import choose_encoder
from psycopg_pool import PoolTimeout

from app.app_state import ServicesDep
from app.auth.bearer import bearer_token
from app.db.archiver import ARCHIVER_STATE
from app.db.session import Pool
from app.errors import Forbidden, NotFound
from app.monitoring.health import PROBE_SECONDS
from app.monitoring.registry import Behind, Metrics

router = APIRouter(tags=["operations"])


CHANGES_BEHIND = "select esco, changes, seconds from gateway.changes_behind()"


async def _read_database(pool: Pool, metrics: Metrics) -> None:
    """Take the state of WAL archiving and of the aggregates; none if the database does not answer.

    The first is for an alarm before the disk is full, the second tells how old figures are.
    """
    metrics.wal_archive, metrics.behind = {}, None
    with suppress(psycopg.Error, PoolTimeout, TimeoutError):
        async with asyncio.timeout(PROBE_SECONDS), pool.connection() as connection:
            row = await (await connection.execute(ARCHIVER_STATE)).fetchone()
            assert row is not None  # noqa: S101  (the query returns exactly one row)
            known = {
                "flows_wal_archive_enabled": row["on"],
                "flows_wal_archive_failing": row["failing"],
                "flows_wal_archive_age_seconds": row["seconds"],
            }
            metrics.wal_archive = {
                name: float(value) for name, value in known.items() if value is not None
            }
            rows = await (await connection.execute(CHANGES_BEHIND)).fetchall()
            metrics.behind = [Behind(**row) for row in rows]


@router.get("/metrics", summary="Metrics for Prometheus", include_in_schema=False)
async def metrics(request: Request, services: ServicesDep) -> Response:
    """Return the metrics, in OpenMetrics if accepted; FLOWS_METRICS sets who may read them."""
    access = services.settings.metrics
    if access == "off":
        raise NotFound()
    if access == "token":
        caller = services.verifier.verify(bearer_token(request.scope["headers"]))
        if caller.role != "grafanareader":
            raise Forbidden("Metrics need a token with the role grafanareader.")
    counters: Metrics = request.app.state.metrics
    await _read_database(services.probe_pool, counters)
    await counters.database.refresh(services.probe_pool)
    if access == "open" and counters.behind:
        counters.behind = [replace(one, esco=None) for one in counters.behind]
    encode, media_type = choose_encoder(request.headers.get("accept", ""))
    text = encode(counters.exposed)
    return Response(text, media_type=media_type, headers={"Cache-Control": "no-store"})
