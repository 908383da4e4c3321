"""Requests to a deployment through Caddy, counted by their answers."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

from tests.deploy.deployment import Deployment

PERIOD = "period_from=2026-01-01T00:00Z&period_to=2026-01-02T00:00Z"
READS = ("/rest/v1/escos?select=code", f"/v1/energy?group_by=esco&{PERIOD}")
PAUSE_SECONDS = 0.03  # between requests, for less than a client's share


@dataclass
class Load:
    """The answers of requests: a status, or the name of an error of the connection."""

    reads: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    writes: Counter[str] = field(default_factory=Counter)
    acknowledged: list[str] = field(default_factory=list)
    versions: set[int] = field(default_factory=set)  # of the gateways that say they are ready
    longest: float = 0.0  # seconds without a good read

    @property
    def failed(self) -> Counter[str]:
        """The number of requests that were not answered as they should, by what they got."""
        every = self.reads + self.tokens + self.writes
        return Counter({got: number for got, number in every.items() if got not in ("200", "201")})


@contextmanager
def load(running: Deployment, name: str) -> Iterator[Load]:
    """Read, write sites of this name and take tokens continuously; yield the counts so far."""
    counts, done = Load(), threading.Event()
    headers = running.headers()
    with running.client() as client:
        (esco,) = client.get("/rest/v1/escos?select=id", headers=headers).json()

    def until_done(step: Callable[[httpx.Client], None]) -> None:
        while not done.is_set():
            with running.client() as client:
                client.headers.update(headers)
                client.timeout = httpx.Timeout(10)
                try:
                    while not done.is_set():
                        step(client)
                except httpx.TransportError:
                    time.sleep(0.05)  # a closed door would be knocked at a thousand times a second

    def outcome(counter: Counter[str], send: Callable[[], httpx.Response]) -> httpx.Response:
        try:
            answer = send()
        except httpx.TransportError as error:
            counter[type(error).__name__] += 1
            raise
        counter[str(answer.status_code)] += 1
        return answer

    good = time.monotonic()

    def read(client: httpx.Client) -> None:
        nonlocal good
        for path in READS:
            answer = outcome(counts.reads, lambda: client.get(path))  # noqa: B023
            if answer.status_code == 200:
                now = time.monotonic()
                counts.longest, good = max(counts.longest, now - good), now
        # A gateway that drains says so here and serves all the rest.
        ready = client.get("/ready")
        if ready.status_code == 200:
            counts.versions.add(ready.json()["components"]["schema"]["gateway"])
        done.wait(PAUSE_SECONDS)

    def write(client: httpx.Client) -> None:
        code = f"{name}-{sum(counts.writes.values())}"
        row = {"esco": esco["id"], "name": name, "code": code}
        answer = outcome(counts.writes, lambda: client.post("/rest/v1/sites_new", json=row))
        if answer.status_code == 201:
            counts.acknowledged.append(code)
        done.wait(PAUSE_SECONDS)

    def take_token(client: httpx.Client) -> None:
        form = {"grant_type": "client_credentials"}
        outcome(counts.tokens, lambda: client.post("/auth/token", data=form,
                                                   auth=running.credentials))  # fmt: skip
        done.wait(0.2)

    threads = [
        threading.Thread(target=until_done, args=(step,)) for step in (read, write, take_token)
    ]
    for thread in threads:
        thread.start()
    try:
        yield counts
    finally:
        done.set()
        for thread in threads:
            thread.join()
        counts.longest = max(counts.longest, time.monotonic() - good)


def lost(running: Deployment, name: str, counts: Load) -> set[str]:
    """Return the codes of the sites of this name that were acknowledged and are not there."""
    with running.admin() as admin:
        found = admin.execute("select code from flows.sites_new where name = %s", (name,))
        return set(counts.acknowledged) - {code for (code,) in found}
