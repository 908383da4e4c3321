"""Whether the server archives its WAL: what is lost with the disk, and what fills it."""

from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg.rows import class_row

ARCHIVER_STATE = """
    select
        current_setting('archive_mode') <> 'off' as on,
        last_archived_time as last_at,
        -- A later success means that it got over it.
        coalesce(last_failed_time > coalesce(last_archived_time, '-infinity'), false) as failing,
        last_failed_wal as failed_wal,
        extract(epoch from clock_timestamp() - last_archived_time)::float as seconds
    from pg_catalog.pg_stat_archiver
"""


@dataclass(frozen=True, slots=True)
class Archiver:
    """How archiving stands; `last_at` is when a segment last arrived, `seconds` how long ago."""

    on: bool
    last_at: datetime | None
    failing: bool
    failed_wal: str | None
    seconds: float | None


def archiver(admin_url: str) -> Archiver:
    """Ask the server."""
    with psycopg.connect(admin_url) as connection:
        row = connection.cursor(row_factory=class_row(Archiver)).execute(ARCHIVER_STATE).fetchone()
    assert row is not None  # noqa: S101  (one row, always)
    return row
