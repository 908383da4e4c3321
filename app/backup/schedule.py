"""The schedule of backups: full and incremental ones, pruning and drills, each when it is due."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import Literal

import psycopg

from app.backup.create import create, prune
from app.backup.drill import drill
from app.backup.folder import Backup, BackupError, BackupFolder
from app.embedded.process import StackError
from app.settings import BackupSettings

logger = logging.getLogger(__name__)

Step = Literal["full", "incremental", "prune", "drill"]
RETRY = timedelta(minutes=15)


def due(
    now: datetime, backups: list[Backup], drilled_at: datetime | None, settings: BackupSettings
) -> list[Step]:
    """Return the steps that are due, in order; `backups` are all there are, oldest first.

    Old backups are pruned after a full one. A drill waits for the first backup.
    """
    full_at = max((one.started_at for one in backups if one.kind == "full"), default=None)
    newest_at = max((one.started_at for one in backups), default=None)
    steps: list[Step] = []
    if full_at is None or now - full_at >= timedelta(hours=settings.full_hours):
        steps += ["full", "prune"]
    elif (
        settings.incremental_hours
        and newest_at is not None
        and now - newest_at >= timedelta(hours=settings.incremental_hours)
    ):
        steps.append("incremental")
    if settings.drill_hours and (
        drilled_at is None or now - drilled_at >= timedelta(hours=settings.drill_hours)
    ):
        steps.append("drill")
    return steps


class Keeper:
    """Runs the steps that are due and logs each; one that failed waits before it is due again."""

    def __init__(self, folder: BackupFolder, url: str, settings: BackupSettings) -> None:
        self._folder, self._url, self._settings = folder, url, settings
        self._failed_at: dict[Step, datetime] = {}
        self._work: dict[Step, Callable[[], str]] = {
            "full": lambda: self._create(incremental=False),
            "incremental": lambda: self._create(incremental=True),
            "prune": self._prune,
            "drill": self._drill,
        }

    def run_due(self) -> bool:
        """Run what is due; return whether a step failed."""
        failed = False
        for step in self._due():
            try:
                logger.info("backup schedule: %s: %s", step, self._work[step]())
                self._failed_at.pop(step, None)
            except (BackupError, StackError, OSError, psycopg.Error) as error:
                logger.error("backup schedule: %s failed: %s", step, str(error).strip())
                self._failed_at[step] = datetime.now(UTC)
                failed = True
                break  # the next steps build on this one
        return failed

    def _due(self) -> list[Step]:
        now = datetime.now(UTC)
        try:
            drilled = self._folder.last_drill()
            steps = due(now, self._folder.backups(), drilled and drilled[0], self._settings)
        except BackupError as error:
            logger.error("backup schedule: %s", error)
            return []
        # The steps after one that failed build on it, so they wait with it.
        return list(takewhile(lambda step: self._may_run(step, now), steps))

    def _may_run(self, step: Step, now: datetime) -> bool:
        return step not in self._failed_at or now - self._failed_at[step] >= RETRY

    def _create(self, *, incremental: bool) -> str:
        made = create(self._folder, self._url, incremental=incremental, shown=False)
        return f"{made.label}, {made.bytes:,} bytes"

    def _prune(self) -> str:
        keep = timedelta(days=self._settings.keep_days)
        return f"{len(prune(self._folder, datetime.now(UTC), keep))} backups removed"

    def _drill(self) -> str:
        report = drill(self._folder, self._url, None)
        self._folder.record_drill(report.faults)
        if report.faults:
            raise BackupError("; ".join(report.faults))
        return f"{sum(one['rows'] for one in report.series):,} rows recovered"
