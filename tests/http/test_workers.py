"""Workers of one gateway: they count together, are scraped together, and are replaced unnoticed."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
from limits import parse

from app.embedded.ports import free_port
from app.http import worker_window
from app.http.worker_window import WorkerCounts
from tests.conftest import Stack, answers, gateway_environment, wait_until

QUOTA = 40
SITES = "/rest/v1/escos?select=code"


@dataclass(frozen=True)
class Gateway:
    """A gateway of two workers."""

    url: str
    process: psutil.Process
    log: Path
    headers: dict[str, str]

    def workers(self) -> list[psutil.Process]:
        """Return the processes that answer."""
        return self.process.children()


@pytest.fixture(scope="module")
def gateway(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway on the shared stack, in which hmce may ask forty times an hour."""
    port, log = free_port(), tmp_path_factory.mktemp("workers") / "log"
    settings = {
        "FLOWS_PORT": str(port), "FLOWS_WORKERS": "2", "FLOWS_METRICS": "open",
        "FLOWS_LIMITS_CLIENT": f"{QUOTA}/hour", "FLOWS_LIMITS_REFUSAL_SECONDS": "0",
    }  # fmt: skip
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "serve"],
            env=gateway_environment(stack) | settings,
            stderr=output,
        )
    url = f"http://127.0.0.1:{port}"
    token = stack.contract["escos"]["hmce"]["read_token"]
    running = Gateway(url, psutil.Process(process.pid), log, {"Authorization": f"Bearer {token}"})
    try:
        wait_until(lambda: process.poll() is not None or answers(f"{url}/ready", 200))
        wait_until(lambda: process.poll() is not None or len(running.workers()) == 2)
        assert process.poll() is None, log.read_text()
        yield running
    finally:
        process.terminate()
        assert process.wait(30) == 0


def counted(gateway: Gateway, route: str) -> float:
    """Return how many requests to a route the metrics tell."""
    text = httpx.get(f"{gateway.url}/metrics").text
    found = re.findall(rf'^flows_requests_total{{.*route="{route}".*}} (\S+)', text, re.MULTILINE)
    return sum(map(float, found))


def ask_anew(gateway: Gateway, path: str) -> int:
    """Ask on a connection of its own, which either worker may accept; return the status."""
    return httpx.get(gateway.url + path, headers=gateway.headers, timeout=30).status_code


def test_a_quota_and_a_scrape_are_of_both_workers(gateway: Gateway) -> None:
    before = counted(gateway, "/rest/v1/{relation}")
    with ThreadPoolExecutor(8) as threads:
        statuses = list(threads.map(lambda _: ask_anew(gateway, SITES), range(QUOTA + 20)))
    # Two that are counted at the same moment may both pass.
    assert QUOTA <= statuses.count(200) <= QUOTA + 2
    assert set(statuses) == {200, 429}
    assert counted(gateway, "/rest/v1/{relation}") == before + QUOTA + 20
    text = httpx.get(f"{gateway.url}/metrics").text
    (memory,) = re.findall(r"^process_resident_memory_bytes (\S+)$", text, re.MULTILINE)
    assert float(memory) > max(worker.memory_info().rss for worker in gateway.workers())
    wait_until(lambda: "flows_database_connections_limit 20.0" in httpx.get(
        f"{gateway.url}/metrics").text)  # fmt: skip


def test_a_killed_worker_is_started_again(gateway: Gateway) -> None:
    killed = gateway.workers()[0]
    before = counted(gateway, "/live")
    killed.kill()
    wait_until(lambda: len(gateway.workers()) == 2 and killed not in gateway.workers())
    assert f"worker {killed.pid} ended with code -9" in gateway.log.read_text()
    assert ask_anew(gateway, "/live") == 200
    assert counted(gateway, "/live") == before + 1, "what the dead worker counted is lost"


def test_no_request_fails_while_the_workers_are_replaced(gateway: Gateway) -> None:
    replaced, done = gateway.workers(), threading.Event()

    def keep_asking(kept: bool) -> set[int]:
        statuses = set()
        with httpx.Client(base_url=gateway.url, timeout=30) as client:
            while not done.is_set():
                get = client.get if kept else httpx.get
                statuses.add(get("/live" if kept else f"{gateway.url}/live").status_code)
                time.sleep(0.005)
        return statuses

    with ThreadPoolExecutor(2) as threads:
        asking = [threads.submit(keep_asking, kept) for kept in (True, False)]
        try:
            gateway.process.send_signal(signal.SIGHUP)
            wait_until(lambda: not set(replaced) & set(gateway.workers()))
        finally:
            done.set()
    assert [found.result() for found in asking] == [{200}, {200}]
    assert len(gateway.workers()) == 2


def test_counts_of_a_window_are_those_of_all_workers_and_end_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moment = 1_000_000.0
    monkeypatch.setattr("app.http.worker_window.time.time", lambda: moment)
    shared = WorkerCounts.share(3)
    windows = [shared.of(place).window(parse("4/second"), "client") for place in range(3)]

    async def passes(place: int, who: str = "one") -> bool:
        return (await windows[place].hit(who)).allowed

    async def run() -> None:
        nonlocal moment
        assert [await passes(place) for place in (0, 1, 2, 2, 1, 0)] == [True] * 4 + [False] * 2
        assert await passes(0, "another")
        moment += 1.5  # half of the window before still counts
        assert [await passes(place) for place in (2, 1, 0)] == [True, True, False]
        moment += 2
        assert [await passes(0) for _ in range(5)] == [True] * 4 + [False]

    asyncio.run(run())


def test_more_identities_than_have_room_are_still_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_window, "MOST_PROBES", 0)
    window = WorkerCounts.share(1).window(parse("2/hour"), "esco")

    async def run() -> list[bool]:
        return [(await window.hit("one")).allowed for _ in range(3)]

    assert asyncio.run(run()) == [True, True, False]


def test_a_gateway_that_cannot_start_ends_at_once(stack: Stack, tmp_path: Path) -> None:
    taken = free_port()
    environment = gateway_environment(stack) | {"FLOWS_PORT": str(taken), "FLOWS_WORKERS": "2"}
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "signing-1.pem").write_text("none")
    (keys / "signing-1.pem").chmod(0o600)
    done = subprocess.run(
        [sys.executable, "-m", "app.cli", "serve"],
        env=environment | {"FLOWS_KEYS_FOLDER": str(keys)},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert "signing-1.pem cannot be read" in done.stderr


@pytest.mark.parametrize("accept", [True, False], ids=["accepting", "starting"])
def test_workers_end_with_a_supervisor_that_is_killed(stack: Stack, accept: bool) -> None:
    port = free_port()
    environment = gateway_environment(stack) | {"FLOWS_PORT": str(port), "FLOWS_WORKERS": "2"}
    process = subprocess.Popen(
        [sys.executable, "-m", "app.cli", "serve"], env=environment, stderr=subprocess.PIPE
    )
    supervisor = psutil.Process(process.pid)
    try:
        if accept:
            wait_until(lambda: answers(f"http://127.0.0.1:{port}/live", 200))
        else:
            wait_until(lambda: len(supervisor.children()) == 2)
        workers = supervisor.children()
    finally:
        process.kill()
    assert workers
    _, alive = psutil.wait_procs(workers, timeout=60)
    for worker in alive:
        os.kill(worker.pid, signal.SIGKILL)
    assert not alive
    _, log = process.communicate()
    assert b"Traceback" not in log
