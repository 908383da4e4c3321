"""Measures of a hostile partner: one ESCO with valid credentials, beside another's requests."""

import json
import os
import re
import socket
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from threading import Event, Thread, get_native_id
from typing import Any
from urllib.parse import urlencode, urlsplit
from uuid import UUID

import psutil

from app.auth.tokens import Grant
from tests.bench import generator
from tests.bench.burner import burning
from tests.bench.generator import Request
from tests.bench.report import Report
from tests.bench.sink import running_sink
from tests.bench.tokens import token_request
from tests.conftest import Stack, running_stack

ROUNDS = 2
QUIET_EVERY = 4  # attacks, as what else the machine does changes meanwhile
ONLY = os.environ.get("FLOWS_BENCH_HOSTILE", "")  # a pattern of the attacks' names
SECONDS = 4.0  # about 320 reads and 160 writes in each window
ATTACK_SECONDS = SECONDS + 2.5  # from before the window, in which generators start, to after it
CONNECTIONS = 32
HELD = 100  # slow connections
TICK = 0.05  # seconds between two pieces on each
# The demo lifts the quotas of production. All processes and the load share this machine's cores.
QUOTAS = {
    "FLOWS_LIMITS_CLIENT": "100/second",
    "FLOWS_LIMITS_ESCO": "200/second",
    "FLOWS_LIMITS_SUSTAINED": str(max(1, (os.cpu_count() or 2) // 2)),
}
# The caller whose requests are measured, some of them at the same time.
READING: dict[str, Any] = {"connections": 4, "pause": 0.045, "seconds": SECONDS}
WRITING: dict[str, Any] = {"connections": 2, "pause": 0.02, "seconds": SECONDS}
HALF_HOUR = timedelta(minutes=30)
FREE = datetime(2012, 1, 1, tzinfo=UTC)  # from here on nobody has half-hours
MERGING = {"Prefer": "resolution=merge-duplicates,return=minimal"}
CONTROL = "(as much load elsewhere) "
NESTED = "(and" * 6 + "(import_kwh.gt.0,or(export_kwh.gte.0,import_kwh.lt.9))" + ")" * 6

NICENESS = 19  # of the generators of attacks, whose own work is no part of the figures


@dataclass(frozen=True)
class Attack:
    """An attack of a hostile partner; `control` sends as much to another server."""

    begin: Callable[[], AbstractContextManager[None]]
    control: Callable[[str], AbstractContextManager[None]]


@dataclass(slots=True)
class Window:
    """Measurements that belong together: milliseconds of reads and writes, and cores in use."""

    reads: list[float] = field(default_factory=list)
    writes: list[float] = field(default_factory=list)
    cores: list[float] = field(default_factory=list)


def run(stack: Stack, report: Report) -> None:
    """Measure 99th percentiles of reads and writes in turn: in quiet, and beside each attack.

    Of the 320 reads of a window it is the third slowest, so those of all windows count together.
    An attack shares the cores with the caller's requests, wherever its work is done. So each has a
    control: the same rate of requests to a server that answers at once, while processes of no stack
    keep as much of the cores busy as the stack did with the attack.
    """
    del stack
    with running_stack(**QUOTAS) as limited, running_sink() as sink:
        reads, writes = _honest(limited)
        attacks = {name: each for name, each in _attacks(limited).items() if re.search(ONLY, name)}
        windows: dict[str, Window] = {}

        def measure(name: str) -> None:
            window = windows.setdefault(name, Window())
            before, started = _seconds_used(limited), time.monotonic()
            read, written = _measure(reads, writes)
            used = _seconds_used(limited) - before
            window.reads += read
            window.writes += written
            window.cores.append(used / (time.monotonic() - started))

        _measure(reads, writes)  # fills caches
        for number in range(ROUNDS):
            for turn, (name, attack) in enumerate(attacks.items()):
                if turn % QUIET_EVERY == 0:
                    measure("quiet")
                print(f"  {name} …", file=sys.stderr, flush=True)
                with attack.begin():
                    time.sleep(1)  # until it has started
                    measure(name)
                if number == 0:
                    busier = windows[name].cores[0] - statistics.mean(windows["quiet"].cores)
                    with attack.control(sink), burning(max(0.0, busier)):
                        time.sleep(1)
                        measure(f"{CONTROL}{name}")
    quiet = windows.pop("quiet")
    for what in ("reads", "writes"):
        alone = _p99(getattr(quiet, what))
        report.figure(f"p99 of {what}, quiet", alone, "ms")
        for name, window in windows.items():
            limit = None if name.startswith(CONTROL) else "<= 1.5"
            beside = _p99(getattr(window, what))
            report.ratio(f"{what} beside {name}", beside, alone, limit=limit)


def _honest(stack: Stack) -> tuple[list[Request], list[Request]]:
    """Return reads and writes of hmce: of its tables, of its energy, and half-hours corrected."""
    base, headers = stack.contract["base_url"], _client(stack, "hmce", "flc_reads")
    reads = [
        Request(f"{base}/rest/v1/meter_registry?limit=3", headers),
        Request(f"{base}/v1/energy?granularity=P1D&{urlencode(stack.period(9, 2))}", headers),
        Request(f"{base}/rest/v1/circuit_interval_daily?order=day.desc&limit=100", headers),
        Request(f"{base}/v1/sites", headers),
    ]  # fmt: skip
    registers = _of(stack, "hmce", "meter_registers", "register_id")[: WRITING["connections"]]
    upsert = _client(stack, "hmce", "flc_writes") | MERGING
    url = f"{base}/rest/v1/register_interval_hh?on_conflict=register_id,timestamp"
    writes = [
        Request(url, upsert, "POST", _rows("register_id", register,
                [stack.midnight(3) + n * HALF_HOUR for n in range(48)], import_kwh=0.1))
        for register in registers
    ]  # fmt: skip
    return reads, writes


def _attacks(stack: Stack) -> dict[str, Attack]:
    """Return the attacks of wlce, named by their numbers in SECURITY.md."""
    base, rest = stack.contract["base_url"], stack.contract["rest_url"]
    headers = _client(stack, "wlce", "flc_hostile")
    quiet = headers | {"Prefer": "return=minimal"}
    counted = headers | {"Prefer": "count=exact"}
    meter = _of(stack, "wlce", "meter_registry", "id")[0]
    hh = f"{rest}/register_interval_hh"
    wide = ",".join(f"{n / 1000}" for n in range(1500))

    costly = Request(f"{hh}?import_kwh=gt.0&order=import_kwh.desc,export_kwh&limit=1", counted)

    def patch(query: str) -> Request:
        return Request(f"{rest}/circuit_register?{query}", quiet, "PATCH", '{"notes": "mine"}')

    def spanning(weeks: range) -> Request:
        times = [FREE + timedelta(weeks=n) for n in weeks]
        rows = _rows("meter_id", meter, times, csq=9)
        target = f"{rest}/meter_csq?on_conflict=meter_id,timestamp"
        return Request(target, headers | MERGING, "POST", rows)

    return {
        "50 costly queries": _sending(costly, statuses=(200, 206, 429, 504)),
        "50 one costly query at a time": _sending(costly, statuses=(200, 206), connections=1),
        "53 a flood": _sending(
            Request(f"{rest}/meter_registry?limit=3", headers), connections=200,
            statuses=(200, 429)),
        "54 catastrophic patterns": _sending(
            patch("notes=match.(a%2B)%2B%24"), statuses=(422, 429)),
        "54 patterns that pass": _sending(
            patch("notes=imatch.x.*y.*z.*%24"),
            Request(f"{rest}/circuit_register?notes=ilike.*a*b*c*d*e*f*", headers),
            statuses=(200, 204, 429)),
        "54 changes of all mappings": _sending(
            patch("start_time=gt.2000-01-01"), statuses=(204, 429, 503, 504)),
        "54 deep conditions": _sending(
            Request(f"{hh}?limit=1&order=import_kwh&or={NESTED}", counted),
            statuses=(200, 206, 429, 504)),
        "54 wide conditions": _sending(
            Request(f"{hh}?limit=1&order=import_kwh&import_kwh=in.({wide})", counted),
            statuses=(200, 206, 429, 504)),
        "55 strangers who probe": _sending(
            Request(f"{base}/ready", {}), connections=200, statuses=(200, 429)),
        "55 strangers without a token": _sending(
            Request(f"{rest}/meter_registry", {}), connections=200, statuses=(401, 429)),
        "56 slow readers": _holding(
            stack, f"GET {urlsplit(hh).path}?limit=50000", headers),
        "56 slow readers of /v1": _holding(
            stack, f"GET /v1/energy?format=csv&{urlencode(stack.period(33, 2))}", headers),
        "56 slow bodies": _holding(
            stack, "POST /rest/v1/sites_new", headers | {"Content-Length": str(60_000_000)},
            body=b" ", write=20_000),
        "57 token requests": _sending(
            token_request(stack, "wlce"), connections=200, statuses=(200, 429)),
        "61 writes that span a year": _sending(
            *(spanning(range(52 * n, 52 * n + 52)) for n in range(10)),
            statuses=(200, 201, 429, 503, 504)),
        "61 writes that span more": _sending(
            spanning(range(250)), statuses=(422, 429)),
        "76 extensions of chunks": _holding(
            stack, "POST /rest/v1/sites_new", headers | {"Transfer-Encoding": "chunked"}, b"1;",
            body=b"x", write=2**30),
    }  # fmt: skip


def _measure(reads: list[Request], writes: list[Request]) -> tuple[list[float], list[float]]:
    """Return the milliseconds that each of both took, measured together."""
    runs = [generator.start(*reads, **READING), generator.start(*writes, **WRITING)]
    read, written = (generator.finish(each).require(200, 201) for each in runs)
    return read.latencies, written.latencies


def _seconds_used(stack: Stack) -> float:
    """Return the seconds for which the processes of a stack have kept a core busy."""
    used = 0.0
    for process in psutil.Process(stack.process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            used += times.user + times.system
    return used


def _p99(latencies: list[float]) -> float:
    return statistics.quantiles(latencies, n=100)[-1]


def _sending(
    *requests: Request, statuses: tuple[int, ...], connections: int = CONNECTIONS
) -> Attack:
    """Return an attack that sends requests over many connections as fast as they are answered."""
    load: dict[str, Any] = {
        "connections": connections, "seconds": ATTACK_SECONDS, "niceness": NICENESS
    }  # fmt: skip
    rate = 0.0

    @contextmanager
    def begin() -> Iterator[None]:
        nonlocal rate
        crowd = generator.start(*requests, **load)
        try:
            yield
        finally:
            rate = generator.finish(crowd).require(*statuses).rate

    @contextmanager
    def control(sink: str) -> Iterator[None]:
        base = urlsplit(sink)
        others = [
            replace(each, url=urlsplit(each.url)._replace(netloc=base.netloc).geturl())
            for each in requests
        ]
        crowd = generator.start(*others, **load, pause=connections / rate)
        try:
            yield
        finally:
            generator.finish(crowd).require(200)

    return Attack(begin, control)


def _holding(
    stack: Stack,
    target: str,
    headers: dict[str, str],
    begin: bytes = b"",
    *,
    body: bytes = b"",
    write: int = 0,
    read: int = 20_000,
) -> Attack:
    """Return an attack that holds many connections, opened again when they are closed.

    Each sends `begin` and then `body` without end, `write` bytes a second at most, and takes `read`
    bytes of its response a second.
    """
    url = urlsplit(stack.contract["base_url"])
    given = [f"{name}: {value}" for name, value in headers.items()]
    head = "\r\n".join([f"{target} HTTP/1.1", f"Host: {url.netloc}", *given, "", ""]).encode()
    piece = body * min(int(write * TICK), 2**16)

    sent, opened, ticks = 0, 0, 0

    def connect() -> socket.socket:
        nonlocal opened
        opened += 1
        bare = _connect(url.netloc)
        bare.sendall(head + begin)
        bare.setblocking(False)
        return bare

    def hold() -> None:
        nonlocal sent, ticks
        for number, bare in enumerate(held):
            try:
                with suppress(BlockingIOError):
                    sent += bare.send(piece)
                with suppress(BlockingIOError):
                    if not bare.recv(int(read * TICK)):
                        raise ConnectionError
            except ConnectionError:
                bare.close()
                held[number] = connect()
        ticks += 1

    held: list[socket.socket] = []

    @contextmanager
    def attack() -> Iterator[None]:
        nonlocal sent, opened, ticks
        held[:] = [connect() for _ in range(HELD)]
        sent = opened = ticks = 0
        try:
            with _repeating(hold):
                yield
        finally:
            for bare in held:
                bare.close()

    @contextmanager
    def control(sink: str) -> Iterator[None]:
        """Open as many connections in each tick, and send as much in as many pieces."""
        number = opened // ticks
        bytes_of_each = sent // ticks // max(1, number)

        def open_and_send() -> None:
            for _ in range(max(1, number)):
                with _connect(urlsplit(sink).netloc) as bare:
                    bare.sendall(head + begin + body * bytes_of_each)

        with _repeating(open_and_send):
            yield

    return Attack(attack, control)


def _connect(address: str) -> socket.socket:
    """Return a connection that buffers little of what it gets."""
    host, _, port = address.rpartition(":")
    bare = socket.socket()
    bare.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    bare.connect((host, int(port)))
    return bare


@contextmanager
def _repeating(step: Callable[[], None]) -> Iterator[None]:
    """Take a step in each tick, in a thread that lets others go first."""
    ended = Event()

    def repeat() -> None:
        os.setpriority(os.PRIO_PROCESS, get_native_id(), NICENESS)
        while not ended.wait(TICK):
            step()

    thread = Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _rows(key: str, owner: str, times: list[datetime], **values: float) -> str:
    return json.dumps([{key: owner, "timestamp": at.isoformat(), **values} for at in times])


def _client(stack: Stack, esco: str, client: str) -> dict[str, str]:
    """Return the headers of an ESCO's client, each of which has a quota."""
    grant = Grant(
        client, "flows", UUID(stack.contract["escos"][esco]["id"]), esco, ("read", "write")
    )
    return {"Authorization": f"Bearer {stack.issue(grant)}"}


def _of(stack: Stack, esco: str, table: str, column: str) -> list[str]:
    with stack.client(esco) as client:
        found = client.get(f"/rest/v1/{table}", params={"select": column, "order": column})
        return [row[column] for row in found.raise_for_status().json()]
