"""State of WAL archiving: if it fails, a lost disk loses data, and WAL fills the disk."""

from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg.rows import class_row

ARCHIVER_STATE = """
    select
        current_setting('archive_mode') <> 'off' as on,
        last_archived_time as last_at,
        -- A success after the last failure means that archiving has recovered.
        coalesce(last_failed_time > coalesce(last_archived_time, '-infinity'), false) as failing,
        last_failed_wal as failed_wal,
        extract(epoch from clock_timestamp() - last_archived_time)::float as seconds
    from pg_catalog.pg_stat_archiver
"""


@dataclass(frozen=True, slots=True)
class Archiver:
    """The state of WAL archiving; the last segment was archived at `last_at`, `seconds` ago."""

    on: bool
    last_at: datetime | None
    failing: bool
    failed_wal: str | None
    seconds: float | None


def archiver(admin_url: str) -> Archiver:
    """Return the state of archiving on the server."""
    with psycopg.connect(admin_url) as connection:
        row = connection.cursor(row_factory=class_row(Archiver)).execute(ARCHIVER_STATE).fetchone()
    assert row is not None  # noqa: S101  (the query returns exactly one row)
    return row
