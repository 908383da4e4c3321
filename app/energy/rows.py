"""Reading rows from the database and writing them, a batch at a time."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any

import psycopg
from psycopg import AsyncServerCursor
from psycopg.rows import tuple_row
from psycopg.types.string import TextLoader

from app.database import Connection
from app.energy.formats import Format
from app.energy.query import Statement

BATCH = 2000


async def batches(connection: Connection, statement: Statement) -> AsyncIterator[list[Any]]:
    """Yield the rows of a statement from a cursor in the database; numerics stay text."""
    # The whole result is wanted, so it must not be planned for its first rows.
    await connection.execute("set local cursor_tuple_fraction = 1")
    cursor: AsyncServerCursor[tuple[Any, ...]]
    async with AsyncServerCursor(connection, "rows", row_factory=tuple_row) as cursor:
        cursor.adapters.register_loader("numeric", TextLoader)
        await cursor.execute(statement.sql.encode(), statement.parameters)
        following = asyncio.create_task(cursor.fetchmany(BATCH))
        try:
            while found := await following:
                # The database finds the next batch while this one is written.
                following = asyncio.create_task(cursor.fetchmany(BATCH))
                await asyncio.sleep(0)
                yield found
        finally:
            following.cancel()
            with suppress(asyncio.CancelledError, psycopg.Error):
                await following


async def table(
    form: Format,
    members: dict[str, Any],
    columns: Sequence[str],
    rows: AsyncIterator[list[tuple[str, ...]]],
) -> AsyncIterator[str]:
    """Yield a body of rows whose values are written already, one per column."""
    lines, template = Lines(form), form.template(columns)
    yield form.head(members, columns)
    async for found in rows:
        yield lines.add([template % row for row in found])
    yield form.tail({}, empty=lines.empty)


class Lines:
    """Joins rows into pieces of a body, with separators between all of them."""

    def __init__(self, form: Format) -> None:
        self._between = form.between()
        self.empty = True

    def add(self, rows: Sequence[str]) -> str:
        """Return the piece for the next rows."""
        if not rows:
            return ""
        piece = ("" if self.empty else self._between) + self._between.join(rows)
        self.empty = False
        return piece
