"""Measures of the database for /metrics, read in the background: no scrape waits for them.

What the aggregates lack and the state of the WAL archive are read every few seconds; sizes, jobs,
connections, statements, backups and keys once a minute.
"""

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from heapq import nlargest
from typing import Any
from urllib.parse import urlsplit

import psycopg
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from psycopg_pool import PoolTimeout

from app.db.archiver import ARCHIVER_STATE
from app.db.session import Connection, Pool
from app.monitoring.certificates import certificate_end

logger = logging.getLogger(__name__)

# Time between readings of each, and the most that one may take.
CHANGES_SECONDS, CHANGES_PATIENCE_SECONDS = 5.0, 2.0
MEASURE_SECONDS, MEASURE_PATIENCE_SECONDS = 60.0, 30.0

CHANGES_BEHIND = "select esco, changes, seconds from gateway.changes_behind()"
# ESCOs that are named by a measure: all of them must not become thousands of series.
MOST_NAMED = 20
SERIES_MEASURES = "select * from gateway.measure_series() order by series"
FAILED_JOBS = """
    select job, series, failures from gateway.job_failures() order by 1, 2
"""
SERVER_MEASURES = """
    select pg_database_size(current_database()) as bytes,
        current_setting('max_connections')::int as connections_limit,
        (select extract(epoch from now() - max(created_at))::float from gateway.signing_key)
            as key_age,
        (select extract(epoch from now() - ended_at)::float from gateway.proof) as proof_age,
        (select cardinality(broken) from gateway.proof) as proof_broken,
        (select jsonb_object_agg(usename, number) from (
            select usename, count(*) as number from pg_stat_activity
            where datname = current_database() and usename is not null group by usename
        ) as a) as connections,
        (select jsonb_object_agg(slot_name, behind) from (
            select slot_name, pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) as behind
            from pg_replication_slots where restart_lsn is not null
        ) as r where not pg_is_in_recovery()) as slots,
        (select extract(epoch from now() - ended_at)::float from gateway.last_backup)
            as backup_age,
        extract(epoch from case when pg_is_in_recovery()
            then now() - pg_last_xact_replay_timestamp() end)::float as replay_age,
        to_regprocedure('gateway.job_failures()') is not null as has_jobs
"""
# Of this day and the one before, UTC.
RECEIVED = """
    select esco.code as esco, sum(used.received)::float as bytes
    from gateway.usage as used join gateway.escos() as esco on used.esco = esco.id
    where used.day >= (now() at time zone 'UTC')::date - 1
    group by esco.code having sum(used.received) > 0 order by 2 desc, 1 limit %s
"""
REPLICAS = "select replica, lag_bytes, lag_seconds from gateway.replicas() order by 1"
MOST_STATEMENTS = 20
STATEMENTS = """
    select query_id, login, statement, calls, seconds, rows from gateway.slow_statements(%s)
"""
# Name, help, unit, and the column of ARCHIVER_STATE.
ARCHIVER_FAMILIES = (
    ("flows_wal_archive_enabled", "1 if the server archives its WAL.", "", "on"),
    ("flows_wal_archive_failing", "1 if the last attempt to archive a segment failed.", "",
     "failing"),
    ("flows_wal_archive_age_seconds", "Time since the last segment was archived.", "seconds",
     "seconds"),
)  # fmt: skip
# Name, help, unit, and the column of SERIES_MEASURES.
SERIES_FAMILIES = (
    ("flows_series_bytes", "Size of a series with its indexes.", "bytes", "bytes"),
    ("flows_series_rows", "Rows of a series, as estimated.", "", "estimated_rows"),
    ("flows_series_parts", "Partitions or chunks of a series.", "", "parts"),
    ("flows_series_columnstore_parts", "Chunks of a series that are in the columnstore.", "",
     "parts_in_columnstore"),
    ("flows_series_partitions_ahead", "Yearly partitions of a series after this year's.", "",
     "years_ahead"),
)  # fmt: skip

REPLICA_FAMILIES = (
    ("flows_replica_lag_bytes", "WAL that a streaming replica has yet to replay.", "bytes",
     "lag_bytes"),
    ("flows_replica_lag_seconds", "Delay until a replica had replayed, at its last reply.",
     "seconds", "lag_seconds"),
)  # fmt: skip
STATEMENT_FAMILIES = (
    ("flows_statement_seconds", f"Time of the {MOST_STATEMENTS} statements that took most.",
     "seconds", "seconds"),
    ("flows_statement_calls", "Calls of these statements.", "", "calls"),
    ("flows_statement_rows", "Rows that these statements returned or changed.", "", "rows"),
)  # fmt: skip


