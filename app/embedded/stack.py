"""The whole stack on one machine: starts its parts in order, watches and stops them in reverse."""

import fcntl
import json
import os
import secrets
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import httpx
import psycopg

from app.auth.keyring import publish_keys
from app.auth.keys import load_keys
from app.db.maintain import maintain
from app.db.migrate import migrate
from app.embedded.demo_clients import load_and_follow, make_clients, read_contract
from app.embedded.demo_people import CLIENT_ID, SERVER_CLIENT_ID, prepare_app, register_people
from app.embedded.identity_provider import (
    DEVELOPMENT_ORIGINS,
    IdentityProvider,
    gateway_variables,
)
from app.embedded.ports import free_port
from app.embedded.postgres import EmbeddedPostgres
from app.embedded.postgrest import Postgrest, find_postgrest
from app.embedded.process import Child, StackError
from app.embedded.programs import binaries
from app.embedded.progress import rows, step
from app.settings import PostgrestSettings, Settings

UPKEEP_SECONDS = 3600.0
UPKEEP_AGAIN_SECONDS = 60.0
DATABASE_URL_FILE = "FLOWS_DATABASE_URL_FILE"  # names another database than the stack's
# The few callers on one machine measure and test, where the limits for production would interfere.
WIDE_LIMITS = {
    "FLOWS_LIMITS_CLIENT": "10000/second",
    "FLOWS_LIMITS_ESCO": "10000/second",
    "FLOWS_LIMITS_SUSTAINED": "10000",  # as many as FLOWS_LIMITS_CONCURRENT
}


def hold(home: Path) -> TextIO:
    """Create FLOWS_HOME if missing and lock it; StackError if it is in use.

    The lock lasts until the returned file is closed.
    """
    try:
        (home / "logs").mkdir(parents=True, exist_ok=True)
        (home / "lock").touch()
    except OSError as error:
        raise StackError(
            f"cannot write to {home} ({error.strerror}): set FLOWS_HOME to a writable folder"
        ) from None
    lock = (home / "lock").open("r+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StackError(
            f"a stack is already running in {home}: stop it, or set FLOWS_HOME and FLOWS_PORT to "
            "run a second one"
        ) from None
    return lock


