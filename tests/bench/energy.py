"""/v1/energy on 10 million half-hours, with 200 circuits in the caller's ESCO.

FLOWS_BENCH_CIRCUITS (default 200) circuits in each of three ESCOs, a year of half-hours.
"""

import os
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import psycopg

from app.auth.tokens import Grant
from app.db.isolation import become
from app.monitoring.database import MEASURE_SECONDS
from tests.bench import generator
from tests.bench.generator import Request, Result
from tests.bench.history import History
from tests.bench.report import Report
from tests.conftest import Stack
from tests.postgrest.test_streaming import Memory

ESCOS = 3
CIRCUITS = int(os.environ.get("FLOWS_BENCH_CIRCUITS", "200"))
END = datetime(2024, 1, 1, tzinfo=UTC)
START = datetime(2023, 1, 1, tzinfo=UTC)
RECENT = END - timedelta(days=36)
REPEATS = 15
# Bytes a second of a line of 10 Mbit/s.
LINE = 1_250_000

# The same figures from the stored aggregates, without isolation.
DAYS = """
    select circuit_id, day, day + interval '1 day', total_import_kwh, total_export_kwh,
        register_intervals, present_intervals, cardinality(meters)
    from flows.circuit_interval_daily_london
    where circuit_id = any(%(circuits)s) and day >= %(start)s and day < %(end)s
    order by day, circuit_id
"""
HALF_HOURS = """
    select circuit_id, "timestamp", "timestamp" + interval '30 minutes', total_import_kwh,
        total_export_kwh, register_intervals, 1, cardinality(meters)
    from flows.circuit_interval_hh
    where circuit_id = %(circuit)s and "timestamp" >= %(start)s and "timestamp" < %(end)s
    order by "timestamp"
"""
# The rows that a month's reports need, to be copied.
MONTH_HALF_HOURS = """
    copy (
        select circuit_id, "timestamp", total_import_kwh, total_export_kwh, register_intervals
        from flows.circuit_interval_hh
        where circuit_id = any(%(circuits)s)
            and "timestamp" >= %(start)s and "timestamp" < %(end)s
    ) to stdout
"""
MONTH_READINGS = """
    copy (
        select r.register_id, r."timestamp" from flows.register_interval_hh as r
        where r.register_id = any(array(
                select m.register from flows.circuit_register as m
                where m.circuit = any(%(circuits)s)
            ))
            and r."timestamp" >= %(start)s and r."timestamp" < %(end)s
    ) to stdout
"""
NEWEST = """
    copy (
        select n.* from flows.register_interval_hh_latest as n
        where n.register_id = any(array(
            select m.register from flows.circuit_register as m where m.circuit = any(%(circuits)s)
        ))
    ) to stdout
"""
# The same days with all figures of /v1, from raw rows: the caller's alternative to /v1.
RAW_DAYS = """
    select m.circuit, date_trunc('day', r."timestamp", 'Europe/London'), sum(r.import_kwh),
        sum(r.export_kwh), count(*), count(distinct r."timestamp"), count(distinct own.meter_id)
    from api.register_interval_hh as r
    join api.meter_registers as own on own.register_id = r.register_id
    join api.circuit_register as m on m.register = r.register_id
        and r."timestamp" >= m.start_time and (r."timestamp" < m.end_time or m.end_time is null)
    where r."timestamp" >= %(start)s and r."timestamp" < %(end)s
    group by 1, 2
"""
# Only the sums of these days, without isolation.
RAW_SUMS = """
    select m.circuit, date_trunc('day', r."timestamp", 'Europe/London'), sum(r.import_kwh),
        sum(r.export_kwh), count(*)
    from flows.register_interval_hh as r
    join flows.circuit_register as m on m.register = r.register_id
        and r."timestamp" >= m.start_time and (r."timestamp" < m.end_time or m.end_time is null)
    where m.circuit = any(%(circuits)s) and r."timestamp" >= %(start)s and r."timestamp" < %(end)s
    group by 1, 2
"""


def run(stack: Stack, report: Report) -> None:
    """Measure reads of a window before the history grows, and everything afterwards."""
    with psycopg.connect(stack.contract["database_url"], autocommit=True) as admin:
        history = History(admin, "energy", ESCOS, ESCOS * CIRCUITS)
        grant = Grant("flc_bench", "public_backend", history.id("esco", 1), "energy1", ("read",))
        token = stack.issue(grant)
        # As it is, for PostgREST beside it compresses nothing.
        headers = {"Authorization": f"Bearer {token}", "Accept-Encoding": "identity"}
        with httpx.Client(headers=headers, timeout=120) as client:
            history.load(RECENT, END)
            recent = _windows(stack, client)
            history.load(START, RECENT)
            _report(stack, client, history, recent, report)


