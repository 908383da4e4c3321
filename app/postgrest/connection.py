"""One kept-alive HTTP/1.1 connection to PostgREST: an asyncio protocol around httptools' parser.

A general HTTP client costs more for each request than all else the gateway does with it. What is
needed here is little: one request at a time, its answer in pieces, and back-pressure both ways.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from enum import Enum, auto
from typing import Any

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

# Beyond this nothing more is read from PostgREST until the client has taken what is there.
UNREAD_BYTES = 256 * 2**10
# One of 64 KB makes a long answer a third dearer; one that all share would save nothing measurable.
BUFFER_BYTES = 256 * 2**10
NO_BUFFER = memoryview(bytearray())


class UpstreamLost(Exception):  # noqa: N818  (what to tell the client is decided elsewhere)
    """There is no connection to PostgREST, or it ended before the answer was whole."""


class UpstreamSilent(UpstreamLost):
    """PostgREST sent nothing, or took nothing of the body, for too long."""


class UpstreamUnanswered(UpstreamLost):
    """The connection ended before a byte of the answer came: it may have been closed while idle."""


class State(Enum):
    """The state of a connection between two requests, or of the answer to the one asked."""

    IDLE = auto()  # nothing is asked: bytes that come now answer nothing
    ASKED = auto()  # a request is sent, or being sent; no byte of its answer came
    ANSWERING = auto()
    ANSWERED = auto()  # the answer came whole; some of it may not be read yet
    CLOSED = auto()  # by either end, before the answer was whole


class UpstreamConnection(asyncio.BufferedProtocol):
    """Carries one request at a time: `ask`, then `read` until it is empty.

    `status` and `headers` are those of the answer; `status` is 0 until they have come.
    """

    _transport: asyncio.Transport  # from `connection_made` on, before anybody else has it

    def __init__(self, silence_seconds: float) -> None:
        self._silence_seconds = silence_seconds
        self._loop = asyncio.get_running_loop()
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        self._parser = HttpResponseParser(self)
        self.state = State.IDLE
        self._loss: UpstreamLost | None = None
        self._change: asyncio.Future[None] | None = None
        self._pieces: list[bytes] = []
        self._unread = 0
        self._incoming: list[tuple[bytes, bytes]] = []
        self._head_only = False  # of the request that was asked
        self._must_close = False  # no other request may follow
        self._writing_paused = False
        self.idle_since = 0.0
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []

    @property
    def open(self) -> bool:
        """True while neither end has closed it."""
        return self.state is not State.CLOSED and not self._transport.is_closing()

    @property
    def complete(self) -> bool:
        """True once the answer came whole; `read` may still have some of it."""
        return self.state is State.ANSWERED

    @property
    def reusable(self) -> bool:
        """True if another request may follow the one that was asked."""
        done = self.state is State.ANSWERED and not self._pieces
        return done and not self._must_close and self.open

    def keep(self, now: float) -> None:
        """Wait for the next request from `now` on, the monotonic clock's time in s."""
        self.state = State.IDLE
        self.idle_since = now

    def close(self) -> None:
        """Close at once; what PostgREST still sends is not wanted."""
        self._transport.abort()

    async def ask(
        self,
        head: bytes,
        body: AsyncGenerator[bytes, None] | None,
        *,
        chunked: bool,
        head_only: bool,
    ) -> None:
        """Send a request; return when `status` and `headers` are there.

        An answer may come before the body was sent: the rest of the body is then not sent any more.
        UpstreamSilent and UpstreamLost are raised where no answer comes, UpstreamUnanswered where
        the connection ended before any of it.
        """
        if self.state is not State.CLOSED:
            self.state = State.ASKED
        self._head_only = head_only
        self._must_close = False
        self.status = 0
        if body is None:
            self._transport.write(head)
        else:
            async with aclosing(body):
                await self._send(head, body, chunked=chunked)
        while not self.status:
            await self._wait()

    async def _send(self, head: bytes, body: AsyncGenerator[bytes, None], *, chunked: bool) -> None:
        async for piece in body:
            self._transport.write(head + (_chunk(piece) if chunked else piece))
            head = b""  # it goes out with the first piece
            while self._writing_paused and not self.status:
                await self._wait()
            if self.status or self.state is State.CLOSED:
                self._must_close = True  # a body that stays incomplete
                return
        if rest := head + (b"0\r\n\r\n" if chunked else b""):
            self._transport.write(rest)

    async def read(self) -> bytes:
        """Return what has come of the body, waiting for some; nothing at its end.

        UpstreamLost is raised when the connection ends before the body does.
        """
        while not self._pieces:
            if self.state is State.ANSWERED:
                return b""
            await self._wait()
        piece = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        if self._unread > UNREAD_BYTES:
            self._transport.resume_reading()
        self._unread = 0
        return piece

    async def _wait(self) -> None:
        """Return when something has changed."""
        if self._loss:
            raise self._loss
        self._change = change = self._loop.create_future()
        timer = self._loop.call_later(self._silence_seconds, self._fall_silent)
        try:
            await change
        finally:
            timer.cancel()

    def _fall_silent(self) -> None:
        if self._change and not self._change.done():
            self._change.set_exception(UpstreamSilent("PostgREST is silent."))

    def _wake(self) -> None:
        if self._change and not self._change.done():
            self._change.set_result(None)

    def _lose(self) -> None:
        """Note that no more will come."""
        if self.state in (State.IDLE, State.ASKED):
            self._loss = UpstreamUnanswered("PostgREST closed the connection.")
            self.state = State.CLOSED
        elif self.state is State.ANSWERING:
            self._loss = UpstreamLost("PostgREST closed the connection.")
            self.state = State.CLOSED
        self._must_close = True
        self._wake()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self.state is State.ASKED:
            self.state = State.ANSWERING
        try:
            self._parser.feed_data(self._buffer[:nbytes])
        except (HttpParserError, HttpParserUpgrade):
            self._transport.abort()
            self._lose()
            return
        if self._head_only and self.state is State.ANSWERED:
            self._parser = HttpResponseParser(self)  # the old one waits for a body
        if self._unread > UNREAD_BYTES:
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        self._lose()

    def connection_lost(self, exc: Exception | None) -> None:
        self._buffer = NO_BUFFER  # the pool may keep what was idle for a while longer
        self._lose()

    def pause_writing(self) -> None:
        self._writing_paused = True

    def resume_writing(self) -> None:
        self._writing_paused = False
        self._wake()

    def on_message_begin(self) -> None:
        if self.state is not State.ANSWERING:
            raise UpstreamLost("PostgREST answered what was not asked.")
        self._incoming = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self._incoming.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:  # 1xx: the answer itself follows
            return
        self.status, self.headers = status, self._incoming
        self._incoming = []  # trailers are not passed on
        if self._head_only:
            self._must_close |= (b"connection", b"close") in self.headers
            self.state = State.ANSWERED

    def on_body(self, body: bytes) -> None:
        if not self._head_only:
            self._pieces.append(body)
            self._unread += len(body)

    def on_message_complete(self) -> None:
        if self.status and not self._head_only:
            self._must_close |= not self._parser.should_keep_alive()
            self.state = State.ANSWERED


def _chunk(piece: bytes) -> bytes:
    """A piece of a body whose length is not known before."""
    return b"%x\r\n%b\r\n" % (len(piece), piece)
