"""A grown deployment: primary and replica, PgBouncer, several PostgRESTs and gateways."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import psycopg

from app.auth.keys import load_keys
from app.auth.tokens import Grant, issue
from app.embedded.ports import free_port
from app.embedded.postgres import command, server_options, socket_url
from app.embedded.postgrest import CONFIG, find_postgrest
from app.embedded.process import Child
from app.embedded.programs import binaries, give, system_user
from app.embedded.stack import WIDE_LIMITS
from tests.conftest import answers, wait_until
from tests.demo_home import copy_demo_home
from tests.servers import enterable_folder

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
POOLER_PORT = 6432
POOLER = """
[databases]
flows = host={database} port=5432 dbname=flows
[pgbouncer]
listen_addr =
listen_port = 6432
unix_socket_dir = {folder}
auth_type = scram-sha-256
auth_file = {folder}/users
pool_mode = transaction
max_client_conn = 200
default_pool_size = 10
server_login_retry = 1
query_wait_timeout = 5
"""
# Long enough on a machine that has other work.
START_SECONDS = 90.0


class Grown:
    """A deployment of parts that run, stop and are killed by name."""

    def __init__(self, folder: Path, *, gateways: int, front: str | None = None) -> None:
        """Take the demo's data; `front` is the clients' URL, by default the first gateway's."""
        self.folder = folder
        self.home = folder / "home"
        self.user = system_user()
        copy_demo_home(self.home)
        self.ports = {
            name: free_port()
            for name in ("rest-1", "rest-2", "rest-replica",
                         *(f"gateway-{number + 1}" for number in range(gateways)))
        }  # fmt: skip
        self.gateways = [name for name in self.ports if name.startswith("gateway")]
        self.base_url = front or self.url(self.gateways[0])
        self.children: dict[str, Child] = {}
        self.settings: dict[str, str] = {}
        self._passwords = json.loads((self.home / "passwords.json").read_text())
        self._passwords["postgres"] = (self.home / "postgres.password").read_text().strip()

    def url(self, name: str) -> str:
        """Return the URL of a part that speaks HTTP."""
        return f"http://127.0.0.1:{self.ports[name]}"

    def database_url(self, login: str, server: str = "primary") -> str:
        """Return a libpq URL of a login, at a server or at the pooler."""
        word = f"{login}:{quote(self._passwords[login], safe='')}"
        url = socket_url(self.folder / server, word, "flows")
        return url.replace("port=5432", f"port={POOLER_PORT}") if server == "pooler" else url

    @property
    def parts(self) -> list[str]:
        """The names of all parts, in the order in which they start."""
        pooler = ["pooler"] if PGBOUNCER else []
        return ["primary", "replica", *pooler, *self.ports]

    def start(self, name: str) -> None:
        """Start a part, without waiting for it."""
        starters: dict[str, Callable[[str], Child]] = {
            "primary": self._database, "replica": self._database, "pooler": self._pooler,
            **dict.fromkeys(("rest-1", "rest-2", "rest-replica"), self._postgrest),
        }  # fmt: skip
        if ended := self.children.pop(name, None):
            ended.stop()
        self.children[name] = starters.get(name, self._gateway)(name)

    def start_all(self) -> None:
        """Start every part and wait until all serve."""
        self.start("primary")
        self.wait_for("primary")
        self._copy_primary()
        for name in self.parts[1:]:
            self.start(name)
        for name in self.parts:
            self.wait_for(name)

    def wait_for(self, name: str, seconds: float = START_SECONDS) -> None:
        """Wait until a part serves; start it again if it ends, as a supervisor does."""

        def serves() -> bool:
            if not self.children[name].running:
                self.start(name)
            return self.serves(name)

        wait_until(serves, seconds)

    def serves(self, name: str) -> bool:
        """Return whether a part serves."""
        if name.startswith("gateway"):
            return answers(f"{self.url(name)}/ready", 200)
        if name.startswith("rest"):
            return answers(f"{self.url(name)}/", 401)
        login = "flows_gateway" if name == "pooler" else "postgres"
        with suppress(psycopg.OperationalError):
            psycopg.connect(self.database_url(login, name), connect_timeout=2).close()
            return True
        return False

    def last_lines(self, name: str) -> list[str]:
        """Return the last lines of a part's log, for a failure to tell."""
        return (self.folder / f"{name}.log").read_text().splitlines()[-20:]

    def kill(self, name: str) -> None:
        """Kill a part, and return when it is gone; its guard may still wait for its children."""
        guard = next(
            process
            for process in psutil.Process().children()
            if process.pid == self.children[name].pid
        )
        (killed,) = guard.children()
        killed.kill()
        killed.wait(START_SECONDS)

    def stop_all(self) -> None:
        """Stop every part."""
        names = ("gateway", "rest", "pooler", "replica", "primary")
        for kind in names:
            stopped = [
                threading.Thread(target=child.stop)
                for name, child in self.children.items()
                if name.startswith(kind)
            ]
            for thread in stopped:
                thread.start()
            for thread in stopped:
                thread.join()

    @contextmanager
    def admin(self, server: str = "primary") -> Iterator[psycopg.Connection[Any]]:
        """Yield a superuser's connection to a server."""
        with psycopg.connect(self.database_url("postgres", server), autocommit=True) as connection:
            yield connection

    @cached_property
    def esco(self) -> uuid.UUID:
        """The id of the ESCO wlce."""
        with self.admin() as admin:
            ((found,),) = admin.execute("select id from flows.escos where code = 'wlce'").fetchall()
        known: uuid.UUID = found
        return known

    def token(self, token_id: str | None = None) -> str:
        """Return a token that reads and writes as wlce."""
        grant = Grant("flc_grown", "flows", self.esco, "wlce", ("read", "write"))
        return issue(load_keys(self.home / "keys")[-1], self.base_url, grant, token_id=token_id)

    def _child(self, name: str, *words: str, user: str | None = None, **env: str) -> Child:
        return Child(
            name,
            words,
            log=self.folder / f"{name}.log",
            env={"PATH": os.environ["PATH"], "HOME": str(self.folder)} | env,
            user=user,
            stop_signal="SIGINT" if name in ("primary", "replica", "pooler") else "SIGTERM",
        )

    def _database(self, name: str) -> Child:
        data = self.home / "postgres" if name == "primary" else self.folder / "copy"
        (self.folder / name).mkdir(exist_ok=True)
        give(self.user, self.folder / name)
        options = server_options(self.folder / name)
        if name == "replica":
            options |= {"hot_standby_feedback": "on", "wal_receiver_status_interval": "1s"}
        return self._child(name, *command(data, options), user=self.user)

    def _copy_primary(self) -> None:
        copy = self.folder / "copy"
        copy.mkdir(mode=0o700)
        give(self.user, copy)
        subprocess.run(
            [binaries() / "pg_basebackup", "-D", copy, "-R", "-c", "fast", "-X", "stream",
             "-d", self.database_url("postgres").replace("/flows?", "/postgres?")],
            check=True, user=self.user, group=self.user, cwd="/",
            extra_groups=[] if self.user else None,
        )  # fmt: skip

    def _pooler(self, name: str) -> Child:
        assert PGBOUNCER is not None
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        config = folder / "pgbouncer.ini"
        config.write_text(POOLER.format(database=self.folder / "primary", folder=folder))
        (folder / "users").write_text(f'"flows_gateway" "{self._passwords["flows_gateway"]}"\n')
        give(self.user, folder)
        return self._child(name, PGBOUNCER, str(config), user=self.user)

    def _postgrest(self, name: str) -> Child:
        replica = name == "rest-replica"
        return self._child(
            name, str(find_postgrest(self.home)), str(CONFIG),
            PGRST_DB_URI=self.database_url("authenticator", "replica" if replica else "primary"),
            PGRST_SERVER_HOST="127.0.0.1", PGRST_SERVER_PORT=str(self.ports[name]),
            # A replica takes no LISTEN.
            PGRST_DB_CHANNEL_ENABLED="false" if replica else "true",
        )  # fmt: skip

    def _gateway(self, name: str) -> Child:
        pooled = bool(PGBOUNCER)
        environment = {
            "FLOWS_HOME": str(self.home), "FLOWS_PORT": str(self.ports[name]),
            "FLOWS_PUBLIC_URL": self.base_url, "FLOWS_METRICS": "open",
            "FLOWS_DATABASE_URL": self.database_url(
                "flows_gateway", "pooler" if pooled else "primary"),
            "FLOWS_DATABASE_DIRECT_URL": self.database_url("flows_gateway"),
            "FLOWS_DATABASE_PREPARED": "false" if pooled else "true",
            "FLOWS_POSTGREST_URL": f"{self.url('rest-1')},{self.url('rest-2')}",
            "FLOWS_REPLICA_DATABASE_URL": self.database_url("flows_gateway", "replica"),
            "FLOWS_REPLICA_POSTGREST_URL": self.url("rest-replica"),
        }  # fmt: skip
        words = [sys.executable, "-m", "app.cli", "serve"]
        return self._child(name, *words, **(environment | WIDE_LIMITS | self.settings))


@contextmanager
def grown(*, gateways: int = 1, front: str | None = None, **settings: str) -> Iterator[Grown]:
    """Run a grown deployment, with FLOWS_… `settings` of its gateways."""
    with enterable_folder() as folder:
        deployment = Grown(folder, gateways=gateways, front=front)
        deployment.settings = settings
        try:
            started = time.monotonic()
            deployment.start_all()
            print(f"started in {time.monotonic() - started:.1f} s", file=sys.stderr)
            yield deployment
        finally:
            deployment.stop_all()