def _get(client: httpx.Client, url: str, tag: str = "", **params: Any) -> httpx.Response:
    answer = client.get(url, params=params, headers={"If-None-Match": tag} if tag else {})
    assert answer.status_code == (304 if tag else 200), answer.text
    return answer


def _windows(stack: Stack, client: httpx.Client) -> dict[str, float]:
    """Return seconds for the last four weeks, as days and as half-hours."""
    url = stack.contract["base_url"] + "/v1/energy"
    period = {"period_from": (END - timedelta(days=28)).isoformat(), "period_to": END.isoformat()}
    return {
        f"four weeks of {name}": _median(
            lambda: _get(client, url, granularity=granularity, **period)  # noqa: B023
        )
        for name, granularity in (("days", "P1D"), ("half-hours", "PT30M"))
    }


def _report(
    stack: Stack, client: httpx.Client, history: History, recent: dict[str, float], report: Report
) -> None:
    admin = history.admin
    report.figure("half-hours", ESCOS * CIRCUITS * (END - START) / timedelta(minutes=30), "rows")
    for name, seconds in _windows(stack, client).items():
        report.ratio(f"{name}: ten times the history", seconds, recent[name], limit="<= 1.2")

    circuits = [history.id("circuit", ESCOS * n) for n in range(1, CIRCUITS + 1)]
    asked = {"circuits": circuits, "circuit": circuits[0], "start": START, "end": END}
    url, rest = stack.contract["base_url"] + "/v1/energy", stack.contract["postgrest_url"]
    period = {"period_from": START.isoformat(), "period_to": END.isoformat()}
    between = ("gte." + START.isoformat(), "lt." + END.isoformat())

    def days(tag: str = "", form: str = "json") -> httpx.Response:
        return _get(client, url, tag, granularity="P1D", format=form, **period)

    def half_hours(tag: str = "", form: str = "json") -> httpx.Response:
        circuit = circuits[0]
        return _get(client, url, tag, granularity="PT30M", circuit=circuit, format=form, **period)

    cases: dict[str, tuple[Callable[..., httpx.Response], str, Callable[[], httpx.Response]]] = {
        "a year of days of the ESCO": (
            days, DAYS,
            lambda: _get(client, f"{rest}/circuit_interval_daily_london", day=between),
        ),
        "a year of half-hours of a circuit": (
            half_hours, HALF_HOURS,
            lambda: _get(
                client, f"{rest}/circuit_interval_hh", circuit_id=f"eq.{circuits[0]}",
                timestamp=between,
            ),
        ),
    }  # fmt: skip
    for name, (ours, bare, postgrest) in cases.items():
        rows = admin.execute(bare, asked).fetchall()
        assert len(ours().json()["rows"]) == len(postgrest().json()) == len(rows)
        report.figure(f"{name}", len(rows), "rows")
        answered, fetched, passed = _medians(
            ours,
            lambda: admin.execute(bare, asked).fetchall(),  # noqa: B023
            postgrest,
        )
        report.figure(f"{name}, /v1/energy", answered * 1000, "ms")
        report.ratio(f"{name}: /v1 / SQL by psycopg", answered, fetched, limit="<= 1")
        report.ratio(f"{name}: /v1 / PostgREST", answered, passed, limit="<= 0.9")
        tag = ours().headers["etag"]
        unchanged = _median(lambda: ours(tag))  # noqa: B023
        report.ratio(f"{name}: 304 / full", unchanged, answered, limit="<= 0.15")
        for form, limit in (
            ("arrow", "<= 0.6"), ("parquet", None), ("columns", None), ("csv", None),
            ("ndjson", None),
        ):  # fmt: skip
            of_form, as_json = _medians(lambda: ours(form=form), ours)  # noqa: B023
            report.ratio(f"{name}: {form} / JSON", of_form, as_json, limit=limit)
    _over_a_line(stack, client, circuits[0], report)
    _others(stack, client, history, circuits, report)
    _small(stack, client, circuits[0], report)
    _scrapes(stack, report)
    with admin.transaction():
        become(admin, "public_backend", str(history.id("esco", 1)))
        assert len(admin.execute(RAW_DAYS, asked).fetchall()) == len(days().json()["rows"])
        raw = _median(lambda: admin.execute(RAW_DAYS, asked).fetchall(), repeats=3)
    sums = _median(lambda: admin.execute(RAW_SUMS, asked).fetchall(), repeats=3)
    kept = _median(days)
    report.ratio("a year of days: raw rows grouped / /v1", raw, kept, limit=">= 20")
    report.ratio("a year of days: raw sums without isolation / /v1", sums, kept)


