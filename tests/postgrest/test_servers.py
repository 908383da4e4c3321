"""Several PostgRESTs: the least busy is asked, one that fails is left out until it serves again."""

import asyncio
from asyncio import StreamReader as Reader
from asyncio import StreamWriter as Writer
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from app.embedded.ports import free_port
from app.postgrest import servers
from app.postgrest.connection import UpstreamLost
from app.postgrest.servers import UpstreamServers, connect
from app.settings import PostgrestSettings
from tests.postgrest.test_upstream import LIMITS, OK, body_of, pieces

Answer = Callable[[bytes, Reader, Writer], Awaitable[None]]
NOT_READY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\nno"
LOOKED = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 9\r\n\r\n"


def saying(answer: bytes) -> Answer:
    """Return how a server answers that says the same to all."""

    async def say(head: bytes, reader: Reader, writer: Writer) -> None:
        writer.write(answer)

    return say


async def hang_up(head: bytes, reader: Reader, writer: Writer) -> None:
    """Close the connection instead of answering."""
    writer.close()


async def begin(head: bytes, reader: Reader, writer: Writer) -> None:
    """Send the first bytes of an answer, and close."""
    writer.write(OK[:20])
    writer.close()


async def stay_silent(head: bytes, reader: Reader, writer: Writer) -> None:
    """Answer nothing."""
    await reader.read()


class Double:
    """A server whose way to answer can be changed while it runs."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.looks = True  # it answers the gateway that looks at it
        self.heads: list[bytes] = []

    async def serve(self, reader: Reader, writer: Writer) -> None:
        """Answer each request, and the gateway that looks whether it serves."""
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if head.startswith(b"HEAD /rpc/current_esco"):
                    if self.looks:
                        writer.write(LOOKED)
                    continue
                self.heads.append(head)
                await self.answer(head, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


@asynccontextmanager
async def running(*doubles: Double | None) -> AsyncGenerator[UpstreamServers, None]:
    """Connections to doubles, which nobody watches yet; None is an address that refuses."""
    listeners = [
        await asyncio.start_server(double.serve, "127.0.0.1", 0) for double in doubles if double
    ]
    found = [listener.sockets[0].getsockname()[1] for listener in listeners]
    ports = [found.pop(0) if double else free_port() for double in doubles]
    settings = PostgrestSettings(
        url=" , ".join(f"http://127.0.0.1:{port}" for port in ports), **LIMITS
    )
    upstream = connect(settings, settings.urls, lambda: "a token")
    assert isinstance(upstream, UpstreamServers)
    try:
        yield upstream
    finally:
        upstream.close()
        for listener in listeners:
            listener.close()


async def ask(upstream: UpstreamServers, method: str = "GET", body: bytes = b"") -> bytes:
    """Return the body of the answer to a request."""
    headers = {"content-length": str(len(body))} if body else {}
    answer = await upstream.ask(method, "/rows", headers, pieces(body) if body else None)
    try:
        return await body_of(answer)
    finally:
        upstream.release(answer)


@pytest.mark.parametrize(("method", "body"), [("GET", b""), ("POST", b"ab"), ("DELETE", b"")])
def test_what_a_server_refuses_goes_to_the_other(method: str, body: bytes) -> None:
    async def run() -> None:
        double = Double(saying(OK))
        async with running(None, double) as upstream:
            assert await ask(upstream, method, body) == b"ok"
            assert [server.serves for server in upstream.servers] == [False, True]
            assert (upstream.serving, len(double.heads)) == (1, 1)

    asyncio.run(asyncio.wait_for(run(), 30))


@pytest.mark.parametrize(
    ("failure", "method", "body", "again"),
    [
        (hang_up, "GET", b"", True),
        (hang_up, "HEAD", b"", True),
        (hang_up, "GET", b"ab", False),
        (hang_up, "POST", b"ab", False),
        (hang_up, "PATCH", b"ab", False),
        (hang_up, "DELETE", b"", False),
        (begin, "GET", b"", False),
        (saying(NOT_READY), "GET", b"", True),
    ],
)
def test_only_a_read_that_got_no_answer_is_asked_again(
    failure: Answer, method: str, body: bytes, again: bool
) -> None:
    async def run() -> None:
        failing, other = Double(failure), Double(saying(OK))
        async with running(failing, other) as upstream:
            if again:
                assert await ask(upstream, method, body) == (b"" if method == "HEAD" else b"ok")
            else:
                with pytest.raises(UpstreamLost):
                    await ask(upstream, method, body)
            assert len(other.heads) == again
            assert [server.busy for server in upstream.servers] == [0, 0]

    asyncio.run(asyncio.wait_for(run(), 30))


def test_a_write_that_cannot_be_served_is_answered_as_it_is() -> None:
    async def run() -> None:
        async with running(Double(saying(NOT_READY)), Double(saying(OK))) as upstream:
            assert await ask(upstream, "POST", b"ab") == b"no"

    asyncio.run(asyncio.wait_for(run(), 30))


def test_the_least_busy_is_asked() -> None:
    async def run() -> None:
        first, second = Double(saying(OK)), Double(saying(OK))
        async with running(first, second) as upstream:
            held = await upstream.ask("GET", "/rows", {})
            for _ in range(3):
                await ask(upstream)
            assert (len(first.heads), len(second.heads)) == (1, 3)
            upstream.release(held)
            await ask(upstream)
            assert (len(first.heads), len(second.heads)) == (2, 3)

    asyncio.run(asyncio.wait_for(run(), 30))


def test_a_silent_server_gives_its_reads_to_the_other_and_comes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As one that is stopped: its connections are open, and nothing comes from them."""
    monkeypatch.setattr(servers, "WATCH_SECONDS", 0.02)
    monkeypatch.setattr(servers, "WATCH_PATIENCE_SECONDS", 0.2)

    async def run() -> None:
        silent, other = Double(stay_silent), Double(saying(OK))

        async with running(silent, other) as upstream:
            first = upstream.servers[0]
            asking = asyncio.create_task(ask(upstream))
            while not silent.heads:  # noqa: ASYNC110  (it has no event to wait for)
                await asyncio.sleep(0)
            silent.looks = False
            upstream.start()
            assert await asking == b"ok"
            assert not first.serves
            silent.looks = True
            while not first.serves:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(run(), 30))
