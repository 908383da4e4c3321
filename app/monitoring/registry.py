"""The metrics of one gateway process: counters, latencies, and gauges read at each scrape."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from heapq import nlargest

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from app.db.session import Pool
from app.monitoring.database import DatabaseMeasures
from app.monitoring.templates import RouteTemplates

LABELLED_METHODS = frozenset({"GET", "HEAD", "POST", "PATCH", "PUT", "DELETE", "OPTIONS"})
# Name, help and unit of the gauges of WAL archiving.
WAL_ARCHIVE = (
    ("flows_wal_archive_enabled", "1 if the server archives its WAL.", ""),
    ("flows_wal_archive_failing", "1 if the last attempt to archive a segment failed.", ""),
    ("flows_wal_archive_age_seconds", "Time since the last segment was archived.", "seconds"),
)
# ESCOs that are named as behind: a change of all of them must not become thousands of series.
NAMED_BEHIND = 20
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


@dataclass(frozen=True, slots=True)
class Behind:
    """Changes of one ESCO that the aggregates lack; `esco` is None for those of every ESCO."""

    esco: str | None
    changes: int
    seconds: float


class Metrics:
    """The metrics of one gateway process.

    Labels are route templates and codes of ESCOs, never text from a caller.

    A family has one meaning and one unit, which its name ends in (OpenMetrics).
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.templates = RouteTemplates(())
        ProcessCollector(registry=self.registry)
        self._requests = Counter(
            "flows_requests",
            "Requests answered; status 499 means the client left first.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "flows_request",
            "Time from a request's headers to the end of its answer.",
            ["method", "route", "status"],
            unit="seconds",
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
        self.wal_archive: Mapping[str, float] = {}
        for name, help_text, unit in WAL_ARCHIVE:
            self.watch(name, help_text, lambda name=name: self.wal_archive.get(name), unit)  # type: ignore[misc]
        self.behind: Sequence[Behind] | None = None
        self.watch(
            "flows_aggregates_changes_waiting",
            "Changes of half-hours and mappings that the aggregates lack.",
            lambda: None if self.behind is None else sum(one.changes for one in self.behind),
        )
        self.watch(
            "flows_aggregates_behind_seconds",
            "Age of the oldest change that the aggregates lack; 0 if they lack none.",
            lambda: (
                None if self.behind is None else max((b.seconds for b in self.behind), default=0.0)
            ),
            "seconds",
        )
        self.registry.register(_FurthestBehind(self))
        self.database = DatabaseMeasures()
        self.registry.register(self.database)
        # Cache the labelled children, because looking one up takes a lock and builds a tuple.
        self._request_child = lru_cache(maxsize=1024)(self._requests.labels)
        self._seconds_child = lru_cache(maxsize=1024)(self._seconds.labels)

    def observe(self, method: str, path: str, status: int, seconds: float) -> None:
        """Count one request and its duration, under the template of its path."""
        method = method if method in LABELLED_METHODS else "OTHER"
        route = self.templates.find(path)
        self._request_child(method, route, str(status)).inc()
        self._seconds_child(method, route, str(status)).observe(seconds)

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

    def watch(
        self, name: str, help_text: str, read: Callable[[], float | None], unit: str = ""
    ) -> None:
        """Add a gauge that is read at each scrape; None leaves it out.

        A name ends in its unit, if it has one.
        """
        self.registry.register(_Gauge(name, help_text, read, unit))


class _FurthestBehind(Collector):
    """The ESCOs whose aggregates are furthest behind."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def describe(self) -> list[Metric]:
        return [self._family()]

    def collect(self) -> Iterator[Metric]:
        family = self._family()
        owned = {one.esco: one.seconds for one in self._metrics.behind or () if one.esco}
        for esco in nlargest(NAMED_BEHIND, owned, key=owned.__getitem__):
            family.add_metric([esco], owned[esco])
        yield family

    @staticmethod
    def _family() -> GaugeMetricFamily:
        return GaugeMetricFamily(
            "flows_esco_aggregates_behind_seconds",
            f"Age of the oldest change that an ESCO's aggregates lack; the {NAMED_BEHIND} oldest.",
            labels=["esco"],
            unit="seconds",
        )


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