def _over_a_line(stack: Stack, client: httpx.Client, circuit: Any, report: Report) -> None:
    """Measure bytes and the time to the last one over a line of 10 Mbit/s, beside PostgREST's."""
    url, rest = stack.contract["base_url"] + "/v1/energy", stack.contract["postgrest_url"]
    period = {"period_from": START.isoformat(), "period_to": END.isoformat()}
    between = ("gte." + START.isoformat(), "lt." + END.isoformat())
    for name, ours, theirs in (
        ("a year of days of the ESCO", {"granularity": "P1D"},
         (f"{rest}/circuit_interval_daily_london", {"day": between})),
        ("a year of half-hours of a circuit", {"granularity": "PT30M", "circuit": circuit},
         (f"{rest}/circuit_interval_hh",
          {"circuit_id": f"eq.{circuit}", "timestamp": between})),
    ):  # fmt: skip
        size, seconds = _to_last_byte(client, url, period | ours)
        plain, passed = _to_last_byte(client, *theirs)
        report.figure(f"{name}, compressed", size / 2**20, "MB")
        report.figure(f"{name}, PostgREST", plain / 2**20, "MB")
        report.figure(f"{name}, over 10 Mbit/s", seconds * 1000, "ms")
        report.ratio(f"{name}, over 10 Mbit/s: /v1 / PostgREST", seconds, passed)


def _to_last_byte(client: httpx.Client, url: str, asked: Any) -> tuple[int, float]:
    """Return the bytes of a body as sent, and the seconds until the last has come over the line."""
    size, started, began = 0, time.perf_counter(), None
    packed = {"Accept-Encoding": "zstd"}
    with client.stream("GET", url, params=asked, headers=packed) as answer:
        assert answer.status_code == 200
        for piece in answer.iter_raw(2**14):
            began = began or time.perf_counter()
            size += len(piece)
            time.sleep(max(0.0, began + size / LINE - time.perf_counter()))
    return size, time.perf_counter() - started


def _others(
    stack: Stack, client: httpx.Client, history: History, circuits: list[Any], report: Report
) -> None:
    """Measure a group of all circuits, the other reports, and memory during a long response."""
    url, start = stack.contract["base_url"] + "/v1", END - timedelta(days=31)
    year = {"period_from": START.isoformat(), "period_to": END.isoformat()}
    month = {"period_from": start.isoformat(), "period_to": END.isoformat()}
    needed = {"circuits": circuits, "start": start, "end": END}

    def copy(rows: str) -> None:
        with history.admin.cursor().copy(rows, needed) as copied:
            for _ in copied:
                pass

    for name, read, asked, rows in (
        ("a year of days of the ESCO as one group", "energy", year | {"group_by": "esco"}, None),
        ("a year of months of the ESCO", "energy", year | {"granularity": "P1M"}, None),
        ("a month of half-hours as one group", "energy",
         month | {"granularity": "PT30M", "group_by": "esco"}, None),
        ("a month of balanced days", "balance", month, None),
        ("a month of gaps, all registers", "completeness", month, MONTH_READINGS),
        ("a month's peaks, each circuit", "peak", month, MONTH_HALF_HOURS),
        ("a month's average day, each circuit", "profile", month, MONTH_HALF_HOURS),
        ("the latest of each meter", "latest", {}, NEWEST),
    ):  # fmt: skip
        seconds = _median(lambda: _get(client, f"{url}/{read}", **asked))  # noqa: B023
        report.figure(name, seconds * 1000, "ms")
        if rows:
            copied = _median(lambda: copy(rows))  # noqa: B023
            report.ratio(f"{name}: /v1 / COPY of its rows", seconds, copied, limit="<= 1.5")
    memory, size = Memory(stack), 0
    asked = month | {"granularity": "PT30M", "format": "csv"}
    with client.stream("GET", f"{url}/energy", params=asked) as answer:
        for piece in answer.iter_raw(2**16):
            size += len(piece)
            memory.look()
    report.figure("a month of half-hours of each circuit, CSV", size / 2**20, "MB")
    report.figure("the gateway grows meanwhile by", memory.growth_mb, "MB", limit="<= 40")


