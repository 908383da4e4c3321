"""Fixtures: one real stack for the whole run, independent of any running demo."""

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
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
from app.embedded.ports import free_port
from app.embedded.postgrest import VERSION, find_postgrest
from tests.commands import PARENT, Command, command, run_command
from tests.demo_home import copy_demo_home
from tests.sixteen import sixteen

STOP_SECONDS = 60
# Hardly any test needs the demo's OpenID provider.
STACK_SETTINGS = {"FLOWS_PORT": "0", "FLOWS_DEMO_IDENTITY": "off"}
PATIENCE_SECONDS = 120
NPM_TOOLS = (
    "@redocly/cli@2.77.0", "@stoplight/spectral-cli@6.16.3", "@apidevtools/swagger-parser@13.0.0",
    "openapi-typescript@7.13.0", "@hey-api/openapi-ts@0.95.0", "orval@7.13.2", "typescript@5.9.3",
    "openid-client@6.9.0",
)  # fmt: skip
INSTALL_SECONDS = 240
MIDNIGHT = clock_time()
# A busy machine takes an example's time several times over: that is no finding.
examples.register_profile("tests", deadline=None)
examples.load_profile("tests")
# Each client of httpx loads the certificate authorities, which takes 25 ms: load them once.
TRANSPORTS = httpx.HTTPTransport.__init__.__globals__
TRANSPORTS["create_ssl_context"] = cache(TRANSPORTS["create_ssl_context"])
# Files that take longest are begun first, so that no worker is left with one at the end. While
# the first loads the demo for all, the others run the files without a stack.
LONGEST_FILES = (
    "backup/test_backup.py", "deploy/test_services.py", "openapi/test_pages.py",
    "sql/test_upgrade.py",
    "auth/test_rotation.py", "sql/test_copy.py", "postgrest/test_faults.py",
    "openapi/test_document.py", "energy/test_properties.py",
    "auth/test_people.py", "docs/test_examples.py", "doctor/test_prove.py", "test_stack.py",
    "auth/test_attacks.py", "imports/test_importer.py", "openapi/test_generators.py",
    "openapi/test_fuzz.py", "postgrest/test_streaming.py", "ingest/test_import.py",
    "backup/test_servers.py", "test_database_urls.py", "sql/test_owner.py",
    "sql/test_tables.py", "sql/test_aggregates.py", "sql/test_concurrency.py",
)  # fmt: skip
# Short files with `quiet` tests come last, when such a test has little to wait for.
QUIET_FILES = (
    "http/test_shares.py", "auth/test_secrets.py", "http/test_door.py", "auth/test_tokens.py",
)  # fmt: skip
STACK_FIXTURES = {
    "stack", "stack_of_16", "either", "own", "parts", "kept", "large_stack", "fuzzed_stack",
    "strict", "generated",
}  # fmt: skip


@dataclass(frozen=True)
class Stack:
    """A running stack; `contract` is the content of its demo.json."""

    home: Path
    contract: dict[str, Any]
    process: Command
    program: Path  # of its PostgREST
    issuer: str  # of its tokens, which other gateways on its database share

    @property
    def postgrest(self) -> tuple[int, ...]:
        """The version of its PostgREST, such as (12, 0, 2)."""
        return postgrest_version(str(self.program))

    def client(self, esco: str | None, kind: str = "read") -> httpx.Client:
        """Return an HTTP client of the gateway with a token of the ESCO, or without a token."""
        token = self.contract["escos"][esco][f"{kind}_token"] if esco else None
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.Client(base_url=self.contract["base_url"], headers=headers, timeout=30)

    def issue(self, grant: Grant) -> str:
        """Return a token."""
        return issue(load_keys(self.home / "keys")[-1], self.issuer, grant)

    def midnight(self, days_ago: int, timezone: str = "Europe/London") -> datetime:
        """Return a midnight of the zone, counted back from the end of the demo's half-hours."""
        day = demo_end(self.contract["database_url"]).astimezone(ZoneInfo(timezone)).date()
        return datetime.combine(day - timedelta(days=days_ago), MIDNIGHT, ZoneInfo(timezone))

    def period(self, first: int, last: int, timezone: str = "Europe/London") -> dict[str, str]:
        """Return the parameters of /v1 for a period between two midnights, given in days ago."""
        bounds = self.midnight(first, timezone), self.midnight(last, timezone)
        return dict(zip(("period_from", "period_to"), map(datetime.isoformat, bounds), strict=True))


