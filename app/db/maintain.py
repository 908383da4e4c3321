"""Maintenance of the database that the engine does not do by itself."""

from collections.abc import Callable

import psycopg


def maintain(admin_url: str) -> list[tuple[str, int]]:
    """Create future partitions and remove rows older than their retention; return (task, count).

    On TimescaleDB policies do most of this, and only the log of changes is compacted.
    """
    with psycopg.connect(admin_url) as connection:
        connection.execute("set role flows_owner")
        done = connection.execute("select task, done from flows.maintain()").fetchall()
    return [(task, count) for task, count in done]


def follow(admin_url: str, progress: Callable[[int], None] = lambda changes: None) -> int:
    """Update the aggregates for all changes now; return the number of changes.

    Without it, this happens within a minute. `progress` is called with the number of changes before
    the work starts.
    """
    # TimescaleDB commits each month of a refresh, so this must not be one transaction.
    with psycopg.connect(admin_url, autocommit=True) as connection:
        (pending,) = connection.execute(
            "select count(*) from flows.change where followed_at is null"
        ).fetchone() or (0,)
        progress(pending)
        connection.execute("call flows.follow()")
    return int(pending)
