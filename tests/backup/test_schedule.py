"""The schedule of backups: each step when it is due, and a failed one again later."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import pytest

from app.backup.folder import Backup, BackupError, BackupFolder
from app.backup.schedule import Keeper, Step, due
from app.settings import BackupSettings

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
NOBODY = "postgresql://nobody@127.0.0.1:1/flows?connect_timeout=2"
SETTINGS = BackupSettings(full_hours=24, incremental_hours=6, drill_hours=168)


def backup(kind: Literal["full", "incremental"], hours: float) -> Backup:
    """Return a backup that began some hours ago and took a quarter of one."""
    started = NOW - timedelta(hours=hours)
    ended = started + timedelta(minutes=15)
    return Backup(f"{started:%Y%m%dT%H%M%SZ}", kind, None, started, ended, "0" * 24, 1)


@pytest.mark.parametrize(
    ("backups", "drilled", "expected"),
    [
        ([], None, ["full", "prune", "drill"]),
        ([], 1, ["full", "prune"]),
        ([("full", 24)], 1, ["full", "prune"]),
        ([("full", 25), ("incremental", 1)], 1, ["full", "prune"]),
        ([("full", 23.9), ("incremental", 6)], 1, ["incremental"]),
        ([("full", 6)], 1, ["incremental"]),
        ([("full", 12), ("incremental", 5.9)], 1, []),
        ([("full", 5.9)], 168, ["drill"]),
        ([("full", 5.9)], 167, []),
        ([("full", 7)], 200, ["incremental", "drill"]),
    ],
)
def test_steps_are_due_by_the_age_of_what_there_is(
    backups: list[tuple[Literal["full", "incremental"], float]],
    drilled: float | None,
    expected: list[Step],
) -> None:
    drilled_at = None if drilled is None else NOW - timedelta(hours=drilled)
    assert due(NOW, [backup(*each) for each in backups], drilled_at, SETTINGS) == expected


def test_incremental_backups_and_drills_can_be_turned_off() -> None:
    off = BackupSettings(full_hours=24, incremental_hours=0, drill_hours=0)
    assert due(NOW, [backup("full", 20)], None, off) == []


def test_a_step_that_failed_is_logged_and_waits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keeper = Keeper(BackupFolder(tmp_path), NOBODY, SETTINGS)
    assert keeper.run_due()
    (said,) = caplog.messages
    assert said.startswith("backup schedule: full failed: ")
    # Those that build on it wait as well.
    assert not keeper.run_due()
    assert caplog.messages == [said]


def test_the_end_of_a_drill_is_kept(tmp_path: Path) -> None:
    folder = BackupFolder(tmp_path / "backups")
    assert folder.last_drill() is None
    folder.record_drill(["wlce has 3 meters and sees 0"])
    found = folder.last_drill()
    assert found
    assert found[1] == ["wlce has 3 meters and sees 0"]
    assert datetime.now(UTC) - found[0] < timedelta(minutes=5)
    (folder.folder / "drill.json").write_text("{")
    with pytest.raises(BackupError, match="cannot be read"):
        folder.last_drill()
