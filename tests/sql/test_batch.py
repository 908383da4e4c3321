"""Statements sent together: their rows, their errors, and what the connection is afterwards."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from uuid import UUID

import psycopg
import pytest
from psycopg import AsyncConnection, pq
from psycopg.rows import dict_row

from app.db.batch import MOST_PREPARED, ROWS_AT_A_TIME, EarlyRows, Query, run_batch
from app.db.session import Connection
from tests.conftest import Stack


def connected(stack: Stack, work: Callable[[Connection], Awaitable[None]]) -> None:
    """Call `work` with a connection that commits each statement."""

    async def run() -> None:
        connection = await AsyncConnection.connect(
            stack.contract["database_url"], row_factory=dict_row, autocommit=True
        )
        async with connection:
            await work(connection)

    asyncio.run(run())


def test_values_come_back_as_they_were_given(stack: Stack) -> None:
    given = {
        "text": "it's %s \\ \"", "none": None, "id": UUID(int=7), "ids": [UUID(int=1)],
        "at": datetime(2024, 3, 31, 1, tzinfo=UTC), "words": ["a,b", "{}", ""],
    }  # fmt: skip

    async def work(connection: Connection) -> None:
        sql = (
            "select %(text)s::text as text, %(none)s::text as none, %(id)s::uuid as id,"
            " %(ids)s::uuid[] as ids, %(at)s::timestamptz as at, %(words)s::text[] as words,"
            " 7 %% 4 as rest"
        )
        for _ in range(3):
            (rows,) = await run_batch(connection, [Query(sql, given)])
            assert rows.dicts() == [given | {"rest": 3}]
        (none,) = await run_batch(connection, [Query("select 1 where false")])
        assert none.tuples() == []

    connected(stack, work)


@pytest.mark.parametrize("count", [0, ROWS_AT_A_TIME, 2 * ROWS_AT_A_TIME + 1])
def test_all_rows_come_however_many_are_made_at_a_time(stack: Stack, count: int) -> None:
    async def work(connection: Connection) -> None:
        (rows,) = await run_batch(connection, [Query(f"select generate_series(1, {count})")])
        assert [number for (number,) in rows] == list(range(1, count + 1))
        assert len(rows.tuples()) == len(rows.dicts()) == count

    connected(stack, work)


def test_an_error_ends_the_batch_and_leaves_the_connection(stack: Stack) -> None:
    async def work(connection: Connection) -> None:
        good = Query("select %(n)s::integer as n", {"n": 1})
        for _ in range(2):
            with pytest.raises(psycopg.errors.DivisionByZero):
                await run_batch(connection, [good, Query("select 1 / (random() * 0)::int"), good])
            assert connection.pgconn.pipeline_status == pq.PipelineStatus.OFF
            assert [rows.tuples() for rows in await run_batch(connection, [good, good])] == [
                [(1,)], [(1,)],
            ]  # fmt: skip
            cursor = await connection.execute("select 2 as n")
            assert await cursor.fetchone() == {"n": 2}

    connected(stack, work)


def test_a_cancelled_batch_ends_its_query(stack: Stack) -> None:
    async def work(connection: Connection) -> None:
        task = asyncio.create_task(run_batch(connection, [Query("select pg_sleep(60)")]))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        if not connection.closed:
            (rows,) = await run_batch(connection, [Query("select 1")])
            assert rows.tuples() == [(1,)]

    connected(stack, work)


def test_a_connection_keeps_a_limited_number_of_plans(stack: Stack) -> None:
    async def work(connection: Connection) -> None:
        for number in range(MOST_PREPARED + 20):
            (rows,) = await run_batch(connection, [Query(f"select {number}")])
            assert rows.tuples() == [(number,)]
        (rows,) = await run_batch(
            connection, [Query("select count(*) from pg_prepared_statements")]
        )
        assert rows.tuples() == [(MOST_PREPARED,)]

    connected(stack, work)


def test_statements_that_a_rollback_deallocated_are_prepared_again(stack: Stack) -> None:
    begin, query = Query("begin"), Query("select %(n)s::integer", {"n": 1})

    async def work(connection: Connection) -> None:
        for _ in range(3):
            _begun, rows = await run_batch(connection, [begin, query])
            assert rows.tuples() == [(1,)]
            await connection.rollback()
            await connection.execute("deallocate all")

    connected(stack, work)


def test_early_rows_are_there_once(stack: Stack) -> None:
    async def work(connection: Connection) -> None:
        query = Query("select random(), %(n)s::integer", {"n": 1})
        sent = await run_batch(connection, [query])
        (known,) = (rows.tuples() for rows in sent)
        early = EarlyRows([query], sent)
        again, other = Query(query.sql, {"n": 1}), Query(query.sql, {"n": 2})
        first, twice, second = await early.rows(connection, [query, again, other])
        assert first.tuples() == twice.tuples() == known
        assert second.tuples()[0][1] == 2
        # They are let go then, because some are thousands.
        (third,) = await early.rows(connection, [again])
        assert third.tuples() != known

    connected(stack, work)
