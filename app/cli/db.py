"""`flows db …`: migration, status and maintenance of the database."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import psycopg
import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from app.auth.keyring import publish_keys
from app.auth.keys import load_keys
from app.cli.admin import admin_url
from app.cli.output import Json, cell, echo, escaped, fail, print_json
from app.db.copy import copy_database
from app.db.maintain import follow, maintain
from app.db.migrate import MigrationError, migrate
from app.db.status import database_status
from app.settings import Settings

db = typer.Typer(help="The database: migration, status, maintenance.", no_args_is_help=True)

NOT_MIGRATED = (
    psycopg.errors.InvalidSchemaName,
    psycopg.errors.UndefinedFunction,
    psycopg.errors.UndefinedTable,
)


@contextmanager
def database_errors(consequence: str = "") -> Iterator[None]:
    """Turn database errors into one-line errors that start with `consequence`."""
    try:
        yield
    except NOT_MIGRATED:
        raise fail(
            f"{consequence}this database has no Flows schema; run `flows db migrate` first"
        ) from None
    except psycopg.Error as error:
        reason = error.diag.message_primary or str(error).strip()
        raise fail(f"{consequence}{reason}") from None


@db.command("migrate")
def db_migrate() -> None:
    """Migrate the database of FLOWS_DATABASE_ADMIN_URL to this program's schema; safe to repeat.

    An interrupted upgrade continues where it stopped. A database of version 0.1 is first compared
    with the baseline, and refused if it lacks any part of it.

    The roles flows_gateway and authenticator get the passwords in FLOWS_DATABASE_URL and
    FLOWS_POSTGREST_DATABASE_URL. A key to sign tokens is created if there is none, and its public
    half is published for PostgREST.
    """
    settings = Settings()
    logins = tuple(
        url.get_secret_value()
        for url in (settings.database.url, settings.postgrest.database_url)
        if url
    )
    try:
        engine = migrate(
            admin_url(settings),
            logins=logins,
            progress=lambda line: echo(f"  {line}", err=True),
        )
        publish_keys(admin_url(settings), load_keys(settings.key_folder, settings.signing_key))
    except (MigrationError, psycopg.Error) as error:
        raise fail(str(error).strip()) from None
    echo(f"up to date ({engine})")


@db.command("status")
def db_status(as_json: Json = False) -> None:
    """Show the engine and its limitations, size and retention of each series, and the jobs."""
    with database_errors():
        status = database_status(admin_url(Settings()))
    if as_json:
        print_json(status)
        return
    extension = f", TimescaleDB {status['timescaledb']}" if status["timescaledb"] else ""
    echo(
        f"engine {status['engine']} (PostgreSQL {status['server']}{extension}), "
        f"{decimal(status['database_bytes'])}"
    )
    echo(
        f"schema version {status['schema']['database']} in the database, "
        f"{status['schema']['program']} in this program"
    )
    for lack in status["lacks"]:
        echo(f"  {lack}")
    table = Table("series", "size", "rows", "parts", "columnstore", "kept", box=None)
    for row in status["series"]:
        values = (
            row["series"],
            decimal(row["bytes"] or 0),
            f"{row['rows_estimated']:,}",
            str(row["parts"]),
            str(row["parts_in_columnstore"]),
            row["keep"] or "forever",
        )
        table.add_row(*map(cell, values))
    Console(soft_wrap=True).print(table)
    echo(f"changes not yet applied to the aggregates: {status['changes']['pending']}")
    for job in status["jobs"]:
        if job["last_run_status"] == "Failed":
            failed = escaped(f"job {job['job']} {job['series']} failed")
            Console(soft_wrap=True).print(Text(failed, style="red"))


@db.command("maintain")
def db_maintain(as_json: Json = False) -> None:
    """Create future partitions and remove rows older than their retention (flows.retention)."""
    with database_errors():
        done = maintain(admin_url(Settings()))
    if as_json:
        print_json([{"task": task, "done": count} for task, count in done])
        return
    for task, count in done:
        echo(f"{task}: {count}")


@db.command("refresh")
def db_refresh(as_json: Json = False) -> None:
    """Update the aggregates for late readings and changed mappings now, not within a minute."""
    console = Console(stderr=True)
    with (
        database_errors(),
        console.status("updating the aggregates …") as status,
    ):
        followed = follow(
            admin_url(Settings()),
            lambda left: status.update(f"updating the aggregates: {left:,} changes left …"),
        )
    if as_json:
        print_json({"followed": followed})
        return
    echo(f"the aggregates are up to date ({followed:,} changes were pending)")


@db.command("copy")
def db_copy(
    source: Annotated[
        str, typer.Option("--from", help="URL of the existing Flows database to copy from.")
    ],
) -> None:
    """Copy all rows of an existing Flows database into this one, or none if that fails.

    This database must be migrated (`flows db migrate`) and empty; the other one is only read.
    """
    url = admin_url(Settings())
    console = Console(stderr=True)
    with database_errors("nothing was copied: "), console.status("copying …") as status:
        copied = copy_database(
            source, url, lambda table, rows: status.update(f"copying {table}: {rows:,} rows")
        )
    if not copied:
        raise fail(
            "nothing was copied: the other database has no tables in a schema flows, or this one "
            "has none (`flows db migrate`)"
        )
    with (
        database_errors("the rows are copied, but not all aggregates (run `flows db refresh`): "),
        console.status("updating the aggregates …"),
    ):
        follow(url)
    for table, rows in copied.items():
        echo(f"{rows:>12,}  {table}")
