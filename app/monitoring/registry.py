"""The metrics of one gateway process: counters, latencies, and gauges read at each scrape."""

from collections.abc import Callable, Iterator
from functools import lru_cache

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from app.db.session import Pool

LABELLED_METHODS = frozenset({"GET", "HEAD", "POST", "PATCH", "PUT", "DELETE", "OPTIONS"})
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """The metrics of one gateway process. Labels are route templates, never text from a caller."""

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
            "Requests not answered by PostgREST, by cause: connect, timeout, cut, unavailable.",
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
            "WAL archiving: on, failing (1 or 0), seconds since the last segment was archived.",
            lambda: self.wal_archive,
        )
        # Cache the labelled children, because looking one up takes a lock and builds a tuple.
        self._request_child = lru_cache(maxsize=1024)(self._requests.labels)
        self._seconds_child = lru_cache(maxsize=1024)(self._seconds.labels)

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request and its duration."""
        method = method if method in LABELLED_METHODS else "OTHER"
        self._request_child(method, route, str(status)).inc()
        self._seconds_child(method, route).observe(seconds)

    def watch_database(self, pool: Pool) -> None:
        """Add gauges of the pool of database connections."""

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
