"""Restoring a backup and replaying WAL up to a point in time, on a private server.

The server reads none of the configuration that is in the backup: a port, a certificate, a library
or a locale of the machine that was backed up may be missing here. Settings that it needs are taken
from the control file, and the server's own ones that differ are named.
"""

import os
import pwd
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import psycopg

from app.backup.configuration import server_settings
from app.backup.folder import Backup, BackupError, BackupFolder
from app.backup.locales import SYSTEM_LOCALES, provide_locale
from app.embedded.postgres import (
    archive_options,
    command,
    private_socket,
    server_options,
    socket_url,
)
from app.embedded.process import Child, StackError
from app.embedded.programs import binaries, give, run_program, system_user
from app.embedded.stack import hold

LONGEST_SECONDS = 24 * 3600  # limit for replaying WAL; the user can interrupt it sooner
STATUS_LINE = 7  # line of postmaster.pid with the server's status, counted from 0
LOST_CHANGES = 1_000_000  # more changes than can have been recorded after the recovery point
# Safe because the server listens only on a socket in a folder that only its user can enter.
TRUST = "local all all trust\n"
AUTO_CONF = "postgresql.auto.conf"
LOCALES = "locales"
# Setting → its line in pg_controldata; a server with less cannot replay the other's WAL.
CONTROL_FLOORS = {
    "max_connections": "max_connections setting",
    "max_worker_processes": "max_worker_processes setting",
    "max_wal_senders": "max_wal_senders setting",
    "max_prepared_transactions": "max_prepared_xacts setting",
    "max_locks_per_transaction": "max_locks_per_xact setting",
}
# Settings of a server's files that say nothing about this machine; they are not named.
NOT_NAMED = frozenset({"archive_command", "archive_library", "archive_mode", "archive_timeout",
                       "basic_archive.archive_directory", "restore_command"})  # fmt: skip


@dataclass(slots=True)
class RecoveredServer:
    """A recovered server: its superuser's URL, and what of the original could not hold here.

    `overridden` names settings as `port = 5544`, and locales that are replaced.
    """

    url: str
    overridden: list[str] = field(default_factory=list)


@contextmanager
def recovered(
    folder: BackupFolder, into: Path, at: datetime | None, *, archiving: bool = False
) -> Iterator[RecoveredServer]:
    """Yield a server at `into`, recovered to `at` (None: the end of WAL).

    `into` must not exist yet; tablespaces are restored beside it, into `tablespaces_of(into)`. The
    server stops when the context ends; its data remain. With `archiving` it continues the WAL
    archive, for a server that replaces the one backed up. StackError with PostgreSQL's message if
    the WAL does not reach `at` or a backup is damaged.
    """
    backup = folder.latest(at)
    chain = folder.chain(backup)
    links = [folder.data(link.label) for link in chain]
    _check_version(links[-1])
    user = _server_user(folder)
    _check_wal(folder, backup, user)
    options = []
    for link, data in zip(chain, links, strict=True):
        moved = _relink(folder, link)
        run_program("pg_verifybackup", "--quiet", str(data))
    for oid, location in moved.items():
        options.append(f"--tablespace-mapping={location}={tablespaces_of(into) / oid}")
    run_program("pg_combinebackup", *map(str, links), "--output", str(into), *options)
    (into / "recovery.signal").touch()
    (into / "standby.signal").unlink(missing_ok=True)
    side = into.with_name(f"{into.name}.recovery")
    side.mkdir(mode=0o700)
    kept = into / AUTO_CONF
    settings = server_settings(into)
    try:
        if kept.exists():
            # It would be read after the private configuration; it comes back at the end.
            shutil.move(kept, side / AUTO_CONF)
        yield from _serve(folder, backup, into, side, settings, at, user, archiving)
    finally:
        if (side / AUTO_CONF).exists():
            shutil.move(side / AUTO_CONF, kept)
        shutil.rmtree(side)


