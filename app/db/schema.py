"""Versions of the schema: of the program's files, and of the gateways that a database serves."""

import re
from dataclasses import dataclass
from functools import cache, cached_property
from hashlib import sha256
from pathlib import Path

import psycopg

SQL = Path(__file__).resolve().parents[2] / "sql"
COMMITS = re.compile(r"^-- commits by itself$", re.MULTILINE)
OLDEST_GATEWAY = re.compile(r"^-- oldest-gateway: (\d+)$", re.MULTILINE)
# Called by the gateway's login, which has no rights on the underlying tables.
DATABASE_VERSION = "select version, oldest_gateway from gateway.schema_version()"
# The errors of that query on a database without our schema, or with the schema of 0.1.
NO_VERSION = (
    psycopg.errors.InvalidSchemaName,
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.UndefinedFunction,
)
CONNECT_SECONDS = 5


@dataclass(frozen=True)
class SqlFile:
    """A file of sql/; `name` includes the folder of an engine-specific file."""

    path: Path
    name: str

    @cached_property
    def text(self) -> str:
        """The statements of the file."""
        return self.path.read_text()

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 checksum of the file in hexadecimal."""
        return sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True)
class Migration(SqlFile):
    """A file of sql/migrations; its number is the version of the schema after it is applied."""

    @property
    def version(self) -> int:
        """The number at the start of the file's name."""
        return int(self.path.name.split("_")[0])

    @property
    def commits(self) -> bool:
        """True for one CALL that commits as it goes and, run again, continues where it stopped."""
        return COMMITS.search(self.text) is not None

    @property
    def oldest_gateway(self) -> int:
        """The version of the oldest gateway that works after it is applied; 0 for all gateways.

        A file that removes something used by older gateways declares it: `-- oldest-gateway: 7`.
        """
        found = OLDEST_GATEWAY.search(self.text)
        return int(found[1]) if found else 0


def migrations(engine: str, folder: Path = SQL) -> list[Migration]:
    """Return the files of sql/migrations for an engine, in the order of application."""
    return [Migration(path, name) for name, path in _files(folder / "migrations", engine)]


def objects(engine: str, folder: Path = SQL) -> list[SqlFile]:
    """Return the files of sql/objects for an engine, in the order of application."""
    return [SqlFile(path, name) for name, path in _files(folder / "objects", engine)]


def checksum(files: list[SqlFile]) -> str:
    """Return a checksum over the names and texts of the files, in hexadecimal."""
    lines = (f"{file.sha256}  {file.name}\n" for file in files)
    return sha256("".join(lines).encode()).hexdigest()


@cache
def program_version(folder: Path = SQL) -> int:
    """Return the schema version that this program was written for; 0 without files."""
    numbers = [int(path.name.split("_")[0]) for path in (folder / "migrations").rglob("*.sql")]
    return max(numbers, default=0)


def mismatch(database: int, oldest_gateway: int, program: int) -> str | None:
    """Return the reason why a gateway cannot serve a database, or None if it can.

    `database` and `program` are schema versions; `oldest_gateway` is the oldest version whose
    gateways the database still serves.
    """
    if not database:
        return "the database has no schema known to this gateway: run `flows db migrate`"
    if database < program:
        return (
            f"the database's schema has version {database}, this gateway needs {program}: "
            "run `flows db migrate`"
        )
    if program < oldest_gateway:
        return (
            f"the database's schema has version {database} and serves gateways from "
            f"{oldest_gateway} on, but this one has {program}: install a newer one"
        )
    return None


def check_database(url: str) -> str | None:
    """Return the reason why this program's gateway cannot serve a database, or None if it can.

    It is None also if the database does not answer: it may start later, and `/ready` checks again.
    """
    try:
        with psycopg.connect(url, connect_timeout=CONNECT_SECONDS) as connection:
            row = connection.execute(DATABASE_VERSION).fetchone()
    except NO_VERSION:
        row = (0, 0)
    except psycopg.OperationalError:
        return None
    database, oldest_gateway = row or (0, 0)
    return mismatch(database, oldest_gateway, program_version())


def _files(folder: Path, engine: str) -> list[tuple[str, Path]]:
    """Return name and path of each file; the engine's and the shared ones are sorted together."""
    paths = [*folder.glob("*.sql"), *(folder / engine).glob("*.sql")]
    paths.sort(key=lambda path: path.name)
    return [(str(path.relative_to(folder)), path) for path in paths]
