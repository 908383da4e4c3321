"""The schema's version: what the program's files hold, and which gateways a database serves."""

import re
from dataclasses import dataclass
from functools import cache, cached_property
from hashlib import sha256
from pathlib import Path

import psycopg

SQL = Path(__file__).resolve().parents[2] / "sql"
OLDEST_GATEWAY = re.compile(r"^-- oldest-gateway: (\d+)$", re.MULTILINE)
# Read by the gateway's login, which has no right on the tables behind it.
DATABASE_VERSION = "select version, oldest_gateway from gateway.schema_version()"
# Errors that a database without our schema, or with the one of 0.1, answers that with.
NO_VERSION = (
    psycopg.errors.InvalidSchemaName,
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.UndefinedFunction,
)
CONNECT_SECONDS = 5


@dataclass(frozen=True)
class SqlFile:
    """One file of sql/; `name` says its folder too, where it is one engine's."""

    path: Path
    name: str

    @cached_property
    def text(self) -> str:
        """Its statements."""
        return self.path.read_text()

    @cached_property
    def sha256(self) -> str:
        """Its checksum, in hexadecimal."""
        return sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True)
class Migration(SqlFile):
    """A file of sql/migrations; its number is the schema's version once it is applied."""

    @property
    def version(self) -> int:
        """The number its name begins with."""
        return int(self.path.name.split("_")[0])

    @property
    def oldest_gateway(self) -> int:
        """Version of the oldest gateway that still works once it is applied; 0 for all of them.

        A file that takes away what an older gateway uses says so: `-- oldest-gateway: 7`.
        """
        found = OLDEST_GATEWAY.search(self.text)
        return int(found[1]) if found else 0


def migrations(engine: str, folder: Path = SQL) -> list[Migration]:
    """Return the files of sql/migrations for an engine, in the order they are applied in."""
    return [Migration(path, name) for name, path in _files(folder / "migrations", engine)]


def objects(engine: str, folder: Path = SQL) -> list[SqlFile]:
    """Return the files of sql/objects for an engine, in the order they are applied in."""
    return [SqlFile(path, name) for name, path in _files(folder / "objects", engine)]


def checksum(files: list[SqlFile]) -> str:
    """Return one checksum over names and texts, in hexadecimal."""
    lines = (f"{file.sha256}  {file.name}\n" for file in files)
    return sha256("".join(lines).encode()).hexdigest()


@cache
def program_version(folder: Path = SQL) -> int:
    """Return the schema's version that this program was written for; 0 without any files."""
    numbers = [int(path.name.split("_")[0]) for path in (folder / "migrations").rglob("*.sql")]
    return max(numbers, default=0)


def mismatch(database: int, oldest_gateway: int, program: int) -> str | None:
    """Say why a gateway cannot serve a database, or None where it can.

    `oldest_gateway` is the database's: the oldest version whose gateways it still serves.
    """
    if not database:
        return "the database has no schema that this gateway knows: run `flows db migrate`"
    if database < program:
        return (
            f"the database's schema has version {database}, this gateway needs {program}: "
            "run `flows db migrate`"
        )
    if program < oldest_gateway:
        return (
            f"the database's schema has version {database} and serves gateways from "
            f"{oldest_gateway} on, this one is of {program}: install a newer one"
        )
    return None


def check_database(url: str) -> str | None:
    """Ask a database for its version; return why this program's gateway cannot serve it, if so.

    None also where the database does not answer: it may come later, and `/ready` asks again.
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
    """Name and path of each file, the engine's own between the shared ones by number."""
    paths = [*folder.glob("*.sql"), *(folder / engine).glob("*.sql")]
    paths.sort(key=lambda path: path.name)
    return [(str(path.relative_to(folder)), path) for path in paths]
