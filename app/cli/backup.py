"""`flows backup …`: backups, recovery to a point in time, and drills that test them."""

import logging
import signal
import time
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
from app.backup.schedule import Keeper
from app.cli.admin import admin_url
from app.cli.moments import parse_moment
from app.cli.output import Json, echo, fail, print_json, show
from app.db.archiver import archiver
from app.embedded.process import StackError
from app.monitoring.logs import log_to_stderr
from app.settings import Settings

backup = typer.Typer(
    help="Backups by pg_basebackup in FLOWS_BACKUP_FOLDER, next to the archived WAL.",
    no_args_is_help=True,
)

SCHEDULE_SECONDS = 30  # between two looks at what is due

At = Annotated[
    str | None,
    typer.Option(
        "--at",
        metavar="TIME",
        help="Point in time, with offset (2026-11-24T12:30:00Z); by default the archive's end.",
    ),
]


@contextmanager
def backup_errors() -> Iterator[None]:
    """Turn errors of backups, stack, files and database into one-line errors."""
    try:
        yield
    except (BackupError, StackError, OSError) as error:
        raise fail(str(error)) from None
    except psycopg.Error as error:
        raise fail(str(error).strip()) from None


@backup.command("create")
def backup_create(
    incremental: Annotated[
        bool, typer.Option(help="Only changes since the newest backup; needs WAL archiving.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Back up the whole server and verify the checksum of every file.

    Reads and writes continue meanwhile. With archived WAL, every later time can be recovered.
    """
    settings = Settings()
    url, folder = admin_url(settings), _folder(settings)
    shown = Console(stderr=True).is_terminal
    with backup_errors():
        made = create(folder, url, incremental=incremental, shown=shown)
    if as_json:
        print_json(asdict(made))
        return
    echo(f"{made.kind} backup {made.label}: {decimal(made.bytes)}")
    with backup_errors():
        archived = archiver(url).on
    if not archived:
        echo("WAL is not archived: later changes cannot be recovered", err=True)


@backup.command("list")
def backup_list(as_json: Json = False) -> None:
    """List backups, oldest first, with the backup that each builds on."""
    folder = _folder(Settings())
    with backup_errors():
        backups = folder.backups()
    found = [asdict(one) | {"size": decimal(one.bytes)} for one in backups]
    show(found, ("label", "kind", "parent", "ended_at", "size"), as_json=as_json)


@backup.command("check")
def backup_check(as_json: Json = False) -> None:
    """Exit with 1 if the newest backup is too old, a chain has a gap, or WAL is not archived.

    Meant for cron and monitoring: if archiving stalls, it fails long before the disk is full.
    """
    settings = Settings()
    url, folder = admin_url(settings), _folder(settings)
    with backup_errors():
        state = archiver(url)
    faults = find_faults(folder, state, timedelta(hours=settings.backup.oldest_hours))
    if as_json:
        print_json({"faults": faults, "archiver": asdict(state)})
    elif not faults:
        echo(f"ok: newest backup {folder.latest().label}, WAL archived")
    for fault in [] if as_json else faults:
        echo(fault, err=True)
    if faults:
        raise typer.Exit(1)


@backup.command("prune")
def backup_prune() -> None:
    """Remove backups and WAL not needed to recover any time in FLOWS_BACKUP_KEEP_DAYS."""
    settings = Settings()
    keep, folder = timedelta(days=settings.backup.keep_days), _folder(settings)
    with backup_errors():
        removed = prune(folder, datetime.now(UTC), keep)
    for gone in removed:
        echo(f"removed {gone.label}")


@backup.command("schedule")
def backup_schedule(
    once: Annotated[bool, typer.Option(help="Do only what is due now, then end.")] = False,
) -> None:
    """Make backups, prune and drill at the intervals of FLOWS_BACKUP_*, until it is stopped.

    It is what a container runs instead of cron. Each step is a line of JSON on standard error; a
    step that failed is tried again after 15 minutes, and ends `--once` with code 1.
    """
    settings = Settings()
    url, folder = admin_url(settings), _folder(settings)
    log_to_stderr(logging.INFO)
    signal.signal(signal.SIGTERM, _end)
    keeper = Keeper(folder, url, settings.backup)
    failed = keeper.run_due()
    while not once:
        time.sleep(SCHEDULE_SECONDS)
        keeper.run_due()
    if failed:
        raise typer.Exit(1)


def _end(*_: object) -> None:
    raise typer.Exit


@backup.command("restore")
def backup_restore(
    at: At = None,
    into: Annotated[
        Path | None,
        typer.Option(help="Data directory to write; by default the embedded server's is replaced."),
    ] = None,
) -> None:
    """Recover the server to a point in time, from the newest backup before it and archived WAL.

    The embedded stack must be stopped. Its data directory is renamed, never deleted, and the next
    `flows up` serves the restored data. Nothing changes if recovery fails.
    """
    settings, moment = Settings(), _parse_moment(at)
    folder = _folder(settings)
    if into:
        if into.exists():
            raise fail(f"{into} exists already; name a new folder")
        with backup_errors(), _waiting("recovering"):
            overridden = restore(folder, into.absolute(), moment, archiving=False)
        _tell_overridden(overridden)
        echo(f"restored into {into}; give its server a separate archive folder")
        return
    with backup_errors(), _waiting("recovering"):
        aside, overridden = restore_in_place(folder, settings.home.absolute(), moment)
    _tell_overridden(overridden)
    echo(f"restored; the previous data are in {aside}")
    echo("start it with `flows up`, then take a backup")


@backup.command("drill")
def backup_drill(at: At = None, as_json: Json = False) -> None:
    """Restore into a temporary folder, check the data, and exit with 1 if anything is wrong.

    It counts the rows of each series, compares the aggregates with the half-hours, and checks the
    schema's version and that each ESCO sees exactly its own meters. Trust only backups that have
    passed a drill.
    """
    settings, moment = Settings(), _parse_moment(at)
    url, folder = admin_url(settings), _folder(settings)
    started = datetime.now(UTC)
    with backup_errors(), _waiting("recovering"):
        report = drill(folder, url, moment)
        folder.record_drill(report.faults)
    seconds = (datetime.now(UTC) - started).total_seconds()
    if as_json:
        print_json(asdict(report) | {"seconds": seconds})
    else:
        show(report.series, ("series", "rows", "newest"), as_json=False)
        _tell_overridden(report.overridden)
        echo(f"recovered and checked in {seconds:.0f} s")
    for fault in report.faults:
        echo(fault, err=True)
    if report.faults:
        raise typer.Exit(1)


@backup.command("table")
def backup_table(
    table: Annotated[str, typer.Argument(help="A table of schema flows.")],
    output: Annotated[Path, typer.Option(help="The CSV file to write; it must not exist.")],
    at: At = None,
) -> None:
    """Write a table as of a point in time to a CSV file; the server itself is not changed."""
    if output.exists():
        raise fail(f"{output} exists already; name a new file")
    moment, folder = _parse_moment(at), _folder(Settings())
    with backup_errors(), _waiting("recovering"), scratch(folder, moment) as restored:
        rows = write_table(restored.url, table, output)
    echo(f"{rows:,} rows of {table} in {output}")


def _tell_overridden(settings: list[str]) -> None:
    """Name the server's settings that a recovery here did without."""
    if settings:
        echo("recovered without these settings of the server, which its files keep:")
    for setting in settings:
        echo(f"  {setting}")


def _waiting(what: str) -> AbstractContextManager[Any]:
    console = Console(stderr=True)
    return console.status(f"{what} …") if console.is_terminal else nullcontext()


def _folder(settings: Settings) -> BackupFolder:
    if settings.backup.folder is None:
        raise fail("set FLOWS_BACKUP_FOLDER to the folder of backups and archived WAL")
    return BackupFolder(settings.backup.folder)


def _parse_moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    moment = parse_moment("--at", text)
    if moment > datetime.now(UTC):
        raise fail(f"--at: {text} is in the future")
    return moment