class Stack:
    """PostgreSQL, PostgREST and the gateway, with their state in one folder."""

    def __init__(self, home: Path, *, host: str, port: int, archive: Path | None = None) -> None:
        self.home = home.absolute()
        self.host = host
        self._lock = hold(self.home)
        self.port = self._check_port(port) if port else free_port()
        self.base_url = f"http://{host}:{self.port}"
        self.database = EmbeddedPostgres(self.home, archive)
        self.engine = ""
        self._postgrest: Postgrest | None = None
        self._gateway: Child | None = None
        self._identity: IdentityProvider | None = None

    def start(self, *, demo: bool, settings: Settings) -> dict[str, Any]:
        """Start everything; return the content of `demo.json`.

        It has `escos` with the demo, and `identity` if people can sign in as well.
        """
        # Before PostgreSQL is started, so that a missing program is known at once.
        binaries()
        executable = find_postgrest(self.home)
        if demo and settings.demo_identity == "on":
            self._identity = self._start_identity()
        with step("starting PostgreSQL"):
            self.database.start()
        passwords = self._passwords()
        gateway_url = self.database.url("flows_gateway", passwords["flows_gateway"])
        postgrest_url = self.database.url("authenticator", passwords["authenticator"])
        with step("applying migrations"):
            self.engine = migrate(
                self.database.admin_url,
                logins=(gateway_url, postgrest_url),
                schemas=PostgrestSettings().schemas,
            )
            publish_keys(self.database.admin_url, load_keys(self.home / "keys"))
        self._postgrest = Postgrest(
            executable,
            self.home,
            database_url=postgrest_url,
            port=free_port(),
            public_url=f"{self.base_url}/rest/v1",
        )
        people: dict[str, Any] = {}
        variables: dict[str, str] = {}
        if self._identity:
            people, variables = self._prepare_people(self._identity, settings)
        # Both start while the demo's data is loaded.
        self._gateway = self._start_gateway(gateway_url, variables)
        self._postgrest.start()
        escos = self._load_demo() if demo else {}
        with step("starting PostgREST"):
            self._postgrest.wait()
        # One client for all polls, because each takes as long to create as many requests.
        with httpx.Client(base_url=self.base_url, timeout=5) as client:
            with step(f"starting the gateway on {self.base_url}"):
                self._gateway.wait_until(lambda: _answers(client, "/live"), seconds=30)
            with step("waiting until requests can be served"):
                self._gateway.wait_until(lambda: _answers(client, "/ready"), seconds=30)
        contract: dict[str, Any] = {
            "base_url": self.base_url,
            "rest_url": f"{self.base_url}/rest/v1",
            "postgrest_url": self._postgrest.url,
            "database_url": self.database.admin_url,
            "engine": self.engine,
        }
        if demo:
            contract["escos"] = escos
            if self._identity and self._identity.wait():
                contract["identity"] = people | register_people(
                    self.database.admin_url, self._identity.url
                )
            elif self._identity:
                _say(f"  nobody can sign in: {self._identity.fault}")
            written = self.home / "demo.json"
            partial = self.home / "demo.json.partial"
            partial.touch(mode=0o600)
            partial.write_text(json.dumps(contract, indent=2) + "\n")
            partial.replace(written)
        return contract

    def run(self) -> None:
        """Run until a signal arrives: restart PostgREST if it stops, and run the upkeep."""
        stopping = False

        def stop(*_: object) -> None:
            nonlocal stopping
            stopping = True

        for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(name, stop)
        upkeep_at = 0.0
        while not stopping:
            time.sleep(0.2)
            if time.monotonic() >= upkeep_at:
                upkeep_at = time.monotonic() + self._upkeep()
            if not self.database.running:
                raise StackError(f"PostgreSQL stopped (log: {self.database.log})")
            if self._gateway and not self._gateway.running:
                words, log = self._gateway.last_words(), self._gateway.log
                raise StackError(f"the gateway stopped: {words} (log: {log})")
            if self._postgrest and not self._postgrest.running:
                self._postgrest.start()
                self._postgrest.wait()

    def _upkeep(self) -> float:
        """Run the upkeep; return the seconds until the next, which is soon if it failed.

        A migration that runs meanwhile may end it, which must not end the stack.
        """
        try:
            maintain(self.database.admin_url)
        except psycopg.Error as error:
            _say(f"  the upkeep failed and is tried again in a minute: {str(error).strip()}")
            return UPKEEP_AGAIN_SECONDS
        return UPKEEP_SECONDS

    def stop(self) -> None:
        """Stop the running parts in reverse order, saying on standard error what is waited for."""
        parts = (
            ("the gateway, which finishes running requests", self._gateway),
            ("the identity provider", self._identity),
            ("PostgREST", self._postgrest),
            ("PostgreSQL, which writes a checkpoint", self.database),
        )
        for name, part in parts:
            if part is None:
                continue
            started, shown = time.monotonic(), part.running
            if shown:
                _say(f"  stopping {name} …", end="")
            part.stop()
            if shown:
                _say(f" {time.monotonic() - started:.1f} s")
        self._lock.close()

    def _check_port(self, port: int) -> int:
        deadline = (
            time.monotonic() + 5
        )  # the gateway of a stack that was just killed may still hold the port
        while True:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((self.host, port))
                except OSError as error:
                    if time.monotonic() > deadline:
                        raise StackError(
                            f"port {port} is taken ({error.strerror}): set FLOWS_PORT to another "
                            "port, or to 0 for any free one"
                        ) from None
                else:
                    return port
            time.sleep(0.2)

    def _passwords(self) -> dict[str, str]:
        """Return the login roles' passwords, generated once and readable only by the owner."""
        file = self.home / "passwords.json"
        if not file.exists():
            partial = file.with_suffix(".partial")
            partial.touch(mode=0o600)
            roles = ("flows_gateway", "authenticator")
            partial.write_text(json.dumps({role: secrets.token_urlsafe(24) for role in roles}))
            partial.replace(file)
        passwords: dict[str, str] = json.loads(file.read_text())
        return passwords

    def _load_demo(self) -> dict[str, Any]:
        with rows("loading demo data", "half-hours") as progress:
            load_and_follow(self.database.admin_url, progress)
        with step("creating clients and tokens"):
            return make_clients(self.database.admin_url, self.home, self.base_url)

    def _start_identity(self) -> IdentityProvider:
        earlier = read_contract(self.home).get("identity", {})
        provider = IdentityProvider(
            self.home,
            earlier=earlier.get("issuer"),
            server_secret=earlier.get("server_client_secret") or secrets.token_urlsafe(32),
        )
        provider.start()
        return provider

    def _prepare_people(
        self, provider: IdentityProvider, settings: Settings
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """Register the demo's app; return what demo.json says, and the gateway's variables."""
        origins = settings.cors_origins or DEVELOPMENT_ORIGINS
        app = prepare_app(self.database.admin_url, [self.base_url, *origins])
        told = {
            "issuer": provider.url,
            "client_id": CLIENT_ID,
            "app": app,
            "server_client_id": SERVER_CLIENT_ID,
            "server_client_secret": provider.server_secret,
        }
        return told, gateway_variables(settings, provider.url, app, origins)

    def _start_gateway(self, gateway_url: str, variables: dict[str, str]) -> Child:
        assert self._postgrest is not None  # noqa: S101  (made by start)
        return Child(
            "the gateway",
            [sys.executable, "-m", "app.cli", "serve"],
            log=self.home / "logs" / "gateway.log",
            env={name: value for name, value in os.environ.items() if name != DATABASE_URL_FILE}
            | {
                "FLOWS_HOME": str(self.home),
                "FLOWS_HOST": self.host,
                "FLOWS_PORT": str(self.port),
                "FLOWS_PUBLIC_URL": self.base_url,
                "FLOWS_DATABASE_URL": gateway_url,
                "FLOWS_POSTGREST_URL": self._postgrest.url,
            }
            | variables
            | {name: os.environ.get(name, wide) for name, wide in WIDE_LIMITS.items()},
        )


def _answers(client: httpx.Client, path: str) -> bool:
    try:
        return client.get(path).status_code == 200
    except httpx.HTTPError:
        return False


def _say(text: str, end: str = "\n") -> None:
    """Print to standard error; a terminal that is gone must not keep the parts from stopping."""
    with suppress(OSError):
        print(text, end=end, flush=True, file=sys.stderr)  # noqa: T201
