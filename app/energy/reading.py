"""Reading columns from the database."""

import asyncio
import json
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from functools import partial
from typing import Any, TypeVar, cast

import orjson
import polars as pl
import psycopg
from psycopg.rows import tuple_row

from app.db.batch import Query, QueryRows, run_batch
from app.db.session import Connection
from app.energy.query import Statement

# Column of a statement → its type in the frame.
Schema = Mapping[str, pl.DataType | type[pl.DataType]]
Read = Callable[[], Awaitable[pl.DataFrame]]
T = TypeVar("T")
# Rows that take less time than a thread does to begin, and bytes of a row, about.
FEW, BYTES = 2500, 30
# Rows that PostgreSQL sends as one: a connection keeps the memory of its largest for good.
PART = 2000
COMMIT = Query("commit")


async def read_frame(
    connection: Connection, statement: Statement, schema: Schema, *, keep: bool = False
) -> pl.DataFrame:
    """Return a statement's columns of these names and types, in any order of rows.

    `keep` lets PostgreSQL keep the plan, which is worth it where few rows are read.

    PostgreSQL returns each column as arrays of JSON: of 36,000 rows of six numbers that takes
    24 ms, as rows of COPY 39, fetched one by one 51. Sums are exact, as they are of numeric type;
    a number then is the closest double, whose shortest text is the sum's own. What no finite double
    is close to is null.
    """
    if keep:
        sql = _as_arrays(statement, schema)
        (rows,) = await run_batch(connection, [Query(sql, statement.parameters)])
        return _frame(_arrays(rows, schema), schema)
    async with aclosing(read_parts(connection, statement, schema)) as parts:
        frames = [part async for part in parts]
    return pl.concat(frames) if frames else pl.DataFrame(schema=schema)


async def read_parts(
    connection: Connection, statement: Statement, schema: Schema, order: str = "null::integer"
) -> AsyncGenerator[pl.DataFrame, None]:
    """Yield a statement's columns in parts, which follow each other in an order.

    Within a part the rows have any order.
    """
    # A stream is never prepared, so that each statement is planned for its own parameters.
    cursor = connection.cursor(row_factory=tuple_row)
    sql = _in_parts(statement, schema, order).encode()
    streamed = cast(
        "AsyncGenerator[tuple[str, ...], None]", cursor.stream(sql, statement.parameters)
    )
    async with aclosing(streamed) as rows:
        async for texts in rows:
            arrays = [text.encode() for text in texts]
            yield await computed(sum(map(len, arrays)) / BYTES, partial(_frame, arrays, schema))


def _frame(arrays: Sequence[bytes], schema: Schema) -> pl.DataFrame:
    return pl.DataFrame(
        [
            pl.Series(name, _values(array, kind), dtype=kind)
            for array, (name, kind) in zip(arrays, schema.items(), strict=True)
        ]
    )


def _values(array: bytes, kind: pl.DataType | type[pl.DataType]) -> list[Any]:
    """Return the values of an array of JSON; of `Float64`, null for what is no finite double.

    PostgreSQL writes NaN and infinities as texts, and every number with all of its digits.
    """
    try:
        values: list[Any] = orjson.loads(array)
    except orjson.JSONDecodeError:  # of a number that is too large
        values = json.loads(array, parse_int=float)
    else:
        if kind != pl.Float64 or b'"' not in array:
            return values
    return [
        value if isinstance(value, int | float) and math.isfinite(value) else None
        for value in values
    ]


async def computed(rows: float, work: Callable[[], T]) -> T:
    """Return what `work` returns; for many rows it runs beside the requests of others."""
    return work() if rows <= FEW else await asyncio.to_thread(work)


async def read_few(
    connection: Connection, statement: Statement, schema: Schema, *, last: bool
) -> dict[str, list[Any]]:
    """Return the columns of few rows as lists, for which a frame would take longer.

    With `last`, the transaction ends in the same round trip.
    """
    # Planned each time: without its values, a plan may read the days of every ESCO.
    query = Query(_as_arrays(statement, schema), statement.parameters, keep=False)
    rows, *_ = await run_batch(connection, [query, *([COMMIT] if last else [])])
    found: dict[str, list[Any]] = {}
    for (name, kind), array in zip(schema.items(), _arrays(rows, schema), strict=True):
        values = _values(array, kind)
        if kind == pl.Float64:  # 5, as PostgreSQL writes it, is 5.0
            values = [None if value is None else float(value) for value in values]
        found[name] = values
    return found


def _arrays(rows: QueryRows, schema: Schema) -> list[bytes]:
    """Return the columns of the one row that `_as_arrays` asks for; of no rows it has null."""
    return [rows.result.get_value(0, number) or b"[]" for number in range(len(schema))]


def _as_arrays(statement: Statement, schema: Schema) -> str:
    arrays = ", ".join(f"json_agg({name})::text" for name in schema)
    return f"select {arrays} from ({statement.sql}) as rows"


def _in_parts(statement: Statement, schema: Schema, order: str) -> str:
    numbered = (
        f"select *, (row_number() over (order by {order}) - 1) / {PART} as part"
        f" from ({statement.sql}) as rows"
    )
    return f"{_as_arrays(Statement(numbered, {}), schema)} group by part order by part"


async def read_ahead(reads: Iterable[Read]) -> AsyncGenerator[pl.DataFrame, None]:
    """Yield the frames of several reads; each is read while the one before is written."""
    following: asyncio.Future[pl.DataFrame] | None = None
    reads = list(reads)
    if len(reads) == 1:
        yield await reads[0]()  # needs no task
        return
    try:
        for read in reads:
            before, following = following, None
            if before is not None:
                frame = await before
                following = asyncio.ensure_future(read())
                yield frame
            else:
                following = asyncio.ensure_future(read())
        if following is not None:
            yield await following
    finally:
        if following is not None and not following.done():
            following.cancel()
            with suppress(asyncio.CancelledError, psycopg.Error):
                await following
