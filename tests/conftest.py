"""One real stack for the whole run: its own PostgreSQL, PostgREST and gateway, beside any demo."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import pytest

from app.auth.keys import load_keys
from app.auth.tokens import Grant, issue
from tests.demo_home import copy_demo_home

STOP_SECONDS = 60


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


def free_port() -> int:
    """A port that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(condition: Callable[[], Any], seconds: float = 30) -> Any:
    """Poll until the condition holds, and return what it gave."""
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


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say which engine the run was on."""
    binaries = os.environ.get("FLOWS_POSTGRES_BIN", "the embedded PostgreSQL")
    found = list((Path(binaries).parent / "lib").glob("timescaledb-*.so"))
    kept = "TimescaleDB" if found else "plain PostgreSQL (no TimescaleDB here)"
    terminalreporter.write_line(f"time series were kept by: {kept}")
