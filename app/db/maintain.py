"""The upkeep of the database: what no policy of the engine does by itself."""

from collections.abc import Callable

import psycopg


def maintain(admin_url: str) -> list[tuple[str, int]]:
    """Make partitions ahead, remove what is past its retention; return (task, how much) done.

    On TimescaleDB its policies do most of this; there it only tidies the log of changes.
    """
    with psycopg.connect(admin_url) as connection:
        connection.execute("set role flows_owner")
        done = connection.execute("select task, done from flows.maintain()").fetchall()
    return [(task, count) for task, count in done]


def follow(admin_url: str, progress: Callable[[int], None] = lambda changes: None) -> int:
    """Bring the aggregates behind every change now, not within a minute; return how many.

    `progress` hears how many changes there are before the work begins.
    """
    # TimescaleDB commits each month of a refresh, so this must not be one transaction.
    with psycopg.connect(admin_url, autocommit=True) as connection:
        (pending,) = connection.execute(
            "select count(*) from flows.change where followed_at is null"
        ).fetchone() or (0,)
        progress(pending)
        connection.execute("call flows.follow()")
    return int(pending)
