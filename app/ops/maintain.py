"""The upkeep of the database: what no policy of the engine does by itself."""

import psycopg


def maintain(admin_url: str) -> list[tuple[str, int]]:
    """Make partitions ahead, remove what is past its retention; return (task, how much) done.

    On TimescaleDB its policies do most of this; there it only tidies the log of changes.
    """
    with psycopg.connect(admin_url) as connection:
        connection.execute("set role flows_owner")
        done = connection.execute("select task, done from flows.maintain()").fetchall()
    return [(task, count) for task, count in done]


def follow(admin_url: str) -> None:
    """Bring the aggregates behind every change now, instead of within a minute."""
    # TimescaleDB commits each month of a refresh, so this must not be one transaction.
    with psycopg.connect(admin_url, autocommit=True) as connection:
        connection.execute("call flows.follow()")
