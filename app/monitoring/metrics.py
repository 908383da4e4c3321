"""`/metrics` for Prometheus: requests, latency, pools, failures; nothing about clients or ESCOs."""

import asyncio

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
from app.monitoring.registry import Metrics

router = APIRouter(tags=["operations"])


async def _wal_archive(pool: Pool) -> dict[str, float]:
    """Return the state of WAL archiving, for an alarm before the disk is full; {} if unknown."""
    try:
        async with asyncio.timeout(PROBE_SECONDS), pool.connection() as connection:
            row = await (await connection.execute(ARCHIVER_STATE)).fetchone()
    except (psycopg.Error, PoolTimeout, TimeoutError):
        return {}
    assert row is not None  # noqa: S101  (the query returns exactly one row)
    known = {
        "flows_wal_archive_enabled": row["on"],
        "flows_wal_archive_failing": row["failing"],
        "flows_wal_archive_age_seconds": row["seconds"],
    }
    return {name: float(value) for name, value in known.items() if value is not None}


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
    counters.wal_archive = await _wal_archive(services.probe_pool)
    encode, media_type = choose_encoder(request.headers.get("accept", ""))
    text = encode(counters.registry)
    return Response(text, media_type=media_type, headers={"Cache-Control": "no-store"})
