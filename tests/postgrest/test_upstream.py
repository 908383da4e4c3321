"""Connections to PostgREST, with a scripted server that answers, breaks off and stalls."""

import asyncio
from asyncio import StreamReader as Reader
from asyncio import StreamWriter as Writer
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvloop

from app.deadlines import Deadlines
from app.postgrest.connection import (
    ConnectionState,
    UpstreamConnection,
    UpstreamLost,
    UpstreamSilent,
)
from app.postgrest.pool import Upstream
from app.settings import PostgrestSettings

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LIMITS: dict[str, Any] = {"answer_seconds": 5.0, "connect_seconds": 5.0, "connections": 2}


@dataclass
class Server:
    """A server that counts connections and plays one script for each of them."""

    scripts: list[Callable[[Reader, Writer], Awaitable[None]]]
    heads: list[bytes] = field(default_factory=list)
    connections: int = 0

    async def serve(self, reader: Reader, writer: Writer) -> None:
        """Play the next script, then close the connection."""
        script = self.scripts[self.connections]
        self.connections += 1
        try:
            await script(reader, writer)
        finally:
            writer.close()


def answering(*answers: bytes) -> Callable[[Reader, Writer], Awaitable[None]]:
    """Return a script that sends a response to each request head, and closes after the last."""

    async def script(reader: Reader, writer: Writer) -> None:
        for answer in answers:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)

    return script


async def wait(reader: Reader, writer: Writer) -> None:
    """Play a script that reads everything and sends nothing."""
    del writer
    while await reader.read(65536):
        pass


@asynccontextmanager
async def upstream(
    *scripts: Callable[[Reader, Writer], Awaitable[None]], **limits: Any
) -> AsyncGenerator[tuple[Upstream, Server], None]:
    """A pool of connections to a server that plays the scripts."""
    server = Server([*scripts])
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    settings = PostgrestSettings(url=f"http://127.0.0.1:{port}", **(LIMITS | limits))
    pool = Upstream(settings, settings.url)
    try:
        yield pool, server
    finally:
        pool.close()
        listener.close()


async def body_of(answer: UpstreamConnection) -> bytes:
    """Return the whole body of a response."""
    whole = b""
    while piece := await answer.read():
        whole += piece
    return whole


async def pieces(*parts: bytes) -> AsyncGenerator[bytes, None]:
    """Yield the parts of a body."""
    for part in parts:
        yield part


def test_a_connection_that_closed_while_it_was_kept_is_replaced_even_for_a_write() -> None:
    async def run() -> None:
        async with upstream(answering(OK, OK), answering(OK)) as (pool, server):
            for number, expected in enumerate((1, 1, 2)):
                answer = await pool.ask("POST", "/", {"content-length": "1"}, pieces(b"x"))
                assert await body_of(answer) == b"ok"
                pool.release(answer)
                assert server.connections == expected
                while number == 1 and answer.open:  # noqa: ASYNC110  (it has no event to wait for)
                    await asyncio.sleep(0)  # the end of the connection arrives

    asyncio.run(asyncio.wait_for(run(), 30))


ENDINGS = {
    "a length": OK,
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n",
    "an interim answer first": b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK,
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_way_a_body_ends_leaves_the_connection_usable(ending: str) -> None:
    async def run() -> None:
        async with upstream(answering(ENDINGS[ending], OK)) as (pool, server):
            for _ in range(2):
                answer = await pool.ask("GET", "/", {})
                assert (answer.status, await body_of(answer)) == (200, b"ok")
                pool.release(answer)
            assert server.connections == 1

    asyncio.run(run())


@pytest.mark.parametrize(
    ("method", "head"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n"),
    ],
)
def test_an_answer_without_a_body_leaves_the_connection_usable(method: str, head: bytes) -> None:
    async def run() -> None:
        async with upstream(answering(head, OK)) as (pool, server):
            answer = await pool.ask(method, "/", {})
            assert await body_of(answer) == b""
            pool.release(answer)
            answer = await pool.ask("GET", "/", {})
            assert await body_of(answer) == b"ok"
            pool.release(answer)
            assert server.connections == 1

    asyncio.run(run())


def test_a_connection_that_postgrest_closes_after_a_head_takes_no_other_request() -> None:
    """It says so with no header, and a write on that connection would be lost."""

    async def run() -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Range: */0\r\n\r\n"
        async with upstream(answering(head, OK), answering(OK)) as (pool, server):
            pool.release(await pool.ask("HEAD", "/", {}))
            answer = await pool.ask("POST", "/", {}, pieces(b"ab"))
            assert await body_of(answer) == b"ok"
            pool.release(answer)
            assert server.connections == 2

    asyncio.run(run())


def test_a_connection_that_ends_while_a_client_sends_is_lost_and_nothing_crashes() -> None:
    async def run() -> None:
        begun, ended = asyncio.Event(), asyncio.Event()

        async def slow() -> AsyncGenerator[bytes, None]:
            begun.set()
            await ended.wait()
            yield b"ab"

        async def end(reader: Reader, writer: Writer) -> None:
            await answering(OK)(reader, writer)
            await begun.wait()

        async with upstream(end) as (pool, _):
            kept = await pool.ask("GET", "/", {})
            assert await body_of(kept) == b"ok"
            pool.release(kept)
            asking = asyncio.create_task(pool.ask("POST", "/", {}, slow()))
            while kept.open:  # noqa: ASYNC110  (it has no event to wait for)
                await asyncio.sleep(0)
            ended.set()
            with pytest.raises(UpstreamLost):
                await asking

    # As in the gateway: asyncio's own loop lets a closed transport be written to.
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(run(), 30))