class DatabaseMeasures(Collector):
    """The measures as they were when they were last read, and how long ago that was.

    `public_url` is where clients reach the gateway: its certificate is measured with them. ESCOs
    that the aggregates are behind for are named if `names_escos`.
    """

    def __init__(self, public_url: str = "", *, names_escos: bool = False) -> None:
        self._public_url = public_url
        self._names_escos = names_escos
        self._changes: list[Metric] = []
        self._changes_at: float | None = None
        self._measures: list[Metric] = []
        self._measures_at: float | None = None
        self._reading: asyncio.Task[None] | None = None

    def open(self, pool: Pool) -> None:
        """Begin to read them, with one connection at a time, and renew them until closed."""
        self._reading = asyncio.create_task(self._read_repeatedly(pool))

    async def close(self) -> None:
        """End the reading."""
        if self._reading:
            self._reading.cancel()
            with suppress(asyncio.CancelledError):
                await self._reading

    async def _read_repeatedly(self, pool: Pool) -> None:
        due = time.monotonic()
        while True:
            # A database that did not answer is measured as soon as it does.
            if await self.read_changes(pool) and time.monotonic() >= due:
                due = time.monotonic() + MEASURE_SECONDS
                await self.read_measures(pool)
            await asyncio.sleep(CHANGES_SECONDS)

    async def read_changes(self, pool: Pool) -> bool:
        """Read what the aggregates lack, and the state of the WAL archive; return whether it went.

        The first tells how old figures are, the second is for an alarm before the disk is full.
        """
        try:
            async with asyncio.timeout(CHANGES_PATIENCE_SECONDS), pool.connection() as connection:
                archiver = await (await connection.execute(ARCHIVER_STATE)).fetchone() or {}
                behind = await (await connection.execute(CHANGES_BEHIND)).fetchall()
        except (psycopg.Error, PoolTimeout, TimeoutError):
            return False
        self._changes = [*_of_archiver(archiver), *_of_changes(behind, self._names_escos)]
        self._changes_at = time.monotonic()
        return True

    async def read_measures(self, pool: Pool) -> None:
        """Read the measures that take long."""
        try:
            async with asyncio.timeout(MEASURE_PATIENCE_SECONDS), pool.connection() as connection:
                measures = await _measure(connection)
                if self._names_escos:
                    received = await connection.execute(RECEIVED, (MOST_NAMED,))
                    measures += _of_received(await received.fetchall())
        except (psycopg.Error, PoolTimeout, TimeoutError) as error:
            logger.warning("the database cannot be measured: %s", str(error).strip())
            return
        self._measures = [*measures, *await _of_certificate(self._public_url)]
        self._measures_at = time.monotonic()

    def describe(self) -> list[Metric]:
        """Return nothing: the families depend on the engine."""
        return []

    def collect(self) -> list[Metric]:
        """Return the families as last read, and how long ago that was."""
        ages = GaugeMetricFamily(
            "flows_measures_age_seconds",
            "Time since figures were read: what the aggregates lack and the archive (changes) every"
            f" {CHANGES_SECONDS:.0f} s, the database every {MEASURE_SECONDS:.0f} s.",
            labels=["measures"],
            unit="seconds",
        )
        for name, read_at in (("changes", self._changes_at), ("database", self._measures_at)):
            if read_at is not None:
                ages.add_metric([name], time.monotonic() - read_at)
        return [ages, *self._changes, *self._measures]


async def _measure(connection: Connection) -> list[Metric]:
    server = await (await connection.execute(SERVER_MEASURES)).fetchone() or {}
    series = await (await connection.execute(SERIES_MEASURES)).fetchall()
    jobs = []
    if server["has_jobs"]:
        jobs = await (await connection.execute(FAILED_JOBS)).fetchall()
    replicas = await (await connection.execute(REPLICAS)).fetchall()
    asked = await connection.execute(STATEMENTS, (MOST_STATEMENTS,))
    statements = await asked.fetchall()
    return [
        *_of_series(series), *_of_server(server), *_of_jobs(jobs), *_of_replicas(replicas),
        *_of_statements(statements),
    ]  # fmt: skip


def _of_archiver(row: dict[str, Any]) -> Iterator[Metric]:
    for name, help_text, unit, column in ARCHIVER_FAMILIES:
        if row[column] is not None:
            yield GaugeMetricFamily(name, help_text, value=float(row[column]), unit=unit)


def _of_changes(rows: list[dict[str, Any]], names_escos: bool) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "flows_aggregates_changes_waiting",
        "Changes of half-hours and mappings that the aggregates lack.",
        value=sum(row["changes"] for row in rows),
    )
    yield GaugeMetricFamily(
        "flows_aggregates_behind_seconds",
        "Age of the oldest change that the aggregates lack; 0 if they lack none.",
        value=max((row["seconds"] for row in rows), default=0.0),
        unit="seconds",
    )
    furthest = GaugeMetricFamily(
        "flows_esco_aggregates_behind_seconds",
        f"Age of the oldest change that an ESCO's aggregates lack; the {MOST_NAMED} oldest.",
        labels=["esco"],
        unit="seconds",
    )
    # A row without an ESCO is of a change that concerns all of them.
    owned = {row["esco"]: row["seconds"] for row in rows if row["esco"] and names_escos}
    for esco in nlargest(MOST_NAMED, owned, key=owned.__getitem__):
        furthest.add_metric([esco], owned[esco])
    yield furthest


