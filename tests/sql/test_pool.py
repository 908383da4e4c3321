"""Connections of the gateway's pool: none is lost, nor missed once the server is back."""

import asyncio
import time

from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg_pool import PoolTimeout
from pydantic import SecretStr

from app.db.session import Pool, create_pool
from app.embedded.ports import free_port
from app.settings import DatabaseSettings
from tests.conftest import Stack

# The pauses between the attempts of a pool by itself: 1, 2, 4 and then 8 seconds.
ATTEMPTS = 4
NEXT_PAUSE_SECONDS = 8.0


def test_a_server_that_was_away_for_long_is_used_as_soon_as_it_is_back(stack: Stack) -> None:
    """Its port is closed, and then leads to the stack's server."""
    server = conninfo_to_dict(stack.contract["database_url"])
    socket = f"{server['host']}/.s.PGSQL.{server['port']}"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ours, theirs = await asyncio.open_unix_connection(socket)
        await asyncio.gather(_relay(reader, theirs), _relay(ours, writer))

    async def run() -> None:
        port = free_port()
        url = make_conninfo(stack.contract["database_url"], host="127.0.0.1", port=port)
        settings = DatabaseSettings(url=SecretStr(url), pool_min=1, pool_timeout=1)
        pool = create_pool(settings, 1)
        await pool.open()
        try:
            while pool.get_stats().get("connections_errors", 0) < ATTEMPTS:
                assert not await _connects(pool)
            async with await asyncio.start_server(serve, "127.0.0.1", port):
                returned = time.monotonic()
                while not await _connects(pool):
                    assert time.monotonic() - returned < NEXT_PAUSE_SECONDS / 2
        finally:
            await pool.close()

    asyncio.run(run())


def test_a_cancelled_return_loses_neither_the_connection_nor_who_waits_for_it(
    stack: Stack,
) -> None:
    async def run() -> None:
        settings = DatabaseSettings(url=SecretStr(stack.contract["database_url"]), pool_timeout=2)
        pool = create_pool(settings, 1)
        await pool.open()
        try:
            connection = await pool.getconn()
            # The first has begun to wait, and the second to hand the connection over.
            waiting = asyncio.create_task(pool.getconn())
            returning = asyncio.create_task(pool.putconn(connection))
            await asyncio.sleep(0)
            returning.cancel()
            assert await waiting is connection
            await pool.putconn(connection)
            assert pool.get_stats()["pool_available"] == 1
        finally:
            await pool.close()

    asyncio.run(run())


async def _connects(pool: Pool) -> bool:
    try:
        async with pool.connection() as connection:
            await connection.execute("select 1")
    except PoolTimeout:
        return False
    return True


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while piece := await reader.read(2**16):
            writer.write(piece)
            await writer.drain()
    finally:
        writer.close()
