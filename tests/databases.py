"""Databases beside the shared stack's own, on its server."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from uuid import uuid4

import psycopg

from app.db.migrate import migrate


@contextmanager
def new_database(server: str, *, migrated: bool = False) -> Iterator[str]:
    """Yield the URL of an empty database, or of a migrated one; it is dropped at the end."""
    name = f"test_{uuid4().hex}"
    # Copies of files take less time than WAL of all pages. A template that is named is connected to
    # by TimescaleDB, and then cannot be copied if it is template1.
    source = f"template {_migrated(server)} strategy file_copy" if migrated else ""
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f"create database {name} {source}".encode())
        try:
            yield _url(server, name)
        finally:
            admin.execute(f"drop database {name} with (force)".encode())


def _url(server: str, database: str) -> str:
    return server.replace("/flows?", f"/{database}?")


@cache
def _migrated(server: str) -> str:
    """Return the name of a migrated database that is only copied, as a migration takes seconds."""
    name = f"migrated_{uuid4().hex}"
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f"create database {name}".encode())
        migrate(_url(server, name))
        # TimescaleDB's workers would be connected, and a database in use cannot be copied.
        admin.execute(f"alter database {name} allow_connections false".encode())
        admin.execute(
            "select pg_terminate_backend(pid, 60000) from pg_stat_activity where datname = %s",
            (name,),
        )
    return name