def tablespaces_of(data: Path) -> Path:
    """Return the folder with the tablespaces of a restored data directory."""
    return data.with_name(f"{data.name}.tablespaces")


def _serve(
    folder: BackupFolder,
    backup: Backup,
    into: Path,
    side: Path,
    settings: dict[str, str],
    at: datetime | None,
    user: str | None,
    archiving: bool,
) -> Iterator[RecoveredServer]:
    rules, socket = side / "pg_hba.conf", private_socket(side)
    rules.write_text(TRUST)
    empty = side / "empty.conf"
    empty.touch()
    locales = side / LOCALES
    for private in (socket, locales):
        private.mkdir(mode=0o700, exist_ok=True)
    options = server_options(socket)
    for name, least in _control_floors(into).items():
        options[name] = str(max(least, int(options.get(name, "0"))))
    options |= {
        "config_file": str(empty),
        "hba_file": str(rules),
        "ident_file": str(empty),
        # Accept no connections before the recovery point is reached.
        "hot_standby": "off",
        "restore_command": f"cp {_quoted(folder.wal)}/%f %p",
        "recovery_target_action": "promote",
        "archive_mode": "off",
        "event_triggers": "off",
        # A recovered database must not begin to drop and refresh by itself.
        "timescaledb.max_background_workers": "0",
    }
    if at:
        options["recovery_target_time"] = at.isoformat()
    if archiving:
        options |= archive_options(folder.wal)
    if user:
        places = [side, *side.rglob("*"), into, *into.rglob("*")]
        places += [tablespaces_of(into), *tablespaces_of(into).rglob("*")]
        for path in places:
            if path.exists():
                shutil.chown(path, user, user)
        give(user, side, socket)
    server = RecoveredServer(
        socket_url(socket, quote(backup.superuser, safe=""), backup.database),
        [
            f"{name} = {value}"
            for name, value in sorted(settings.items())
            if name not in NOT_NAMED and options.get(name) != value
        ],
    )
    try:
        yield from _opened(server, into, options, side, user)
    finally:
        if socket != side:
            shutil.rmtree(socket, ignore_errors=True)


def _opened(
    server: RecoveredServer, data: Path, options: dict[str, str], side: Path, user: str | None
) -> Iterator[RecoveredServer]:
    """Start the server and yield it; start it again with a locale that its database needs."""
    environment = dict(os.environ)
    while True:
        child = Child("PostgreSQL", command(data, options), log=side / "postgres.log", user=user,
                      stop_signal="SIGINT", env=environment)  # fmt: skip
        try:
            child.wait_until(lambda: _ready(data), seconds=LONGEST_SECONDS)
            missing = _missing_locale(server.url)
            if missing is None:
                yield server
                return
        finally:
            child.stop()
        if (side / LOCALES / missing).exists():
            raise StackError(f"the restored database needs the locale {missing}: install it")
        server.overridden.append(provide_locale(missing, side / LOCALES))
        environment["LOCPATH"] = f"{side / LOCALES}:{SYSTEM_LOCALES}"


def _missing_locale(url: str) -> str | None:
    """Connect once; return the locale that the database needs and this machine lacks, if any."""
    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError as error:
        found = re.search(r'initialized with LC_\w+ "?([^\s"]+?)"?,', str(error))
        if found:
            return found[1]
        raise StackError(f"the restored database cannot be opened here: {error}") from None
    return None


def _check_version(data: Path) -> None:
    """Raise BackupError if the backup is of another major version than the programs."""
    theirs = (data / "PG_VERSION").read_text().strip()
    done = subprocess.run(
        [str(binaries() / "postgres"), "--version"], capture_output=True, text=True, check=True
    )
    ours = re.search(r"\d+", done.stdout.partition(")")[2])
    if ours is None or ours[0] != theirs:
        raise BackupError(
            f"the backup is of PostgreSQL {theirs}, and these programs are {done.stdout.strip()}: "
            "set FLOWS_POSTGRES_BIN to the folder of the server's version"
        )


