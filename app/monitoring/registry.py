"""The metrics of a gateway: counters, latencies, and gauges read at each scrape.

Its workers, if there are several, keep theirs in files that the client library maps into memory
(`PROMETHEUS_MULTIPROC_DIR`), so that whichever is scraped tells the sums of all.
"""

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from app.db.replica import Replica
from app.db.session import Pool
from app.monitoring.database import DatabaseMeasures
from app.monitoring.templates import RouteTemplates

LABELLED_METHODS = frozenset({"GET", "HEAD", "POST", "PATCH", "PUT", "DELETE", "OPTIONS"})
# Gauges of a worker are as old as this where another is scraped.
GAUGE_SECONDS = 1.0
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """The metrics of a gateway process; `exposed` has those of all `workers`.

    Labels are route templates and codes of ESCOs, never text from a caller.

    A family has one meaning and one unit, which its name ends in (OpenMetrics). `public_url` is
    where clients reach the gateway; ESCOs are named if `names_escos`.
    """

    def __init__(
        self, workers: int = 1, public_url: str = "", *, names_escos: bool = False
    ) -> None:
        # Of this process, and what is the same whichever worker reads it.
        self._own = CollectorRegistry()
        self._common = CollectorRegistry() if workers > 1 else self._own
        self._copied: list[tuple[Gauge, Callable[[], float]]] = []
        self._copying: asyncio.Task[None] | None = None
        self.templates = RouteTemplates(())
        if workers > 1:
            MultiProcessCollector(self._common)  # type: ignore[no-untyped-call]
            self._common.register(_WorkerProcesses())
        else:
            ProcessCollector(registry=self._own)
        self._requests = Counter(
            "flows_requests",
            "Requests answered; status 499 means the client left first.",
            ["method", "route", "status"],
            registry=self._own,
        )
        self._seconds = Histogram(
            "flows_request",
            "Time from a request's headers to the end of its answer.",
            ["method", "route", "status"],
            unit="seconds",
            buckets=BUCKETS,
            registry=self._own,
        )
        self.upstream_errors = Counter(
            "flows_upstream_errors",
            "Requests not answered by PostgREST, by cause: connect, timeout, cut, unavailable.",
            ["kind"],
            registry=self._own,
        )
        self.rate_limited = Counter(
            "flows_rate_limited",
            "Requests refused with 429, by the quota that was used up.",
            ["quota"],
            registry=self._own,
        )
        self.limiter_errors = Counter(
            "flows_limiter_errors",
            "Requests let through uncounted because the limiter's store did not answer.",
            registry=self._own,
        )
        self.database = DatabaseMeasures(public_url, names_escos=names_escos)
        self._common.register(self.database)
        # Cache the labelled children, because looking one up takes a lock and builds a tuple.
        self._children = lru_cache(maxsize=1024)(self._find_children)

    def observe(self, method: str, path: str, status: int, seconds: float) -> None:
        """Count one request and its duration, under the template of its path."""
        method = method if method in LABELLED_METHODS else "OTHER"
        route = self.templates.find(path)
        requests, times = self._children(method, route, status)
        requests.inc()
        times.observe(seconds)

    def _find_children(self, method: str, route: str, status: int) -> tuple[Counter, Histogram]:
        labels = method, route, str(status)
        return self._requests.labels(*labels), self._seconds.labels(*labels)

    def watch_database(self, pool: Pool) -> None:
        """Add gauges of the pool of database connections."""

        def of(name: str) -> int:
            return pool.get_stats().get(name, 0)

        self.watch(
            "flows_database_connections_idle",
            "Open connections of the gateway's pool that no request uses.",
            lambda: of("pool_available"),
        )
        self.watch(
            "flows_database_connections_busy",
            "Open connections of the gateway's pool that a request uses.",
            lambda: of("pool_size") - of("pool_available"),
        )
        self.watch(
            "flows_database_connections_limit",
            "Most connections that the gateway's pool opens (FLOWS_DATABASE_POOL_MAX).",
            lambda: of("pool_max"),
        )
        self.watch(
            "flows_database_requests_waiting",
            "Requests that wait for a connection of the gateway's pool.",
            lambda: of("requests_waiting"),
        )

    def watch_replica(self, replica: Replica) -> None:
        """Add gauges of the replica."""
        self.watch_common(
            "flows_replica_behind_seconds",
            "Time that the replica is behind the primary at most; none while it is not known.",
            lambda: replica.behind,
            "seconds",
        )
        self.watch_common(
            "flows_replica_usable",
            "1 while reads go to the replica, 0 while they go to the primary.",
            lambda: float(replica.usable),
        )

    @property
    def exposed(self) -> CollectorRegistry:
        """The registry to be scraped."""
        return self._common

    def begin(self) -> None:
        """Begin to tell the other workers the gauges of this one."""
        if self._copied:
            self._copying = asyncio.create_task(self._copy())

    async def close(self) -> None:
        """End what runs in the background."""
        await self.database.close()
        if self._copying:
            self._copying.cancel()
            with suppress(asyncio.CancelledError):
                await self._copying

    def watch(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        """Add a gauge of this process, which is read at each scrape; workers' are added up."""
        if self._common is self._own:
            self.watch_common(name, help_text, read)
        else:
            gauge = Gauge(name, help_text, registry=self._own, multiprocess_mode="livesum")
            self._copied.append((gauge, read))

    def watch_common(
        self, name: str, help_text: str, read: Callable[[], float | None], unit: str = ""
    ) -> None:
        """Add a gauge that every worker would read alike; None leaves it out.

        A name ends in its unit, if it has one.
        """
        self._common.register(_Gauge(name, help_text, read, unit))

    async def _copy(self) -> None:
        while True:
            for gauge, read in self._copied:
                gauge.set(read())
            await asyncio.sleep(GAUGE_SECONDS)


class _WorkerProcesses(Collector):
    """Memory, time and descriptors of all workers together, and the start of the first."""

    def collect(self) -> Iterator[Metric]:
        folder = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
        found: dict[str, Metric] = {}
        for file in folder.glob("gauge_livesum_*.db"):
            pid = file.stem.rpartition("_")[2]
            for family in ProcessCollector(pid=lambda pid=pid: pid, registry=None).collect():  # type: ignore[misc]
                known = found.setdefault(family.name, family)
                if known is not family:
                    unite = min if family.name == "process_start_time_seconds" else _plus
                    known.samples = [
                        one._replace(value=unite(one.value, other.value))
                        for one, other in zip(known.samples, family.samples, strict=True)
                    ]
        yield from found.values()


def _plus(one: float, other: float) -> float:
    return one + other


class _Gauge(Collector):
    def __init__(
        self, name: str, help_text: str, read: Callable[[], float | None], unit: str
    ) -> None:
        self._name, self._help, self._read, self._unit = name, help_text, read, unit

    def describe(self) -> list[Metric]:
        return [GaugeMetricFamily(self._name, self._help, unit=self._unit)]

    def collect(self) -> Iterator[Metric]:
        value = self._read()
        if value is not None:
            yield GaugeMetricFamily(self._name, self._help, value=value, unit=self._unit)