async def answer_once_then_hang_up(reader: Reader, writer: Writer) -> None:
    """Answer the first request, read the second, and close without a response."""
    await answering(OK)(reader, writer)
    await reader.readuntil(b"\r\n\r\n")


def test_only_a_read_is_asked_again_when_a_kept_connection_was_closed() -> None:
    async def run(method: str) -> bytes:
        async with upstream(answer_once_then_hang_up, answering(OK)) as (pool, server):
            pool.release(await whole(pool))
            answer = await pool.ask(method, "/", {})
            try:
                assert server.connections == 2
                return await body_of(answer)
            finally:
                pool.release(answer)

    async def whole(pool: Upstream) -> UpstreamConnection:
        answer = await pool.ask("GET", "/", {})
        assert await body_of(answer) == b"ok"
        return answer

    assert asyncio.run(run("GET")) == b"ok"
    for method in ("POST", "PATCH", "DELETE"):
        with pytest.raises(UpstreamLost):
            asyncio.run(run(method))


CUTS = {
    "before the head": b"",
    "in the head": b"HTTP/1.1 200 OK\r\nContent-",
    "in the body": b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok",
    "in a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nok",
    "before the last chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
    "no HTTP": b"what?\r\n\r\n",
}


@pytest.mark.parametrize("cut", CUTS)
def test_an_answer_that_is_cut_is_never_taken_for_a_whole_one(cut: str) -> None:
    async def run() -> None:
        async with upstream(answering(CUTS[cut])) as (pool, _):
            answer = await pool.ask("GET", "/", {})
            try:
                await body_of(answer)
            finally:
                pool.release(answer)

    with pytest.raises(UpstreamLost):
        asyncio.run(run())


def test_bytes_that_answer_nothing_are_never_anybodys_answer() -> None:
    async def run() -> None:
        async with upstream(answering(OK + OK), answering(OK)) as (pool, server):
            for _ in range(2):
                answer = await pool.ask("GET", "/", {})
                assert await body_of(answer) == b"ok"
                pool.release(answer)
            assert server.connections == 2

    asyncio.run(run())


def test_silence_ends_and_frees_its_turn() -> None:
    async def run() -> None:
        async with upstream(wait, answering(OK), answer_seconds=0.2, connections=1) as (pool, _):
            with pytest.raises(UpstreamSilent):
                await pool.ask("GET", "/", {})
            answer = await pool.ask("GET", "/", {})
            assert await body_of(answer) == b"ok"
            pool.release(answer)

    asyncio.run(run())


def test_no_more_connections_than_allowed() -> None:
    async def run() -> None:
        limits = {"connections": 1, "connect_seconds": 0.2}
        async with upstream(answering(OK), **limits) as (pool, server):
            held = await pool.ask("GET", "/", {})
            with pytest.raises(UpstreamLost, match="free"):
                await pool.ask("GET", "/", {})
            assert server.connections == 1
            pool.release(held)

    asyncio.run(run())


def test_an_answer_before_the_body_was_sent_ends_the_body() -> None:
    taken = 0

    async def endless() -> AsyncGenerator[bytes, None]:
        nonlocal taken
        while True:
            taken += 1
            yield b"x" * 65536
            await asyncio.sleep(0)

    async def run() -> None:
        refusal = b"HTTP/1.1 413 No\r\nContent-Length: 2\r\n\r\nno"
        async with upstream(answering(refusal), answering(OK)) as (pool, server):
            answer = await pool.ask("POST", "/", {}, endless())
            assert (answer.status, await body_of(answer)) == (413, b"no")
            pool.release(answer)  # the body is incomplete, so the connection must not be reused
            pool.release(await pool.ask("GET", "/", {}))
            assert server.connections == 2

    asyncio.run(asyncio.wait_for(run(), 30))
    assert taken


