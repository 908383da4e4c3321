"""`flows db …`: migration, status and maintenance of the database."""

import json
import sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import psycopg
import typer
from rich.console import Console
from rich.filesize import decimal
from rich.status import Status
from rich.table import Table
from rich.text import Text

from app.auth.keyring import publish_keys
from app.auth.keys import load_keys
from app.cli.admin import admin_url, database_errors
from app.cli.output import WIDTH, Json, cell, echo, escaped, fail, print_json
from app.cli.upkeep import add_upkeep
from app.db.copy import CopyOptions, CopyRefused, CopyReport, copy_database, parse_kwh_as
from app.db.exposed import SchemaRefused
from app.db.logins import grant_login, revoke_login
from app.db.maintain import follow, maintain
from app.db.migrate import MigrationError, migrate
from app.db.status import database_status
from app.settings import Settings

db = typer.Typer(help="The database: migration, status, maintenance.", no_args_is_help=True)

SHORTEST_PASSWORD = 12


@db.command("migrate")
def db_migrate() -> None:
    """Migrate the database of FLOWS_DATABASE_ADMIN_URL to this program's schema; safe to repeat.

    An interrupted upgrade continues where it stopped. A database of version 0.1 is first compared
    with the baseline, and refused if it lacks any part of it.

    The roles flows_gateway and authenticator get the passwords in FLOWS_DATABASE_URL and
    FLOWS_POSTGREST_DATABASE_URL. A key to sign tokens is created if there is none, and its public
    half is published for PostgREST. The schemas in FLOWS_POSTGREST_SCHEMAS are exposed, if all of
    their relations decide who sees a row.
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
            schemas=settings.postgrest.schemas,
            progress=lambda line: echo(f"  {line}", err=True),
        )
        publish_keys(admin_url(settings), load_keys(settings.key_folder, settings.signing_key))
    except (MigrationError, SchemaRefused, psycopg.Error) as error:
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


@db.command("grant-login")
def db_grant_login(
    role: Annotated[str, typer.Argument(help="grafanareader.")],
    revoke: Annotated[
        bool, typer.Option("--revoke", help="Take the login and the password away again.")
    ] = False,
) -> None:
    """Let a role that reads SQL log in: dashboards and notebooks, as grafanareader.

    The role reads every relation of schema flows, of every ESCO, and changes nothing. The password
    is asked for, or read from standard input.
    """
    url = admin_url(Settings())
    try:
        with database_errors():
            if revoke:
                revoke_login(url, role)
                echo(f"{role} cannot log in any more")
                return
            if sys.stdin.isatty():
                password = typer.prompt("password", hide_input=True, confirmation_prompt=True)
            else:
                password = sys.stdin.readline().rstrip("\r\n")
            if len(password) < SHORTEST_PASSWORD:
                raise fail(f"the password must have {SHORTEST_PASSWORD} characters at least")
            grant_login(url, role, password)
    except ValueError as error:
        raise fail(str(error)) from None
    echo(f"{role} may log in")


@db.command("copy")
def db_copy(
    source: Annotated[
        str, typer.Option("--from", help="URL of the existing Flows database to copy from.")
    ],
    kwh_as: Annotated[
        list[str] | None,
        typer.Option(
            help="import or export, for the energy that the other database has as one figure: for "
            "all registers, or as solar=import (a nature) or REGISTER=export (an id). By default "
            "it is export of solar registers and circuits, and import of others."
        ),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(help="A table, or TABLE.COLUMN, to leave out though it holds data."),
    ] = None,
    newer: Annotated[
        bool,
        typer.Option(
            "--newer",
            help="Add to an earlier copy: configuration that differs, and of each series what is "
            "newer than here, from seven days before.",
        ),
    ] = False,
    since: Annotated[
        datetime | None, typer.Option(help="With --newer: the oldest time to compare, UTC.")
    ] = None,
    leave_out_refused: Annotated[
        bool,
        typer.Option(
            "--leave-out-refused", help="Leave out rows that cannot be copied, and list them."
        ),
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(help="Write repaired, left out and refused rows to this file, as JSON."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Copy all rows of an existing Flows database into this one, or none if that fails.

    This database must be migrated (`flows db migrate`) and empty, but with --newer; the other one
    is only read. Counts and sums of both are compared. A connection that breaks is made again, and
    the copy starts from the beginning.
    """
    url = admin_url(Settings())
    options = CopyOptions(
        kwh_as=_kwh_as(kwh_as or []),
        without=frozenset(without or []),
        leave_out_refused=leave_out_refused,
        newer=newer,
        since=since and since.replace(tzinfo=UTC),
    )
    console = Console(stderr=True)
    try:
        with database_errors("nothing was copied: "), console.status("copying …") as status:
            done = copy_database(
                source, url, lambda work, rows: _show_progress(console, status, work, rows), options
            )
    except CopyRefused as refused:
        _write_report(report, refused.report)
        raise fail(f"nothing was copied: {refused}") from None
    _write_report(report, done)
    with (
        database_errors("the rows are copied, but not all aggregates (run `flows db refresh`): "),
        console.status("updating the aggregates …"),
    ):
        follow(url)
    if as_json:
        print_json(done.as_json())
        return
    table = Table("table", "copied", "rows there", "rows here", "sums", box=None)
    for count in done.counts:
        sums = ", ".join(f"{name} {_decimal(value)}" for name, value in count.sums_here.items())
        verdict = "equal" if count.equal else "differs"
        values = (
            count.table, f"{count.copied:,}", f"{count.there:,}", f"{count.here:,}",
            f"{verdict}: {sums}" if sums else verdict,
        )  # fmt: skip
        table.add_row(*map(cell, values))
    Console(width=WIDTH).print(table)
    for finding in done.findings:
        echo(f"{finding.kind}: {finding}")
    echo(f"copied in {done.seconds:.1f} s")


def _kwh_as(words: list[str]) -> dict[str, str]:
    try:
        return parse_kwh_as(words)
    except ValueError as error:
        raise fail(f"--kwh-as {error}") from None


def _write_report(file: Path | None, report: CopyReport) -> None:
    if file is not None:
        file.write_text(json.dumps(report.as_json(), indent=2, default=str) + "\n")


def _show_progress(console: Console, status: Status, work: str, rows: int) -> None:
    status.update(f"{work}: {rows:,} rows" if rows else work)
    if not console.is_terminal and not rows:
        # A log gets a line for each step.
        echo(work, err=True)


def _decimal(value: Decimal | None) -> str:
    return "none" if value is None else f"{value.normalize():f}"


add_upkeep(db)
