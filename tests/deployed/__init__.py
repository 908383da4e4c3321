"""A Flows database as deployments have it, with rows that are awkward to copy."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from tests.databases import new_database

FOLDER = Path(__file__).parent
ESCO, NAMELESS_ESCO = (f"10000000-0000-4000-8000-00000000000{n}" for n in (1, 2))
METER, THREE_PHASE, SPARE, NOBODYS = (
    f"20000000-0000-4000-8000-00000000000{n}" for n in range(1, 5)
)
REPLACED, POWER, HEAT, ROOF, SOLAR, OTHER = (
    f"30000000-0000-4000-8000-00000000000{n}" for n in range(1, 7)
)


def make_deployed(url: str, engine: str, *, rows: bool = True) -> None:
    """Create the schema of a deployment, and its rows, in an empty database."""
    with psycopg.connect(url, autocommit=True) as connection:
        if engine == "timescale":
            connection.execute("create extension timescaledb")
        for name in ("schema", f"aggregates-{engine}", *(["rows"] if rows else [])):
            connection.execute((FOLDER / f"{name}.sql").read_bytes())


@contextmanager
def deployed_and_new(url: str, engine: str) -> Iterator[tuple[str, str]]:
    """Yield the URLs of a deployment's database and of a migrated one, dropped at the end."""
    with new_database(url) as old, new_database(url, migrated=True) as new:
        make_deployed(old, engine)
        yield old, new
