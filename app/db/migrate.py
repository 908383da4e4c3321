"""Applies `sql/` with dbmate, which records what was applied; gives login roles their password."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

SQL = Path(__file__).resolve().parents[2] / "sql"
LOCK = 7_366_201  # any number; two migrations of one database at a time would meet halfway


class MigrationError(Exception):
    """The database cannot be migrated; the message is one line for a person."""


def migrate(admin_url: str, *, logins: tuple[str, ...] = ()) -> str:
    """Bring the database up to date and return its engine, `timescale` or `postgres`.

    `logins` are the URLs of the login roles (gateway, PostgREST): each role gets the password its
    URL carries. Running it again changes nothing.
    """
    with psycopg.connect(admin_url, autocommit=True) as connection:
        connection.execute("select pg_advisory_lock(%s)", (LOCK,))
        engine = _choose_engine(connection)
        _dbmate(admin_url, engine)
        for login in logins:
            _set_password(connection, login)
        connection.execute("notify pgrst, 'reload schema'")
    return engine


def _choose_engine(connection: psycopg.Connection) -> str:
    """Keep the engine a database began with; a new one gets TimescaleDB where the server has it."""
    found = connection.execute(
        "select exists (select from pg_extension where extname = 'timescaledb') as installed,"
        " exists (select from pg_namespace where nspname = 'flows') as migrated,"
        " current_setting('shared_preload_libraries') ~ 'timescaledb' as preloaded"
    ).fetchone()
    assert found is not None  # noqa: S101  (one row, always)
    installed, migrated, preloaded = found
    if not installed and not migrated and preloaded:
        connection.execute("create extension if not exists timescaledb")
        installed = True
    return "timescale" if installed else "postgres"


def _dbmate(admin_url: str, engine: str) -> None:
    program = shutil.which("dbmate", path=str(Path(sys.executable).parent)) or shutil.which(
        "dbmate"
    )
    if program is None:
        raise MigrationError("dbmate is not installed; run `make setup`")
    url = urlsplit(admin_url)
    query = dict(parse_qsl(url.query))
    if query.get("host", "").startswith("/"):
        query.setdefault("sslmode", "disable")  # dbmate's driver asks for TLS on a socket too
    done = subprocess.run(
        [program, "--no-dump-schema", "-d", str(SQL), "-d", str(SQL / engine), "up"],
        env=os.environ | {"DATABASE_URL": urlunsplit(url._replace(query=urlencode(query)))},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        words = [line for line in done.stderr.splitlines() if line.startswith("Error")]
        applying = [line for line in done.stdout.splitlines() if line.startswith("Applying")]
        raise MigrationError(" ".join(applying[-1:] + words[-1:]) or done.stderr.strip())


def _set_password(connection: psycopg.Connection, login_url: str) -> None:
    login = conninfo_to_dict(login_url)
    if login.get("user") and login.get("password"):
        user, password = str(login["user"]), str(login["password"])
        # Hashed here: statements end up in the server's log.
        verifier = connection.pgconn.encrypt_password(
            password.encode(), user.encode(), b"scram-sha-256"
        ).decode()
        connection.execute(
            sql.SQL("alter role {} password {}").format(sql.Identifier(user), sql.Literal(verifier))
        )