def _server_user(folder: BackupFolder) -> str | None:
    """Return the user that runs the server: the archive's owner, who can read the WAL.

    None is the current one. The archive itself is left to its owner, as a server writes to it.
    """
    user = system_user()
    if user and folder.wal.is_dir() and (owner := folder.wal.stat().st_uid):
        return pwd.getpwuid(owner).pw_name
    return user


def _check_wal(folder: BackupFolder, backup: Backup, user: str | None) -> None:
    """Raise BackupError if an archived segment cannot be read, as recovery would end before it."""
    if not folder.wal.is_dir():
        return
    uid = pwd.getpwnam(user).pw_uid if user else os.geteuid()
    for file in sorted(folder.wal.iterdir()):
        status = file.stat()
        readable = status.st_mode & 0o004 or (status.st_uid == uid and status.st_mode & 0o400)
        if (
            file.name >= backup.first_wal
            and not readable
            and not (user is None and os.access(file, os.R_OK))
        ):
            raise BackupError(f"{file} cannot be read by {user or 'this user'}")


def _relink(folder: BackupFolder, backup: Backup) -> dict[str, Path]:
    """Point a backup's tablespaces to where the folder is now; return them by oid."""
    moved = {}
    for link in (folder.data(backup.label) / "pg_tblspc").iterdir():
        if link.is_symlink():
            place = folder.tablespaces(backup.label) / link.name
            if link.readlink() != place:
                link.unlink()
                link.symlink_to(place)
            moved[link.name] = place
    return moved


def _control_floors(data: Path) -> dict[str, int]:
    """Return the least values of the settings that the replayed WAL was written with."""
    done = subprocess.run(
        [str(binaries() / "pg_controldata"), str(data)],
        capture_output=True, text=True, check=True, env=os.environ | {"LC_ALL": "C"},
    )  # fmt: skip
    lines = dict(line.split(":", 1) for line in done.stdout.splitlines() if ":" in line)
    return {name: int(lines[line]) for name, line in CONTROL_FLOORS.items() if line in lines}


@contextmanager
def scratch(folder: BackupFolder, at: datetime | None) -> Iterator[RecoveredServer]:
    """Yield a recovered server; delete its data afterwards."""
    with (
        tempfile.TemporaryDirectory(prefix="drill-", dir=folder.folder) as scratch_folder,
        recovered(folder, Path(scratch_folder) / "postgres", at) as server,
    ):
        yield server


def restore(folder: BackupFolder, into: Path, at: datetime | None, *, archiving: bool) -> list[str]:
    """Recover a data directory at `into` and stop its server; delete the directory on failure.

    Return the settings of the server that were overridden meanwhile; its files keep them.
    """
    try:
        with recovered(folder, into, at, archiving=archiving) as server:
            invalidate_etags(server.url)
            return server.overridden
    except BaseException:
        shutil.rmtree(into, ignore_errors=True)
        shutil.rmtree(tablespaces_of(into), ignore_errors=True)
        raise


def restore_in_place(
    folder: BackupFolder, home: Path, at: datetime | None
) -> tuple[Path, list[str]]:
    """Recover the embedded server of FLOWS_HOME.

    Return the folder its old data are moved to, and the overridden settings as `restore` does.
    StackError if the stack is running. Nothing changes if recovery fails.
    """
    moment = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    data, fresh = home / "postgres", home / f"postgres.restoring-{moment}"
    aside = home / f"postgres.before-{moment}"
    with hold(home):
        for left in home.glob("postgres.restoring-*Z"):  # of an interrupted restore
            shutil.rmtree(left)
            shutil.rmtree(tablespaces_of(left), ignore_errors=True)
        overridden = restore(folder, fresh, at, archiving=True)
        if data.exists():
            data.rename(aside)
        fresh.rename(data)
    return aside, overridden


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
