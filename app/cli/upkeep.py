"""`flows db analyze | vacuum | reindex | prune | sizes`: upkeep while the database serves."""

from collections.abc import Callable
from dataclasses import asdict

import typer
from rich.console import Console
from rich.filesize import decimal

from app.cli.admin import admin_url, database_errors
from app.cli.output import Json, echo, print_json, show
from app.db import upkeep
from app.settings import Settings


def _run(work: Callable[[str, upkeep.UpkeepProgress], list[upkeep.Upkeep]], as_json: bool) -> None:
    """Run the steps with progress on standard error; print what was done."""
    console = Console(stderr=True)
    with database_errors(), console.status("…") as status:

        def progress(table: str, done: int, total: int) -> None:
            status.update(f"{done} of {total} tables: {table}")

        steps = work(admin_url(Settings()), progress)
    if as_json:
        print_json([asdict(step) for step in steps])
        return
    for step in steps:
        freed = step.bytes_before - step.bytes_after
        note = f", {decimal(freed)} freed" if freed > 0 else ""
        echo(f"{step.seconds:8.1f} s  {step.table} ({decimal(step.bytes_after)}{note})")
    freed = sum(step.bytes_before - step.bytes_after for step in steps)
    echo(f"{len(steps)} tables, {decimal(max(freed, 0))} freed")


def db_analyze(as_json: Json = False) -> None:
    """Collect the planner's statistics of all tables; readers and writers go on."""
    _run(upkeep.analyze, as_json)


def db_vacuum(as_json: Json = False) -> None:
    """Free the space of deleted rows in all tables, and analyze them; readers and writers go on."""
    _run(upkeep.vacuum, as_json)


def db_reindex(as_json: Json = False) -> None:
    """Build all indexes again beside the ones in use (CONCURRENTLY); readers and writers go on.

    It needs room for the largest index once more. After an interruption run it again: what was left
    behind is dropped first. The small index of an exclusion constraint stays as it is, for
    PostgreSQL builds none beside it.
    """
    _run(upkeep.reindex, as_json)


def db_prune(as_json: Json = False) -> None:
    """Remove rows older than their retention (flows.retention), and expired revocations."""
    with database_errors():
        done = upkeep.prune_rows(admin_url(Settings()))
    if as_json:
        print_json([{"task": task, "done": count} for task, count in done])
        return
    for task, count in done:
        echo(f"{task}: {count}")


def db_sizes(as_json: Json = False) -> None:
    """Show the size, dead rows and last upkeep of each table, and the health of the database."""
    with database_errors():
        found = upkeep.sizes(admin_url(Settings()))
    if as_json:
        print_json(found)
        return
    tables = [
        table | {"size": decimal(table["table_bytes"]), "indexes": decimal(table["index_bytes"])}
        for table in found["tables"]
    ]
    columns = ("table", "size", "indexes", "live_rows", "dead_rows", "vacuumed_at", "analyzed_at")
    show(tables, columns, as_json=False)
    echo(
        f"database {decimal(found['database_bytes'])}, {found['connections']} connections, "
        f"{found['cache_hit_percent']} % of blocks from the cache, oldest transaction "
        f"{found['oldest_transaction_seconds'] or 0:.0f} s, transaction ids aged "
        f"{found['transaction_id_age']:,}"
    )


def add_upkeep(db: typer.Typer) -> None:
    """Add the commands to `flows db`."""
    for command in (db_analyze, db_vacuum, db_reindex, db_prune, db_sizes):
        db.command(command.__name__.removeprefix("db_"))(command)
