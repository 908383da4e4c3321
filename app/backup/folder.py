"""The layout of FLOWS_BACKUP_FOLDER and the chains of backups; needs no server.

base/20261124T120000Z/              a base backup as pg_basebackup writes it, with its manifest
base/20261124T120000Z.tablespaces/  a folder for each of the server's tablespaces, named by its oid
base/20261124T120000Z.json          its description; a backup without it is incomplete
wal/                                the archived WAL segments
"""

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

Kind = Literal["full", "incremental"]
LABEL = "%Y%m%dT%H%M%SZ"
TABLESPACES = ".tablespaces"


class BackupError(Exception):
    """A backup cannot be made or used; the message is one line for the user."""


@dataclass(frozen=True, slots=True)
class Backup:
    """A complete base backup; `first_wal` is the WAL segment that recovery starts with.

    `database` is the database with the schema flows, `superuser` a role that can log in to it.
    """

    label: str
    kind: Kind
    parent: str | None
    started_at: datetime
    ended_at: datetime
    first_wal: str
    bytes: int
    database: str = "flows"
    superuser: str = "postgres"


DRILL = "drill.json"


class BackupFolder:
    """A folder of backups; finds backups and the chains in which they build on one another."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.wal = self.folder / "wal"
        self._base = self.folder / "base"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Lock the folder against other backups and removals; BackupError if it is locked."""
        try:
            self._base.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = (self.folder / "lock").open("w")
        except OSError as error:
            raise BackupError(f"cannot write to {self.folder}: {error.strerror}") from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BackupError(f"another backup is at work in {self.folder}") from None
            yield

    def data(self, label: str) -> Path:
        """Return the folder with the files of a backup."""
        return self._base / label

    def tablespaces(self, label: str) -> Path:
        """Return the folder with the tablespaces of a backup; it exists if there are any."""
        return self._base / f"{label}{TABLESPACES}"

    def backups(self) -> list[Backup]:
        """Return all complete backups, oldest first."""
        return [_read_backup(file) for file in sorted(self._base.glob("*.json"))]

    def new(self) -> str:
        """Return an unused label for a backup that starts now; remove incomplete backups."""
        known = {backup.label for backup in self.backups()}
        if self._base.is_dir():
            for left in self._base.iterdir():
                if left.is_dir() and left.name.removesuffix(TABLESPACES) not in known:
                    shutil.rmtree(left)
        label = datetime.now(UTC).strftime(LABEL)
        if label in known:
            raise BackupError(f"a backup {label} exists already; try again in a second")
        return label

    def add(self, backup: Backup) -> None:
        """Record a backup as complete."""
        partial = self._base / f"{backup.label}.partial"
        partial.write_text(json.dumps(asdict(backup), indent=2, default=str) + "\n")
        partial.replace(self._base / f"{backup.label}.json")

    def remove(self, backup: Backup) -> None:
        """Delete a backup: first its description, then its files."""
        (self._base / f"{backup.label}.json").unlink()
        shutil.rmtree(self.data(backup.label))
        shutil.rmtree(self.tablespaces(backup.label), ignore_errors=True)

    def record_drill(self, faults: list[str]) -> None:
        """Record the end of a drill and what it found."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        text = json.dumps({"ended_at": datetime.now(UTC).isoformat(), "faults": faults})
        partial = self.folder / "drill.partial"
        partial.write_text(text + "\n")
        partial.replace(self.folder / DRILL)

    def last_drill(self) -> tuple[datetime, list[str]] | None:
        """Return the end of the newest drill and its faults, or None if there was none."""
        try:
            found = json.loads((self.folder / DRILL).read_text())
            return datetime.fromisoformat(found["ended_at"]), list(found["faults"])
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError, OSError) as error:
            raise BackupError(f"{self.folder / DRILL} cannot be read: {error}") from None

    def find(self, label: str) -> Backup:
        """Return the backup with this label; BackupError if there is none."""
        for backup in self.backups():
            if backup.label == label:
                return backup
        raise BackupError(f"there is no backup {label}; see `flows backup list`")

    def latest(self, at: datetime | None = None) -> Backup:
        """Return the newest backup that ended by `at` (None: the newest of all).

        Recovery to `at` can start from it. BackupError if there is none.
        """
        ended = [backup for backup in self.backups() if at is None or backup.ended_at <= at]
        if not ended:
            when = f" that had ended by {at.isoformat()}" if at else ""
            raise BackupError(f"there is no backup{when} in {self.folder}; see `flows backup list`")
        return ended[-1]

    def chain(self, backup: Backup) -> list[Backup]:
        """Return a backup and all those it builds on, the full one first.

        BackupError if one of them is missing.
        """
        known = {known.label: known for known in self.backups()}
        links = [backup]
        while (parent := links[0].parent) is not None:
            if parent not in known:
                raise BackupError(
                    f"{backup.label} cannot be restored: {links[0].label} builds on {parent}, "
                    "which is missing"
                )
            links.insert(0, known[parent])
        return links


def _read_backup(file: Path) -> Backup:
    try:
        found = json.loads(file.read_text())
        times = {name: datetime.fromisoformat(found[name]) for name in ("started_at", "ended_at")}
        return Backup(**found | times)
    except (ValueError, TypeError, KeyError) as error:
        raise BackupError(f"{file} cannot be read: {error}") from None
