"""Reading rows from the database and writing them, batch by batch."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import psycopg
from psycopg import AsyncClientCursor
from psycopg.rows import tuple_row
from psycopg.types.string import TextLoader

from app.db.session import Connection
from app.energy.formats import Format
from app.energy.query import Statement

BATCH = 2000
Rows = list[tuple[Any, ...]]


@asynccontextmanager
async def reading(
    connection: Connection, statement: Statement, batch: int = BATCH
) -> AsyncIterator[AsyncIterator[Rows]]:
    """Give the rows of a statement in batches of `batch`; values of type numeric are strings.

    The first batch is fetched at once, and each next one while the previous one is written.
    """
    fetch = f"fetch {batch} from rows"
    # A client cursor inserts the parameters into the SQL itself, so it can send several statements
    # at once. That is safe: they are ids, times, numbers and our own words, never a caller's text.
    cursor = AsyncClientCursor(connection, row_factory=tuple_row)
    cursor.adapters.register_loader("numeric", TextLoader)

    async def first() -> Rows:
        sql = f"close all; declare rows no scroll cursor for {statement.sql}; {fetch}"
        await cursor.execute(sql.encode(), statement.parameters)
        while cursor.nextset():
            pass
        return await cursor.fetchall()

    async def another() -> Rows:
        await cursor.execute(fetch.encode())
        return await cursor.fetchall()

    following = asyncio.create_task(first())

    async def batches() -> AsyncIterator[Rows]:
        nonlocal following
        while len(found := await following) == batch:
            following = asyncio.create_task(another())
            await asyncio.sleep(0)
            yield found
        if found:
            yield found

    await asyncio.sleep(0)
    try:
        yield batches()
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
    """Yield a body of rows whose values are encoded already, one per column."""
    lines, template = Lines(form), form.template(columns)
    yield form.head(members, columns)
    async for found in rows:
        yield lines.add([template % row for row in found])
    yield form.tail({}, empty=lines.empty)


class Lines:
    """Joins rows into pieces of a body and puts separators between all rows."""

    def __init__(self, form: Format) -> None:
        self._between = form.between()
        self.empty = True

    def add(self, rows: Sequence[str]) -> str:
        """Return the next piece of the body; "" for no rows."""
        if not rows:
            return ""
        piece = ("" if self.empty else self._between) + self._between.join(rows)
        self.empty = False
        return piece
