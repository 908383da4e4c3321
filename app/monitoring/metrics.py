"""`/metrics` for Prometheus: requests, latency, pools, failures; nothing of clients or ESCOs."""

import asyncio
from collections.abc import Callable, Iterator
from functools import lru_cache

import psycopg
from fastapi import APIRouter, Request, Response
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from psycopg_pool import PoolTimeout

from app.app_state import ServicesDep
from app.auth.bearer import bearer_token
from app.db.archiver import ARCHIVER_STATE
from app.db.session import Pool
from app.errors import Forbidden, NotFound
from app.monitoring.health import PROBE_SECONDS

router = APIRouter(tags=["operations"])

LABELLED_METHODS = frozenset({"GET", "HEAD", "POST", "PATCH", "PUT", "DELETE", "OPTIONS"})
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """The counters of one gateway process. Labels are route templates, never what a caller sent."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = Counter(
            "flows_requests",
            "Requests answered; status 499 means the client left first.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "flows_request_seconds",
            "Seconds from a request's headers to the end of its answer.",
            ["method", "route"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.upstream_errors = Counter(
            "flows_upstream_errors",
            "Requests that PostgREST did not answer: connect, timeout, cut, unavailable.",
            ["kind"],
            registry=self.registry,
        )
        self.rate_limited = Counter(
            "flows_rate_limited",
            "Requests refused with 429, by the quota that was used up.",
            ["quota"],
            registry=self.registry,
        )
        self.limiter_errors = Counter(
            "flows_limiter_errors",
            "Requests let through uncounted because the limiter's store did not answer.",
            registry=self.registry,
        )
        self.wal_archive: dict[str, float] = {}
        self.watch(
            "flows_wal_archive",
            "Archiving of WAL: on, failing (1 or 0), seconds since a segment last arrived.",
            lambda: self.wal_archive,
        )
        # Finding a labelled child takes a lock and a dictionary of tuples; keep the ones found.
        self._request_child = lru_cache(maxsize=1024)(self._requests.labels)
        self._seconds_child = lru_cache(maxsize=1024)(self._seconds.labels)

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request and its duration."""
        method = method if method in LABELLED_METHODS else "OTHER"
        self._request_child(method, route, str(status)).inc()
        self._seconds_child(method, route).observe(seconds)

    def watch_database(self, pool: Pool) -> None:
        """Show the pool of database connections at each scrape."""

        def read() -> dict[str, float]:
            stats = pool.get_stats()
            return {
                "open": stats.get("pool_size", 0),
                "idle": stats.get("pool_available", 0),
                "waiting": stats.get("requests_waiting", 0),
            }

        self.watch("flows_database_connections", "The gateway's own connections.", read)

    def watch(self, name: str, help_text: str, read: Callable[[], dict[str, float]]) -> None:
        """Add gauges `name{state=…}` that are read at each scrape."""
        self.registry.register(_Gauges(name, help_text, read))


class _Gauges(Collector):
    def __init__(self, name: str, help_text: str, read: Callable[[], dict[str, float]]) -> None:
        self._name, self._help, self._read = name, help_text, read

    def describe(self) -> list[Metric]:
        return [GaugeMetricFamily(self._name, self._help)]

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(self._name, self._help, labels=["state"])
        for state, value in self._read().items():
            family.add_metric([state], value)
        yield family


async def _wal_archive(pool: Pool) -> dict[str, float]:
    """How archiving stands, for an alarm before the disk is full; nothing when no one can say."""
    try:
        async with asyncio.timeout(PROBE_SECONDS), pool.connection() as connection:
            row = await (await connection.execute(ARCHIVER_STATE)).fetchone()
    except (psycopg.Error, PoolTimeout, TimeoutError):
        return {}
    assert row is not None  # noqa: S101  (one row, always)
    known = {"on": row["on"], "failing": row["failing"], "seconds": row["seconds"]}
    return {state: float(value) for state, value in known.items() if value is not None}


@router.get("/metrics", summary="Metrics for Prometheus", include_in_schema=False)
async def metrics(request: Request, services: ServicesDep) -> Response:
    """Answer in Prometheus' text format, to whom FLOWS_METRICS names."""
    access = services.settings.metrics
    if access == "off":
        raise NotFound()
    if access == "token":
        caller = services.verifier.verify(bearer_token(request.scope["headers"]))
        if caller.role != "grafanareader":
            raise Forbidden("Metrics are for monitoring: the role grafanareader.")
    counters: Metrics = request.app.state.metrics
    counters.wal_archive = await _wal_archive(services.pool)
    text = generate_latest(counters.registry)
    return Response(text, media_type=CONTENT_TYPE_LATEST, headers={"Cache-Control": "no-store"})