@cache
def demo_end(database_url: str) -> datetime:
    """Return the end of the demo's half-hours; tests add others only far in past or future."""
    with psycopg.connect(database_url) as admin:
        ((last,),) = admin.execute(
            'select max("timestamp") from flows.register_interval_hh where "timestamp" <= now()'
        ).fetchall()
    end: datetime = last + timedelta(minutes=30)
    return end


def wait_until(condition: Callable[[], Any], seconds: float = PATIENCE_SECONDS) -> Any:
    """Poll until the condition is true; return its value.

    Give `seconds` if they are promised; the default only ends a test that would hang.
    """
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return found


def answers(url: str, *statuses: int) -> bool:
    """Return whether a URL answers, with one of `statuses` if given."""
    try:
        status = httpx.get(url, timeout=5).status_code
    except httpx.HTTPError:
        return False
    return not statuses or status in statuses


@contextmanager
def running_stack(**settings: str) -> Iterator[Stack]:
    """Run `flows up --demo` on free ports in a new folder, with FLOWS_… `settings`.

    The folder is a copy of one in which the demo is loaded already.
    """
    with tempfile.TemporaryDirectory(prefix="flows-test-", dir="/tmp") as folder:
        home = Path(folder) / "home"
        copy_demo_home(home)
        with stack_in(home, **settings) as stack:
            yield stack


@contextmanager
def stack_in(home: Path, **settings: str) -> Iterator[Stack]:
    """Run `flows up --demo` on free ports in a folder with its state, with FLOWS_… `settings`."""
    assert "stack" in current_markers, "`make check` would run this: mark the test with `stack`"
    env = os.environ | STACK_SETTINGS | {"FLOWS_HOME": str(home)} | settings
    with command(("up", "--demo", "--parent", PARENT), env) as process:
        try:
            wait_until(lambda: "\n" in process.output or process.poll() is not None)
            told = process.output + process.errors
            assert told.startswith("ready http://"), f"the stack did not start: {told}"
            program = Path(settings.get("FLOWS_POSTGREST_BIN") or find_postgrest(home))
            contract = json.loads((home / "demo.json").read_text())
            yield Stack(home, contract, process, program, issuer=contract["base_url"])
        except Exception as error:
            error.add_note(f"the stack's exit code is {process.poll()}: {process.errors}")
            raise
        finally:
            process.terminate()
            process.wait(STOP_SECONDS)


def gateway_environment(stack: Stack) -> dict[str, str]:
    """Return the environment of the stack's gateway."""
    found: dict[str, str] = process_of(stack.process.pid, "app.cli serve").environ()
    return found


@contextmanager
def another_gateway(stack: Stack, **settings: str) -> Iterator[Stack]:
    """Run another gateway on the stack's database and PostgREST, with FLOWS_… `settings`.

    The yielded stack has the URLs and the process of this gateway.
    """
    port = free_port()
    base_url = f"http://127.0.0.1:{port}"
    environment = gateway_environment(stack) | {"FLOWS_PORT": str(port)} | settings
    with command(("serve",), environment) as process:
        wait_until(lambda: answers(f"{base_url}/ready", 200) or process.poll() is not None)
        assert process.poll() is None, process.errors
        urls = {"base_url": base_url, "rest_url": f"{base_url}/rest/v1"}
        yield replace(stack, contract=stack.contract | urls, process=process)


def process_of(pid: int, name: str, home: Path | None = None) -> psutil.Process:
    """Return the working process below `pid`, not its guard, whose child it is."""
    for process in psutil.Process(pid).children(recursive=True):
        # Backends of PostgreSQL may end meanwhile.
        with suppress(psutil.NoSuchProcess):
            words = process.cmdline()
            if (
                name in " ".join(words)
                and "app.embedded.guard" not in words
                and (home is None or process.environ().get("FLOWS_HOME") == str(home))
            ):
                return process
    raise AssertionError(f"there is no {name}")


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """The stack shared by all tests; each test leaves it as it was."""
    with running_stack() as running:
        yield running