def _of_received(rows: list[dict[str, Any]]) -> Iterator[Metric]:
    family = GaugeMetricFamily(
        "flows_esco_received_bytes",
        "Bytes that an ESCO has sent since the day before began, UTC, most of which are stored;"
        f" the {MOST_NAMED} that sent most.",
        labels=["esco"],
        unit="bytes",
    )
    for row in rows:
        family.add_metric([row["esco"]], row["bytes"])
    yield family


def _of_series(rows: list[dict[str, Any]]) -> Iterator[Metric]:
    for name, help_text, unit, column in SERIES_FAMILIES:
        family = GaugeMetricFamily(name, help_text, labels=["series"], unit=unit)
        for row in rows:
            if row[column] is not None:
                family.add_metric([row["series"]], row[column])
        if family.samples:
            yield family


def _of_server(row: dict[str, Any]) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "flows_database_bytes", "Size of the database.", value=row["bytes"], unit="bytes"
    )
    yield GaugeMetricFamily(
        "flows_server_connections_limit", "max_connections.", value=row["connections_limit"]
    )
    if row["key_age"] is not None:
        yield GaugeMetricFamily(
            "flows_signing_key_age_seconds",
            "Age of the newest key that signs tokens.",
            value=row["key_age"],
            unit="seconds",
        )
    if row["backup_age"] is not None:
        yield GaugeMetricFamily(
            "flows_backup_age_seconds",
            "Time since the newest backup ended.",
            value=row["backup_age"],
            unit="seconds",
        )
    if row["replay_age"] is not None:
        yield GaugeMetricFamily(
            "flows_replay_age_seconds",
            "Age of the last transaction that this replica has replayed.",
            value=row["replay_age"],
            unit="seconds",
        )
    if row["proof_age"] is not None:
        yield GaugeMetricFamily(
            "flows_isolation_broken",
            "Relations and paths where the last `flows prove` found isolation broken.",
            value=row["proof_broken"],
        )
        yield GaugeMetricFamily(
            "flows_isolation_proof_age_seconds",
            "Time since the last `flows prove`.",
            value=row["proof_age"],
            unit="seconds",
        )
    connections = GaugeMetricFamily(
        "flows_server_connections", "Connections to the database, by login.", labels=["role"]
    )
    for role, number in sorted((row["connections"] or {}).items()):
        connections.add_metric([role], number)
    yield connections
    slots = GaugeMetricFamily(
        "flows_replication_behind_bytes",
        "WAL that a replica's slot has not yet received or keeps for it.",
        labels=["slot"],
        unit="bytes",
    )
    for slot, behind in sorted((row["slots"] or {}).items()):
        slots.add_metric([slot], float(behind))
    if slots.samples:
        yield slots


def _of_jobs(rows: list[dict[str, Any]]) -> Iterator[Metric]:
    family = CounterMetricFamily(
        "flows_job_failures", "Failures of TimescaleDB's jobs.", labels=["job", "series"]
    )
    for row in rows:
        family.add_metric([row["job"], row["series"]], row["failures"])
    if family.samples:
        yield family


def _of_replicas(rows: list[dict[str, Any]]) -> Iterator[Metric]:
    for name, help_text, unit, column in REPLICA_FAMILIES:
        family = GaugeMetricFamily(name, help_text, labels=["replica"], unit=unit)
        for row in rows:
            if row[column] is not None:
                family.add_metric([row["replica"]], float(row[column]))
        if family.samples:
            yield family


def _of_statements(rows: list[dict[str, Any]]) -> Iterator[Metric]:
    for name, help_text, unit, column in STATEMENT_FAMILIES:
        labels = ["query_id", "login", "statement"]
        family = CounterMetricFamily(name, help_text, labels=labels, unit=unit)
        for row in rows:
            family.add_metric([row[label] for label in labels], row[column])
        if family.samples:
            yield family


async def _of_certificate(url: str) -> list[Metric]:
    """Return the time until the certificate of an https URL ends; none of another, or unreached."""
    public = urlsplit(url)
    if public.scheme != "https" or public.hostname is None:
        return []
    try:
        end = await asyncio.to_thread(certificate_end, public.hostname, public.port or 443)
    except (OSError, ValueError) as error:
        logger.warning("the certificate of %s cannot be read: %s", url, error)
        return []
    return [
        GaugeMetricFamily(
            "flows_certificate_remaining_seconds",
            "Time until the certificate that clients are shown ends.",
            value=(end - datetime.now(UTC)).total_seconds(),
            unit="seconds",
        )
    ]
