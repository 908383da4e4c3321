"""Restoring a backup and replaying WAL up to a point in time, on a private server."""

import shlex
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import psycopg

from app.backup.folder import BackupFolder
from app.embedded.postgres import archive_options, command, private_socket, server_options
from app.embedded.process import Child
from app.embedded.programs import give, run_program, system_user
from app.embedded.stack import hold

LONGEST_SECONDS = 24 * 3600  # limit for replaying WAL; the user can interrupt it sooner
STATUS_LINE = 7  # line of postmaster.pid with the server's status, counted from 0
LOST_CHANGES = 1_000_000  # more changes than can have been recorded after the recovery point
# Safe because the server listens only on a socket in a folder that only its user can enter.
TRUST = "local all all trust\n"


@contextmanager
def recovered(
    folder: BackupFolder, into: Path, at: datetime | None, *, archiving: bool = False
) -> Iterator[str]:
    """Yield the superuser's URL of a server at `into`, recovered to `at` (None: the end of WAL).

    `into` must not exist yet. The server stops when the context ends; its data remain. With
    `archiving` it continues the WAL archive, for a server that replaces the one backed up.
    StackError with PostgreSQL's message if the WAL does not reach `at` or a backup is damaged.
    """
    links = [folder.data(backup.label) for backup in folder.chain(folder.latest(at))]
    for link in links:
        run_program("pg_verifybackup", "--quiet", str(link))
    run_program("pg_combinebackup", *map(str, links), "--output", str(into))
    (into / "recovery.signal").touch()
    side = into.with_name(f"{into.name}.recovery")
    side.mkdir(mode=0o700)
    try:
        yield from _serve(folder, into, side, at, archiving)
    finally:
        shutil.rmtree(side)


def _serve(
    folder: BackupFolder, into: Path, side: Path, at: datetime | None, archiving: bool
) -> Iterator[str]:
    rules, socket, user = side / "pg_hba.conf", private_socket(side), system_user()
    rules.write_text(TRUST)
    socket.mkdir(mode=0o700, exist_ok=True)
    options = server_options(socket) | {
        "hba_file": str(rules),
        # Accept no connections before the recovery point is reached.
        "hot_standby": "off",
        "restore_command": f"cp {_quoted(folder.wal)}/%f %p",
        "recovery_target_action": "promote",
        "archive_mode": "off",
    }
    if at:
        options["recovery_target_time"] = at.isoformat()
    if archiving:
        options |= archive_options(folder.wal)
    if user:
        for path in (side, rules, into, *into.rglob("*")):
            shutil.chown(path, user, user)
        give(user, side, socket, *([folder.wal] if folder.wal.is_dir() else []))
    url = f"postgresql://postgres@/flows?host={quote(str(socket), safe='')}"
    log = side / "postgres.log"
    server = Child("PostgreSQL", command(into, options), log=log, user=user, stop_signal="SIGINT")
    try:
        server.wait_until(lambda: _ready(into), seconds=LONGEST_SECONDS)
        yield url
    finally:
        server.stop()
        if socket != side:
            shutil.rmtree(socket, ignore_errors=True)


@contextmanager
def scratch(folder: BackupFolder, at: datetime | None) -> Iterator[str]:
    """Yield the superuser's URL of a recovered server; delete its data afterwards."""
    with (
        tempfile.TemporaryDirectory(prefix="drill-", dir=folder.folder) as scratch_folder,
        recovered(folder, Path(scratch_folder) / "postgres", at) as url,
    ):
        yield url


def restore(folder: BackupFolder, into: Path, at: datetime | None, *, archiving: bool) -> None:
    """Recover a data directory at `into` and stop its server; delete the directory on failure."""
    try:
        with recovered(folder, into, at, archiving=archiving) as url:
            invalidate_etags(url)
    except BaseException:
        shutil.rmtree(into, ignore_errors=True)
        raise


def restore_in_place(folder: BackupFolder, home: Path, at: datetime | None) -> Path:
    """Recover the embedded server of FLOWS_HOME; return the folder its old data are moved to.

    StackError if the stack is running. Nothing changes if recovery fails.
    """
    data, fresh = home / "postgres", home / "postgres.restoring"
    aside = home / f"postgres.before-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    with hold(home):
        shutil.rmtree(fresh, ignore_errors=True)  # left by an interrupted restore
        restore(folder, fresh, at, archiving=True)
        if data.exists():
            data.rename(aside)
        fresh.rename(data)
    return aside


def invalidate_etags(url: str) -> None:
    """Invalidate ETags issued after the recovery point, by skipping all numbers of lost changes."""
    with psycopg.connect(url) as connection:
        connection.execute(
            "select setval(s.name, nextval(s.name) + %s)"
            " from pg_get_serial_sequence('flows.change', 'id') as s (name)",
            (LOST_CHANGES,),
        )
        connection.execute(
            "insert into flows.change (kind, period, followed_at)"
            " values ('configuration', '(,)', clock_timestamp())"
        )


def _quoted(path: Path) -> str:
    """Return a path quoted for restore_command, in which % is special."""
    return shlex.quote(str(path)).replace("%", "%%")


def _ready(data: Path) -> bool:
    """Return whether the server accepts connections, read from postmaster.pid as pg_ctl does.

    Attempts to connect would fill the log with refusals and hide why the server stopped.
    """
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return False
    return len(lines) > STATUS_LINE and lines[STATUS_LINE].strip() == "ready"
