"""A closed-loop load generator: each connection sends its next request after each response."""

import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import cycle
from typing import Any
from urllib.parse import urlsplit

import httptools
import uvloop


@dataclass(frozen=True)
class Request:
    """The request that every connection repeats."""

    url: str
    headers: dict[str, str]
    method: str = "GET"
    body: str = ""
    content_type: str = "application/json"

    def raw(self) -> bytes:
        """Return the bytes of the request."""
        url = urlsplit(self.url)
        target = url.path or "/"
        if url.query:
            target += f"?{url.query}"
        headers = {"Host": url.netloc} | self.headers
        if self.body:
            headers |= {"Content-Type": self.content_type, "Content-Length": str(len(self.body))}
        lines = [f"{self.method} {target} HTTP/1.1", *(f"{k}: {v}" for k, v in headers.items())]
        return ("\r\n".join(lines) + "\r\n\r\n" + self.body).encode()


@dataclass(frozen=True)
class Result:
    """Requests per second, latencies in milliseconds, and number of responses by status."""

    rate: float
    latencies: list[float]
    statuses: dict[str, int]

    @property
    def p50(self) -> float:
        """The median latency in milliseconds."""
        return statistics.median(self.latencies)

    def require(self, *statuses: int) -> "Result":
        """Fail if there were other statuses than these: errors must not count as figures."""
        assert {int(status) for status in self.statuses} <= set(statuses), self.statuses
        return self


def start(
    *requests: Request, connections: int, seconds: float, pause: float = 0, niceness: int = 0
) -> subprocess.Popen[str]:
    """Start a run with `pause` seconds between a response and the next request; see `finish`.

    The connections take the requests in turn, from the first again after the last. With `niceness`
    the process lets others go first.
    """
    order = json.dumps(
        {
            "requests": [asdict(request) for request in requests],
            "connections": connections,
            "seconds": seconds,
            "pause": pause,
        }
    )
    process = subprocess.Popen(
        ["nice", "-n", str(niceness), sys.executable, "-m", "tests.bench.generator"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(order)
    process.stdin.close()
    return process


def finish(process: subprocess.Popen[str]) -> Result:
    """Wait for a run to end and return its result."""
    assert process.stdout is not None
    with process:
        result = json.loads(process.stdout.read())
    return Result(**result)


def measure(*requests: Request, connections: int, seconds: float, pause: float = 0) -> Result:
    """Start a run, wait for its end and return its result."""
    return finish(start(*requests, connections=connections, seconds=seconds, pause=pause))


def alternate(
    requests: Mapping[str, Request],
    *,
    connections: int,
    seconds: float,
    rounds: int = 5,
    pause: float = 0,
) -> dict[str, list[Result]]:
    """Measure requests in turn, several times, so that other load affects all alike."""
    results: dict[str, list[Result]] = {name: [] for name in requests}
    for _ in range(rounds):
        for name, request in requests.items():
            result = measure(request, connections=connections, seconds=seconds, pause=pause)
            results[name].append(result.require(200, 201, 304))
    return results


def warm_up(seconds: float) -> float:
    """Return the seconds for which requests are sent before a run of `seconds` is measured."""
    return min(0.5, seconds / 4)


class _Connection(asyncio.Protocol):
    def __init__(
        self,
        requests: Iterator[bytes],
        pause: float,
        latencies: list[float],
        statuses: dict[int, int],
    ) -> None:
        self._requests = requests
        self._pause = pause
        self._latencies = latencies
        self._statuses = statuses
        self.stopping = False
        self.closed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._ask()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        self._latencies.append(time.perf_counter() - self._started)
        status = self._parser.get_status_code()
        self._statuses[status] = self._statuses.get(status, 0) + 1
        if self.stopping:
            self._transport.close()
        elif self._pause:
            asyncio.get_running_loop().call_later(self._pause, self._ask)
        else:
            self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.stopping:
            self._statuses[0] = self._statuses.get(0, 0) + 1
        if not self.closed.done():
            self.closed.set_result(None)

    def _ask(self) -> None:
        if self._transport.is_closing():
            return
        self._parser = httptools.HttpResponseParser(self)
        self._started = time.perf_counter()
        self._transport.write(next(self._requests))


async def _measure(
    requests: list[Request], connections: int, seconds: float, pause: float
) -> Result:
    url = urlsplit(requests[0].url)
    loop = asyncio.get_running_loop()
    raw = cycle([request.raw() for request in requests])
    latencies: list[float] = []
    statuses: dict[int, int] = {}
    assert url.hostname
    assert url.port
    made = [
        await loop.create_connection(
            lambda: _Connection(raw, pause, latencies, statuses), url.hostname, url.port
        )
        for _ in range(connections)
    ]
    await asyncio.sleep(warm_up(seconds))  # of connections and caches
    latencies.clear()
    statuses.clear()
    started = time.perf_counter()
    await asyncio.sleep(seconds)
    elapsed = time.perf_counter() - started
    done = [latency * 1000 for latency in latencies]
    for _, protocol in made:
        protocol.stopping = True
    await asyncio.wait([protocol.closed for _, protocol in made], timeout=10)
    assert done, "nothing was answered"
    return Result(
        rate=len(done) / elapsed,
        latencies=done,
        statuses={str(status): count for status, count in statuses.items()},
    )


if __name__ == "__main__":
    order = json.load(sys.stdin)
    order["requests"] = [Request(**request) for request in order["requests"]]
    print(json.dumps(asdict(uvloop.run(_measure(**order)))))
