"""`flows db …`: migrations, state and upkeep of the database."""

from typing import Annotated

import psycopg
import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from app.auth.keys import load_keys
from app.auth.state import publish_keys
from app.ops.copy import copy_database
from app.ops.maintain import follow, maintain
from app.ops.migrate import MigrationError, migrate
from app.ops.status import database_status
from app.settings import Settings
from app.terminal import Json, admin_url, fail, print_json

db = typer.Typer(help="The database: migrations, state and upkeep.", no_args_is_help=True)


@db.command("migrate")
def db_migrate() -> None:
    """Apply what is missing of sql/ to FLOWS_DATABASE_ADMIN_URL; running it again changes nothing.

    The roles flows_gateway and authenticator get the passwords that FLOWS_DATABASE_URL and
    FLOWS_POSTGREST_DATABASE_URL carry; the key that signs tokens is made where there is none, and
    its public half is published for PostgREST.
    """
    settings = Settings()
    logins = tuple(
        url.get_secret_value()
        for url in (settings.database.url, settings.postgrest.database_url)
        if url
    )
    try:
        engine = migrate(admin_url(settings), logins=logins)
        publish_keys(admin_url(settings), load_keys(settings.key_folder, settings.signing_key))
    except (MigrationError, psycopg.Error) as error:
        raise fail(str(error).strip()) from None
    typer.echo(f"up to date ({engine})")


@db.command("status")
def db_status(as_json: Json = False) -> None:
    """Show the engine and what it lacks, each series with its size and retention, and the jobs."""
    try:
        status = database_status(admin_url(Settings()))
    except psycopg.Error as error:
        raise fail(str(error).strip()) from None
    if as_json:
        print_json(status)
        return
    console = Console()
    extension = f", TimescaleDB {status['timescaledb']}" if status["timescaledb"] else ""
    console.print(
        f"engine {status['engine']} (PostgreSQL {status['server']}{extension}), migration "
        f"{status['migration']}, {decimal(status['database_bytes'])}"
    )
    for lack in status["lacks"]:
        console.print(f"  {lack}")
    table = Table("series", "size", "rows", "parts", "in columnstore", "kept", box=None)
    for row in status["series"]:
        table.add_row(
            row["series"],
            decimal(row["bytes"] or 0),
            f"{row['rows_estimated']:,}",
            str(row["parts"]),
            str(row["parts_in_columnstore"]),
            row["keep"] or "for ever",
        )
    console.print(table)
    console.print(f"changes the aggregates have yet to follow: {status['changes']['pending']}")
    for job in status["jobs"]:
        if job["last_run_status"] == "Failed":
            console.print(f"[red]job {job['job']} {job['series']} failed[/red]")


@db.command("maintain")
def db_maintain(as_json: Json = False) -> None:
    """Make partitions ahead of need and remove what is past its retention (flows.retention)."""
    try:
        done = maintain(admin_url(Settings()))
    except psycopg.Error as error:
        raise fail(str(error).strip()) from None
    if as_json:
        print_json([{"task": task, "done": count} for task, count in done])
        return
    for task, count in done:
        typer.echo(f"{task}: {count}")


@db.command("refresh")
def db_refresh() -> None:
    """Bring the aggregates behind late readings and changed mappings now (else: in a minute)."""
    try:
        follow(admin_url(Settings()))
    except psycopg.Error as error:
        raise fail(str(error).strip()) from None
    typer.echo("the aggregates have followed every change")


@db.command("copy")
def db_copy(
    source: Annotated[
        str, typer.Option("--from", help="URL of the existing Flows database, to read from.")
    ],
) -> None:
    """Copy the rows of an existing Flows database into this one, all of them or none.

    This one is empty and migrated (`flows db migrate`); the other is only read.
    """
    url = admin_url(Settings())
    console = Console(stderr=True)
    try:
        with console.status("copying …") as status:
            copied = copy_database(
                source, url, lambda table, rows: status.update(f"copying {table}: {rows:,} rows")
            )
            status.update("bringing the aggregates behind the rows")
            follow(url)
    except psycopg.Error as error:
        raise fail(f"nothing was copied: {str(error).strip()}") from None
    for table, rows in copied.items():
        typer.echo(f"{rows:>12,}  {table}")