CHUNKED = b"2\r\nab\r\n2\r\ncd\r\n0\r\n\r\n"


def test_a_body_arrives_as_it_was_framed() -> None:
    received: list[bytes] = []

    async def take(reader: Reader, writer: Writer) -> None:
        received.append(await reader.readuntil(b"\r\n\r\n"))
        length = 4 if b"content-length" in received[-1] else len(CHUNKED)
        received.append(await reader.readexactly(length))
        writer.write(OK)

    async def run(headers: dict[str, str]) -> None:
        async with upstream(take) as (pool, _):
            pool.release(await pool.ask("POST", "/t?a=b", headers, pieces(b"ab", b"cd")))

    asyncio.run(run({"content-length": "4"}))
    asyncio.run(run({"prefer": "x"}))
    assert received[0].startswith(b"POST /t?a=b HTTP/1.1\r\nhost: 127.0.0.1:")
    assert received[1] == b"abcd"
    assert b"prefer: x\r\ntransfer-encoding: chunked\r\n" in received[2]
    assert received[3] == CHUNKED


def test_what_nobody_takes_is_not_read() -> None:
    size, sent = 64 * 2**20, 0

    async def flood(reader: Reader, writer: Writer) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        while sent < size:
            writer.write(b"x" * 65536)
            await writer.drain()
            sent += 65536

    async def run() -> None:
        async with upstream(flood) as (pool, _):
            answer = await pool.ask("GET", "/", {})
            before = -1
            while before != sent:  # until nothing more is sent
                before = sent
                await asyncio.sleep(0.3)
            assert sent < size / 2
            total = 0
            while piece := await answer.read():
                total += len(piece)
            assert total == size
            pool.release(answer)

    asyncio.run(run())


def test_answers_that_arrive_at_the_same_time_are_never_mixed() -> None:
    """Each connection has its own buffer."""

    async def run() -> None:
        def in_halves(mark: bytes) -> Callable[[Reader, Writer], Awaitable[None]]:
            async def script(reader: Reader, writer: Writer) -> None:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n")
                for _ in range(200):
                    writer.write(mark * 1000)
                    await asyncio.sleep(0)

            return script

        async with upstream(in_halves(b"a"), in_halves(b"b")) as (pool, _):
            answers = await asyncio.gather(*(pool.ask("GET", "/", {}) for _ in range(2)))
            bodies = await asyncio.gather(*(body_of(answer) for answer in answers))
            assert sorted(bodies) == [b"a" * 200_000, b"b" * 200_000]
            for answer in answers:
                pool.release(answer)

    asyncio.run(run())


def test_a_connection_names_its_state() -> None:
    async def run() -> None:
        asked, answered, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def script(reader: Reader, writer: Writer) -> None:
            await reader.readuntil(b"\r\n\r\n")
            await asked.wait()
            writer.write(OK[:-1])
            await answered.wait()
            writer.write(OK[-1:])
            await ended.wait()
            writer.close()

        listener = await asyncio.start_server(script, "127.0.0.1", 0)
        address = listener.sockets[0].getsockname()
        loop = asyncio.get_running_loop()
        patience = Deadlines(5.0, UpstreamConnection.fall_silent)
        _, connection = await loop.create_connection(lambda: UpstreamConnection(patience), *address)
        state: Callable[[], ConnectionState] = lambda: connection.state  # noqa: E731
        assert state() is ConnectionState.IDLE
        request = b"GET / HTTP/1.1\r\n\r\n"
        asking = asyncio.create_task(connection.ask(request, None, chunked=False, head_only=False))
        await asyncio.sleep(0)
        assert state() is ConnectionState.ASKED
        asked.set()
        await asking
        assert state() is ConnectionState.ANSWERING
        answered.set()
        assert await body_of(connection) == b"ok"
        assert state() is ConnectionState.ANSWERED
        assert connection.reusable
        connection.keep(loop.time())
        assert state() is ConnectionState.IDLE
        ended.set()  # PostgREST closes what it kept long enough
        while connection.state is not ConnectionState.CLOSED:  # noqa: ASYNC110  (it has no event to wait for)
            await asyncio.sleep(0)
        listener.close()

    asyncio.run(asyncio.wait_for(run(), 30))
