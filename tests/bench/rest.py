"""`/rest/v1` compared with direct PostgREST, and with nginx where it is installed.

Rates and times need a machine without other work. The processor time that the gateway's process
takes for a request does not, as far as others leave its caches alone.
"""

import json
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from app.embedded.ports import free_port
from app.http.compression import ENCODERS
from tests.bench import generator
from tests.bench.generator import Request, Result
from tests.bench.report import Report
from tests.conftest import Stack, answers, process_of, wait_until

SECONDS = 2.0
# Least rates with sixteen connections, of PostgREST's own.
LEAST = {"small read": 0.8, "1,000 rows": 0.95, "insert": 0.8}
NGINX = """
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log {folder}/access.log;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  upstream postgrest {{ server {upstream}; keepalive 32; keepalive_requests 10000000; }}
  server {{
    listen 127.0.0.1:{port}; keepalive_requests 10000000;
    location /rest/v1/ {{
      proxy_pass http://postgrest/; proxy_http_version 1.1; proxy_set_header Connection "";
    }}
  }}
}}
"""


def run(stack: Stack, report: Report) -> None:
    """Measure small reads, reads of 1,000 rows and inserts, with one and sixteen connections."""
    esco = stack.contract["escos"]["wlce"]
    read = {"Authorization": f"Bearer {esco['read_token']}"}
    write = {"Authorization": f"Bearer {esco['write_token']}", "Prefer": "return=minimal"}
    row = json.dumps({"esco": esco["id"], "name": "bench"})
    with _nginx(stack.contract["postgrest_url"]) as nginx:
        doors = {"direct": stack.contract["postgrest_url"], "gateway": stack.contract["rest_url"]}
        doors |= {"nginx": nginx} if nginx else {}
        kinds: dict[str, Callable[[str], Request]] = {
            "small read": lambda url: Request(f"{url}/meter_registry?select=serial&limit=3", read),
            "1,000 rows": lambda url: Request(f"{url}/register_interval_hh?limit=1000", read),
            "insert": lambda url: Request(f"{url}/sites_new", write, "POST", row),
        }
        for connections in (1, 16):
            for kind, build in kinds.items():
                requests = {door: build(url) for door, url in doors.items()}
                measured = generator.alternate(requests, connections=connections, seconds=SECONDS)
                least = LEAST[kind] if connections > 1 else None
                _compare(report, f"{kind}, {connections}", measured, least)
        for kind, build in kinds.items():
            _processor_time(stack, report, kind, build(stack.contract["rest_url"]))
    _compress(stack, report, read)
    _document(stack, report, read)
    with stack.client("wlce", "write") as client:
        client.delete("/rest/v1/sites_new", params={"name": "eq.bench"}).raise_for_status()


def _processor_time(stack: Stack, report: Report, kind: str, request: Request) -> None:
    """Measure the processor time of the gateway's process for a request."""
    gateway = process_of(stack.process.pid, "app.cli serve")
    costs = []
    for _ in range(5):
        before = gateway.cpu_times()
        result = generator.measure(request, connections=16, seconds=SECONDS).require(200, 201)
        after = gateway.cpu_times()
        spent = after.user + after.system - before.user - before.system
        costs.append(spent / (result.rate * (SECONDS + generator.warm_up(SECONDS))) * 1e6)
    report.figure(f"{kind}, 16: the gateway's processor time", statistics.median(costs), "µs")


def _document(stack: Stack, report: Report, read: dict[str, str]) -> None:
    """Measure the document from the cache, as a browser takes it."""
    url = f"{stack.contract['base_url']}/openapi.json"
    request = Request(url, read | {"Accept-Encoding": "gzip, br, zstd"})
    results = generator.alternate({"document": request}, connections=1, seconds=SECONDS)
    latency = statistics.median(result.p50 for result in results["document"])
    report.figure("the document from the cache", latency, "ms", limit="<= 5")


def _compress(stack: Stack, report: Report, read: dict[str, str]) -> None:
    """Measure reads of 1,000 rows in each coding, against the read and the compression alone."""
    url = f"{stack.contract['rest_url']}/register_interval_hh?limit=1000"
    body = httpx.get(url, headers=read | {"Accept-Encoding": "identity"}).content
    requests = {"plain": Request(url, read)}
    requests |= {coding: Request(url, read | {"Accept-Encoding": coding}) for coding in ENCODERS}
    results = generator.alternate(requests, connections=16, seconds=SECONDS)
    for coding, encoder in ENCODERS.items():
        costs = []
        for _ in range(50):
            started = time.perf_counter()
            size = len(encoder().finish(body))
            costs.append(time.perf_counter() - started)
        ratios = [
            packed.rate * (1 / plain.rate + statistics.median(costs))
            for packed, plain in zip(results[coding], results["plain"], strict=True)
        ]
        name = f"1,000 rows, 16, {coding}"
        report.figure(f"{name}: size / plain", size / len(body), "×")
        report.figure(
            f"{name}: rate / that of reading and compressing alone",
            statistics.median(ratios),
            "×",
            limit=">= 0.7",
        )


def _compare(
    report: Report, name: str, results: dict[str, list[Result]], least: float | None
) -> None:
    """Report the gateway beside PostgREST; its rate is at least so much of that, if it is said."""
    direct = results.pop("direct")
    report.figure(f"{name}: direct", statistics.median(r.rate for r in direct), "req/s")
    for door, measured in results.items():
        pairs = list(zip(measured, direct, strict=True))
        one = name.endswith(", 1")
        ours = door == "gateway"
        report.figure(
            f"{name}: {door} adds to the median",
            statistics.median(r.p50 - d.p50 for r, d in pairs),
            "ms",
            limit="<= 0.4" if one and ours else None,
        )
        report.figure(
            f"{name}: {door} / direct",
            statistics.median(r.rate / d.rate for r, d in pairs),
            "×",
            limit=f">= {least}" if least and ours else None,
        )


@contextmanager
def _nginx(upstream: str) -> Iterator[str | None]:
    """Run nginx as a plain reverse proxy for PostgREST; yield its URL, None if not installed."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/bin")
    if program is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="flows-nginx-") as folder:
        Path(folder).chmod(0o755)
        port = free_port()
        config = Path(folder) / "nginx.conf"
        config.write_text(
            NGINX.format(folder=folder, port=port, upstream=upstream.removeprefix("http://"))
        )
        process = subprocess.Popen([program, "-c", str(config), "-e", f"{folder}/error.log"])
        try:
            wait_until(lambda: answers(f"http://127.0.0.1:{port}/rest/v1/"))
            yield f"http://127.0.0.1:{port}/rest/v1"
        finally:
            process.terminate()
            process.wait()
