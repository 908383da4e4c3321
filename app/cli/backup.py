"""`flows backup …`: backups, recovery to a moment, and the drill that shows they work."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import psycopg
import typer
from rich.console import Console
from rich.filesize import decimal

from app.backup.check import find_faults
from app.backup.create import create, prune
from app.backup.drill import drill, write_table
from app.backup.folder import BackupError, BackupFolder
from app.backup.recover import restore, restore_in_place, scratch
from app.cli.admin import admin_url
from app.cli.output import Json, fail, print_json, show
from app.db.archiver import archiver
from app.embedded.process import StackError
from app.settings import Settings

backup = typer.Typer(
    help="Backups: made with pg_basebackup into FLOWS_BACKUP_FOLDER, beside the archived WAL.",
    no_args_is_help=True,
)

At = Annotated[
    str | None,
    typer.Option(
        "--at",
        metavar="TIME",
        help="The moment, with offset (2026-11-24T12:30:00Z); else as late as the archive goes.",
    ),
]


@contextmanager
def backup_errors() -> Iterator[None]:
    """Report what backup, stack, files or database cannot do as one line."""
    try:
        yield
    except (BackupError, StackError, OSError) as error:
        raise fail(str(error)) from None
    except psycopg.Error as error:
        raise fail(str(error).strip()) from None


@backup.command("create")
def backup_create(
    incremental: Annotated[
        bool, typer.Option(help="Only what changed since the newest backup; needs archiving.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Back up the whole server, and check every file against its checksum.

    It runs beside readers and writers. With archived WAL every later moment can be recovered.
    """
    settings = Settings()
    url, folder = admin_url(settings), _folder(settings)
    shown = Console(stderr=True).is_terminal
    with backup_errors():
        made = create(folder, url, incremental=incremental, shown=shown)
    if as_json:
        print_json(asdict(made))
        return
    typer.echo(f"{made.kind} backup {made.label}: {decimal(made.bytes)}")
    with backup_errors():
        archived = archiver(url).on
    if not archived:
        typer.echo("no WAL is archived: no moment after its end can be recovered", err=True)


@backup.command("list")
def backup_list(as_json: Json = False) -> None:
    """List the backups, oldest first, and what each builds on."""
    folder = _folder(Settings())
    with backup_errors():
        backups = folder.backups()
    found = [asdict(one) | {"size": decimal(one.bytes)} for one in backups]
    show(found, ("label", "kind", "parent", "ended_at", "size"), as_json=as_json)


@backup.command("check")
def backup_check(as_json: Json = False) -> None:
    """Exit 1 when the newest backup is too old, a chain has a gap, or WAL is not archived.

    For cron and monitoring: it fails long before the disk of a server that cannot archive is full.
    """
    settings = Settings()
    url, folder = admin_url(settings), _folder(settings)
    with backup_errors():
        state = archiver(url)
    faults = find_faults(folder, state, timedelta(hours=settings.backup.oldest_hours))
    if as_json:
        print_json({"faults": faults, "archiver": asdict(state)})
    elif not faults:
        typer.echo(f"ok: newest backup {folder.latest().label}, WAL archived")
    for fault in [] if as_json else faults:
        typer.echo(fault, err=True)
    if faults:
        raise typer.Exit(1)


@backup.command("prune")
def backup_prune() -> None:
    """Remove backups and WAL that no moment of the last FLOWS_BACKUP_KEEP_DAYS needs."""
    settings = Settings()
    keep, folder = timedelta(days=settings.backup.keep_days), _folder(settings)
    with backup_errors():
        removed = prune(folder, datetime.now(UTC), keep)
    for gone in removed:
        typer.echo(f"removed {gone.label}")


@backup.command("restore")
def backup_restore(
    at: At = None,
    into: Annotated[
        Path | None,
        typer.Option(help="Write the data directory here; else it takes the embedded server's."),
    ] = None,
) -> None:
    """Recover the server to a moment, from the newest backup before it and the archived WAL.

    The embedded stack must be stopped: its data directory is put aside, never deleted, and the
    next `flows up` serves what was restored. Nothing changes when recovery fails.
    """
    settings, moment = Settings(), _parse_moment(at)
    folder = _folder(settings)
    if into:
        if into.exists():
            raise fail(f"{into} is there already; name a folder that is not")
        with backup_errors(), _waiting("recovering"):
            restore(folder, into.absolute(), moment, archiving=False)
        typer.echo(f"restored into {into}; give its server an archive folder of its own")
        return
    with backup_errors(), _waiting("recovering"):
        aside = restore_in_place(folder, settings.home.absolute(), moment)
    typer.echo(f"restored; what was there is in {aside}")
    typer.echo("start it with `flows up`, then take a backup")


@backup.command("drill")
def backup_drill(at: At = None, as_json: Json = False) -> None:
    """Restore into a folder that goes again, look through it, and exit 1 if anything is wrong.

    Rows of each series, the aggregates against the half-hours, the schema's version, and whether
    each ESCO sees its own meters and nobody else's. A backup counts once this has passed.
    """
    settings, moment = Settings(), _parse_moment(at)
    url, folder = admin_url(settings), _folder(settings)
    started = datetime.now(UTC)
    with backup_errors(), _waiting("recovering"):
        report = drill(folder, url, moment)
    seconds = (datetime.now(UTC) - started).total_seconds()
    if as_json:
        print_json(asdict(report) | {"seconds": seconds})
    else:
        show(report.series, ("series", "rows", "newest"), as_json=False)
        typer.echo(f"recovered and looked through in {seconds:.0f} s")
    for fault in report.faults:
        typer.echo(fault, err=True)
    if report.faults:
        raise typer.Exit(1)


@backup.command("table")
def backup_table(
    table: Annotated[str, typer.Argument(help="A table of schema flows.")],
    output: Annotated[Path, typer.Option(help="The CSV file to write; it must not exist.")],
    at: At = None,
) -> None:
    """Write one table, as it was at a moment, as CSV: the server itself stays as it is."""
    if output.exists():
        raise fail(f"{output} is there already; name a file that is not")
    moment, folder = _parse_moment(at), _folder(Settings())
    with backup_errors(), _waiting("recovering"), scratch(folder, moment) as restored:
        rows = write_table(restored, table, output)
    typer.echo(f"{rows:,} rows of {table} in {output}")


def _waiting(what: str) -> AbstractContextManager[Any]:
    console = Console(stderr=True)
    return console.status(f"{what} …") if console.is_terminal else nullcontext()


def _folder(settings: Settings) -> BackupFolder:
    if settings.backup.folder is None:
        raise fail("set FLOWS_BACKUP_FOLDER: where backups and archived WAL are kept")
    return BackupFolder(settings.backup.folder)


def _parse_moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise fail(f"--at: {text!r} is no time like 2026-11-24T12:30:00Z") from None
    if moment.tzinfo is None:
        raise fail(f"--at: {text} has no offset; write {text}Z for UTC")
    if moment > datetime.now(UTC):
        raise fail(f"--at: {text} is still to come")
    return moment
