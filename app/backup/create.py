"""Making base backups with PostgreSQL's own programs, verifying them, and removing old ones."""

import logging
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import psycopg
from psycopg.rows import class_row

from app.backup.folder import Backup, BackupError, BackupFolder
from app.embedded.programs import run_program

logger = logging.getLogger(__name__)

# For /metrics: gateways see the database, not the folder.
RECORD = """
    insert into gateway.last_backup (ended_at, kind, size) values (%s, %s, %s)
    on conflict (only_row) do update
        set ended_at = excluded.ended_at, kind = excluded.kind, size = excluded.size
"""
# The time is that of the server's clock, which recovery to a point in time uses.
SERVER = """
    select clock_timestamp() as time, current_database() as database,
        (select r.rolname from pg_roles as r where r.rolsuper and r.rolcanlogin
            order by r.rolname <> current_user, r.oid limit 1) as superuser,
        (select coalesce(json_agg(json_build_array(t.oid, pg_tablespace_location(t.oid))), '[]')
            from pg_tablespace as t where pg_tablespace_location(t.oid) ~ '^/') as tablespaces
"""


@dataclass(frozen=True, slots=True)
class _Server:
    time: datetime
    database: str
    superuser: str
    tablespaces: list[tuple[int, str]]


def create(folder: BackupFolder, admin_url: str, *, incremental: bool, shown: bool) -> Backup:
    """Back up the whole server and return the backup; BackupError if that fails.

    An `incremental` backup holds the changes since the newest backup. Every file is verified
    against the manifest before the backup is recorded as complete.
    """
    with folder.held():
        parent = folder.latest() if incremental else None
        label = folder.new()
        data = folder.data(label)
        server = _server(admin_url)
        options = ["--checkpoint=fast", "--manifest-checksums=SHA256", f"--label=flows {label}"]
        if parent:
            options.append(f"--incremental={folder.data(parent.label) / 'backup_manifest'}")
        for oid, location in server.tablespaces:
            moved = folder.tablespaces(label) / str(oid)
            options.append(f"--tablespace-mapping={_escaped(location)}={_escaped(str(moved))}")
        if shown:
            options.append("--progress")
        run_program("pg_basebackup", f"--pgdata={data}", f"--dbname={admin_url}", "--no-password",
            *options, shown=shown)  # fmt: skip
        run_program("pg_verifybackup", "--quiet", str(data))
        backup = Backup(
            label,
            "incremental" if parent else "full",
            parent.label if parent else None,
            server.time,
            _server(admin_url).time,
            _first_wal(data),
            sum(
                file.stat().st_size
                for part in (data, folder.tablespaces(label))
                for file in part.rglob("*")
                if file.is_file()
            ),
            server.database,
            server.superuser,
        )
        folder.add(backup)
        _record(admin_url, backup)
        return backup


def prune(folder: BackupFolder, now: datetime, keep: timedelta) -> list[Backup]:
    """Remove the backups and WAL that recovery to any time within `keep` of now does not need.

    Return the removed backups. The newest full backup older than that is kept with everything after
    it, because recovery to the earliest time starts from it.
    """
    with folder.held():
        backups = folder.backups()
        fulls = [b for b in backups if b.kind == "full" and b.ended_at <= now - keep]
        if not fulls:
            return []
        first = fulls[-1]
        gone = [backup for backup in backups if backup.label < first.label]
        for backup in reversed(gone):
            folder.remove(backup)
        if folder.wal.is_dir():
            run_program(
                "pg_archivecleanup", "--clean-backup-history", str(folder.wal), first.first_wal
            )
        return gone


def _server(admin_url: str) -> _Server:
    with psycopg.connect(admin_url) as connection:
        row = connection.cursor(row_factory=class_row(_Server)).execute(SERVER).fetchone()
    assert row is not None  # noqa: S101  (the query returns exactly one row)
    return row


def _record(admin_url: str, backup: Backup) -> None:
    """Write a backup into the database; one without the table is backed up all the same."""
    try:
        with psycopg.connect(admin_url) as connection:
            connection.execute("set role flows_owner")
            connection.execute(RECORD, (backup.ended_at, backup.kind, backup.bytes))
    except psycopg.Error as error:
        logger.warning("the backup is not recorded in the database: %s", str(error).strip())


def _escaped(path: str) -> str:
    """Return a path for --tablespace-mapping, in which = is special."""
    return path.replace("=", "\\=")


def _first_wal(data: Path) -> str:
    label = data / "backup_label"
    found = re.search(r"^START WAL LOCATION: \S+ \(file (\w+)\)", label.read_text())
    if found is None:
        raise BackupError(f"{label} does not name a WAL segment")
    return found[1]
