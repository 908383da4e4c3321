"""The state of imports in the database, where every gateway finds it."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from app.db.principal import Principal
from app.db.session import Pool, caller_session, inserting_session


@dataclass(frozen=True, slots=True)
class NewImport:
    """A file to import: its content's and options' digest, and what is told of it."""

    run: UUID
    digest: str
    file_name: str | None
    size: int
    options: dict[str, Any]


async def begin_import(pool: Pool, caller: Principal, new: NewImport) -> tuple[UUID, bool]:
    """Return the id of the import with this content, and whether it begins with this call."""
    async with inserting_session(pool, caller) as connection:
        cursor = await connection.execute(
            "select id, begun from gateway.begin_import(%s, %s, %s, %s, %s)",
            (new.run, new.digest, new.file_name, new.size, Jsonb(new.options)),
        )
        row = await cursor.fetchone()
    assert row is not None  # noqa: S101  (the function returns exactly one row)
    return row["id"], row["begun"]


async def read_import(
    pool: Pool, caller: Principal, import_id: UUID, *, to_writer: bool = False
) -> dict[str, Any] | None:
    """Return an import of the caller's ESCO, or None; `to_writer` is for one without `read`."""
    session = inserting_session if to_writer else caller_session
    async with session(pool, caller) as connection:
        cursor = await connection.execute("select * from gateway.read_import(%s)", (import_id,))
        return await cursor.fetchone()


async def start_import(pool: Pool, import_id: UUID, run: UUID) -> bool:
    """Note that an import begins; return False if another attempt has taken its place."""
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "select gateway.start_import(%s, %s) as started", (import_id, run)
        )
        row = await cursor.fetchone()
    return bool(row and row["started"])


async def keep_imports(pool: Pool, rows: dict[UUID, int]) -> None:
    """Note that this gateway still has the attempts, and the rows that each has read."""
    async with pool.connection() as connection:
        await connection.execute(
            "select gateway.keep_imports(%s, %s)", (list(rows), list(rows.values()))
        )


async def fail_import(pool: Pool, run: UUID, rows: int, error: str) -> None:
    """Note that an attempt has failed, unless its end is noted already."""
    async with pool.connection() as connection:
        await connection.execute(
            "select gateway.finish_import(%s, 'failed', %s, %s, null)", (run, rows, error)
        )
