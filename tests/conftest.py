"""One real stack for the whole run: its own PostgreSQL, PostgREST and gateway, beside any demo."""

import fcntl
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from datetime import time as clock_time
from functools import cache
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import psutil
import psycopg
import pytest
from hypothesis import settings as examples

from app.auth.keys import load_keys
from app.auth.tokens import Grant, issue
from tests.demo_home import copy_demo_home

STOP_SECONDS = 60
PATIENCE_SECONDS = 120
MIDNIGHT = clock_time()
# A busy machine takes an example's time several times over: that is no finding.
examples.register_profile("tests", deadline=None)
examples.load_profile("tests")
STACK_FIXTURES = {"stack", "own", "parts", "kept", "large_stack", "fuzzed_stack", "strict"}


@dataclass(frozen=True)
class Stack:
    """A running stack: the contract of demo.json."""

    home: Path
    contract: dict[str, Any]
    process: subprocess.Popen[str]

    def client(self, esco: str | None, kind: str = "read") -> httpx.Client:
        """An HTTP client of the gateway with the ESCO's token, or with none."""
        token = self.contract["escos"][esco][f"{kind}_token"] if esco else None
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.Client(base_url=self.contract["base_url"], headers=headers, timeout=30)

    def midnight(self, days_ago: int, timezone: str = "Europe/London") -> datetime:
        """A midnight of that zone, counted back from the end of the demo's half-hours."""
        day = demo_end(self.contract["database_url"]).astimezone(ZoneInfo(timezone)).date()
        return datetime.combine(day - timedelta(days=days_ago), MIDNIGHT, ZoneInfo(timezone))

    def period(self, first: int, last: int, timezone: str = "Europe/London") -> dict[str, str]:
        """The parameters of /v1 for the days between two midnights, so many days ago."""
        bounds = self.midnight(first, timezone), self.midnight(last, timezone)
        return dict(zip(("period_from", "period_to"), map(datetime.isoformat, bounds), strict=True))


@cache
def demo_end(database_url: str) -> datetime:
    """The end of the demo's half-hours; tests add others in the far past or future only."""
    with psycopg.connect(database_url) as admin:
        ((last,),) = admin.execute(
            'select max("timestamp") from flows.register_interval_hh where "timestamp" <= now()'
        ).fetchall()
    end: datetime = last + timedelta(minutes=30)
    return end


def free_port() -> int:
    """A port that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(condition: Callable[[], Any], seconds: float = PATIENCE_SECONDS) -> Any:
    """Poll until the condition holds, and return what it gave.

    Give `seconds` where they are promised; the default only ends a test that would hang.
    """
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return found


def answers(url: str, *statuses: int) -> bool:
    """Whether anything (or one of `statuses`) is answered there."""
    try:
        status = httpx.get(url, timeout=5).status_code
    except httpx.HTTPError:
        return False
    return not statuses or status in statuses


@contextmanager
def running_stack(**settings: str) -> Iterator[Stack]:
    """Run `flows up --demo` on free ports in a folder of its own, with FLOWS_… `settings`.

    The folder begins as a copy of one where the demo is loaded.
    """
    assert "stack" in current_markers, "`make check` would run this: mark the test with `stack`"
    with tempfile.TemporaryDirectory(prefix="flows-test-", dir="/tmp") as folder:
        home = Path(folder) / "home"
        copy_demo_home(home)
        process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "up", "--demo", "--parent", str(os.getpid())],
            env=os.environ | {"FLOWS_HOME": str(home), "FLOWS_PORT": "0"} | settings,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        try:
            first = process.stdout.readline()
            assert first.startswith("ready http://"), f"the stack did not start: {first!r}"
            yield Stack(home, json.loads((home / "demo.json").read_text()), process)
        finally:
            process.terminate()
            process.communicate(timeout=STOP_SECONDS)


def process_of(pid: int, name: str, home: Path | None = None) -> psutil.Process:
    """The process below `pid` that does the work: guards have children, workers have none."""
    for process in psutil.Process(pid).children(recursive=True):
        # Backends of PostgreSQL come and go meanwhile.
        with suppress(psutil.NoSuchProcess):
            named = name in " ".join(process.cmdline()) and not process.children()
            if named and (home is None or process.environ().get("FLOWS_HOME") == str(home)):
                return process
    raise AssertionError(f"there is no {name}")


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """One stack for all tests; each leaves it as it found it."""
    with running_stack() as running:
        yield running


def flows(stack: Stack, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """A `flows` command as an operator of the stack types it."""
    done = subprocess.run(
        [sys.executable, "-m", "app.cli", *words],
        env=os.environ | {"FLOWS_HOME": str(stack.home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 or not check, done.stderr
    return done


@pytest.fixture(scope="session")
def engine(stack: Stack) -> str:
    """What keeps the time series: `timescale` or `postgres`."""
    name: str = stack.contract["engine"]
    return name


@pytest.fixture(scope="session")
def monitoring_token(stack: Stack) -> str:
    """A token of the role that reads every ESCO and /metrics."""
    grant = Grant("flc_monitoring", "grafanareader", None, None, ("read",))
    return issue(load_keys(stack.home / "keys")[-1], stack.contract["base_url"], grant)


@pytest.fixture
def admin(stack: Stack) -> Iterator[psycopg.Connection[Any]]:
    """A superuser's connection, rolled back at the end."""
    with psycopg.connect(stack.contract["database_url"]) as connection:
        yield connection
        connection.rollback()


# The markers of the test that runs; outside pytest, in the benchmark, any stack may start.
current_markers = {"stack"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a stack by its fixtures; tests that start one themselves say so."""
    for item in items:
        if STACK_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("stack")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Run a test beside those of other workers, or `quiet` ones alone."""
    current_markers.clear()
    current_markers.update(marker.name for marker in item.iter_markers())
    with machine(item.config.cache.mkdir("machine"), alone="quiet" in current_markers):
        return (yield)


@contextmanager
def machine(folder: Path, *, alone: bool) -> Iterator[None]:
    """Share the machine with other workers' tests, or have it alone; in the order of asking."""
    with (folder / "queue").open("w") as queue, (folder / "machine").open("w") as held:
        fcntl.flock(queue, fcntl.LOCK_EX)  # who waits for all others keeps newcomers waiting
        fcntl.flock(held, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(queue, fcntl.LOCK_UN)
        yield


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say which engine the run was on."""
    binaries = os.environ.get("FLOWS_POSTGRES_BIN", "the embedded PostgreSQL")
    found = list((Path(binaries).parent / "lib").glob("timescaledb-*.so"))
    kept = "TimescaleDB" if found else "plain PostgreSQL (no TimescaleDB here)"
    terminalreporter.write_line(f"time series were kept by: {kept}")
