"""Checks that the backups would help today: their age, their chains, and the archived WAL."""

from datetime import UTC, datetime, timedelta

from app.backup.folder import BackupError, BackupFolder
from app.db.archiver import Archiver


def find_faults(folder: BackupFolder, state: Archiver, oldest: timedelta) -> list[str]:
    """Return what is wrong, a sentence each: archiving, a gap in a chain, a backup past `oldest`.

    It finds an archive that fails long before the server's disk is full.
    """
    faults = []
    if not state.on:
        faults.append("no WAL is archived (archive_mode is off)")
    if state.failing:
        faults.append(f"archiving fails since segment {state.failed_wal}")
    try:
        newest = folder.latest()
        folder.chain(newest)
        if datetime.now(UTC) - newest.ended_at > oldest:
            faults.append(f"the newest backup ended at {newest.ended_at.isoformat()}")
    except BackupError as error:
        faults.append(str(error))
    return faults