def _small(stack: Stack, client: httpx.Client, circuit: Any, report: Report) -> None:
    """Measure a circuit's week of days and a meter's latest, and the week beside downloads."""
    url, start = stack.contract["base_url"], END - timedelta(days=7)
    week = {"period_from": start.isoformat(), "period_to": END.isoformat(), "circuit": circuit}
    between = ("gte." + start.isoformat(), "lt." + END.isoformat())
    (meter,) = _get(client, f"{url}/v1/energy", group_by="meter", **week).json()["rows"][:1]

    def asked(path: str, tag: str = "", **params: Any) -> Request:
        headers = dict(client.headers) | ({"If-None-Match": tag} if tag else {})
        return Request(str(httpx.URL(f"{url}{path}", params=params)), headers)

    ours = asked("/v1/energy", **week)
    theirs = asked(
        "/rest/v1/circuit_interval_daily_london", circuit_id=f"eq.{circuit}", day=between
    )
    answers = [client.get(request.url) for request in (ours, theirs)]
    assert len(answers[0].json()["rows"]) == len(answers[1].json()) == 7
    requests = {
        "week": ours,
        "rest": theirs,
        "304": asked("/v1/energy", answers[0].headers["etag"], **week),
        "latest": asked("/v1/latest", meter=meter["meter"]),
    }
    results = generator.alternate(requests, connections=1, seconds=1)
    times = {name: statistics.median(r.p50 for r in found) for name, found in results.items()}
    report.figure("a circuit's week of days", times["week"], "ms")
    report.ratio(
        "a circuit's week of days: /v1 / the same by /rest", times["week"], times["rest"],
        limit="<= 1.6",
    )  # fmt: skip
    report.ratio(
        "a circuit's week of days: 304 / full", times["304"], times["week"], limit="<= 0.5"
    )
    report.ratio(
        "the latest of a meter: /v1 / a week by /rest", times["latest"], times["rest"],
        limit="<= 1.6",
    )  # fmt: skip
    del requests["304"]
    results = generator.alternate(requests, connections=16, seconds=1)
    rates = {name: statistics.median(r.rate for r in found) for name, found in results.items()}
    report.figure("a circuit's week of days, 16 connections", rates["week"], "/s")
    report.ratio(
        "a circuit's week of days: /v1 / /rest, 16 connections", rates["week"], rates["rest"],
        limit=">= 0.6",
    )  # fmt: skip
    report.ratio(
        "the latest of a meter: /v1 / a week by /rest, 16 connections", rates["latest"],
        rates["rest"], limit=">= 0.6",
    )  # fmt: skip
    month = {"period_from": (END - timedelta(days=31)).isoformat(), "period_to": END.isoformat()}
    download = asked("/v1/energy", granularity="PT30M", format="csv", **month)
    beside = []
    for _ in range(3):
        quiet = generator.measure(ours, connections=1, seconds=4)
        downloads = generator.start(download, connections=2, seconds=7)
        time.sleep(2)
        busy = generator.measure(ours, connections=1, seconds=4)
        generator.finish(downloads).require(200)
        beside.append(_p99(busy) / _p99(quiet))
    report.figure(
        "a circuit's week of days: p99 beside two downloads / quiet", statistics.median(beside),
        "×", limit="<= 3",
    )  # fmt: skip


def _p99(result: Result) -> float:
    return statistics.quantiles(result.require(200).latencies, n=100)[98]


def _scrapes(stack: Stack, report: Report) -> None:
    """Measure /metrics through a time in which the database is measured anew."""
    token = stack.issue(Grant("flc_bench", "grafanareader", None, None, ("read",)))

    def scrape() -> None:
        answer = client.get(f"{stack.contract['base_url']}/metrics")
        assert "flows_database_bytes" in answer.text, answer.text[:200]

    times, ends = [], time.monotonic() + 1.2 * MEASURE_SECONDS
    with httpx.Client(headers={"Authorization": f"Bearer {token}"}) as client:
        while time.monotonic() < ends:
            times.append(_seconds(scrape))
            time.sleep(0.5)
    report.figure("a scrape of /metrics", statistics.median(times) * 1000, "ms", limit="<= 50")
    report.figure("the longest scrape of /metrics", max(times) * 1000, "ms", limit="<= 50")


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _median(work: Callable[[], object], repeats: int = REPEATS) -> float:
    return statistics.median(_seconds(work) for _ in range(repeats))


def _medians(*works: Callable[[], object]) -> list[float]:
    """Return the median seconds of each; runs alternate, so that all meet the same load."""
    times = [[_seconds(work) for work in works] for _ in range(REPEATS)]
    return [statistics.median(column) for column in zip(*times, strict=True)]