@pytest.fixture(scope="session")
def stack_of_16(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack in front of whose PostgREST a double speaks as 16."""
    if "FLOWS_POSTGREST_BIN" in os.environ:
        pytest.skip("the whole run is on the PostgREST of FLOWS_POSTGREST_BIN")
    program = sixteen(tmp_path_factory.mktemp("sixteen"), find_postgrest(stack.home))
    with running_stack(FLOWS_POSTGREST_BIN=str(program)) as running:
        yield running


@pytest.fixture(params=["stack", "stack_of_16"])
def either(request: pytest.FixtureRequest) -> Stack:
    """The shared stack, and the one whose PostgREST speaks as 16."""
    chosen: Stack = request.getfixturevalue(request.param)
    return chosen


@cache
def postgrest_version(program: str) -> tuple[int, ...]:
    """Return the version of a PostgREST program, such as (12, 0, 2)."""
    told = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    found = re.search(r"[0-9]+(\.[0-9]+)+", told.stdout + told.stderr)
    assert found, told
    return tuple(int(part) for part in found[0].split("."))


def flows(stack: Stack, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a `flows` command on the stack."""
    done = run_command(words, os.environ | {"FLOWS_HOME": str(stack.home)})
    assert done.returncode == 0 or not check, done.stderr
    return done


@pytest.fixture(scope="session")
def engine(stack: Stack) -> str:
    """The engine that stores the time series: `timescale` or `postgres`."""
    name: str = stack.contract["engine"]
    return name


@pytest.fixture(scope="session")
def monitoring_token(stack: Stack) -> str:
    """A token of the role that reads every ESCO and /metrics."""
    grant = Grant("flc_monitoring", "grafanareader", None, None, ("read",))
    return stack.issue(grant)


@pytest.fixture(scope="session")
def npm_tools(pytestconfig: pytest.Config) -> Path:
    """A folder with the pinned npm tools in `node_modules/.bin`; skips without npm.

    It is installed once for all workers and later runs.
    """
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    digest = hashlib.sha256(" ".join(NPM_TOOLS).encode()).hexdigest()
    folder = pytestconfig.cache.mkdir("npm") / digest[:16]
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.is_dir():
            return folder
        partial = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        done = subprocess.run(
            [npm, "install", "--no-audit", "--no-fund", "--prefix", str(partial), *NPM_TOOLS],
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
            check=False,
        )
        if done.returncode:
            pytest.skip(f"npm cannot install the tools: {done.stderr.strip().splitlines()[-1]}")
        partial.rename(folder)
    return folder


@pytest.fixture
def admin(stack: Stack) -> Iterator[psycopg.Connection[Any]]:
    """A superuser's connection that is rolled back at the end."""
    with psycopg.connect(stack.contract["database_url"]) as connection:
        yield connection
        connection.rollback()


# The markers of the running test; outside pytest, in benchmarks, any stack may start.
current_markers = {"stack"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark tests with fixtures that need a stack; tests that start one are marked themselves.

    Workers take the files in the order that ends soonest.
    """
    with_stack = set()
    for item in items:
        if STACK_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("stack")
        if item.get_closest_marker("stack"):
            with_stack.add(item.path)
    if not hasattr(config, "workerinput"):
        return
    tests = Path(__file__).parent

    def rank(item: pytest.Item) -> tuple[int, int]:
        name = item.path.relative_to(tests).as_posix()
        if name in QUIET_FILES:
            return 4, QUIET_FILES.index(name)
        if name in LONGEST_FILES:
            place = LONGEST_FILES.index(name)
            return (2 if place else 0), place
        return (3 if item.path in with_stack else 1), 0

    items.sort(key=rank)  # stable: the tests of a file stay in their order


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Run a test in parallel with those of other workers, but `quiet` tests alone."""
    current_markers.clear()
    current_markers.update(marker.name for marker in item.iter_markers())
    with machine(item.config.cache.mkdir("machine"), alone="quiet" in current_markers):
        return (yield)


@contextmanager
def machine(folder: Path, *, alone: bool) -> Iterator[None]:
    """Share the machine with other workers' tests, or use it alone; first come, first served."""
    with (folder / "queue").open("w") as queue, (folder / "machine").open("w") as held:
        fcntl.flock(queue, fcntl.LOCK_EX)  # a test that waits for all others blocks newcomers
        fcntl.flock(held, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(queue, fcntl.LOCK_UN)
        yield


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the engine and the PostgREST of the run."""
    binaries = os.environ.get("FLOWS_POSTGRES_BIN", "the embedded PostgreSQL")
    found = list((Path(binaries).parent / "lib").glob("timescaledb-*.so"))
    kept = "TimescaleDB" if found else "plain PostgreSQL (no TimescaleDB here)"
    terminalreporter.write_line(f"time series were kept by: {kept}")
    program = os.environ.get("FLOWS_POSTGREST_BIN") or shutil.which("postgrest")
    version = (
        ".".join(map(str, postgrest_version(program))) if program else VERSION.partition("-")[0]
    )
    terminalreporter.write_line(f"tables were served by: PostgREST {version}")
