"""A kept-alive HTTP/1.1 connection to PostgREST: an asyncio protocol around httptools' parser.

A general HTTP client would cost more per request than everything else in the gateway. Little is
needed here: one request at a time, a streamed response, and back-pressure in both directions.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from enum import Enum, auto
from typing import Any

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from app.deadlines import Deadlines

# Pause reading from PostgREST while this much has not been passed on to the client.
UNREAD_BYTES = 256 * 2**10
# With 64 KB a long response costs a third more; sharing one buffer saves nothing measurable.
BUFFER_BYTES = 256 * 2**10
NO_BUFFER = memoryview(bytearray())
FRAMING = frozenset((b"content-length", b"transfer-encoding"))


class UpstreamLost(Exception):  # noqa: N818  (callers turn it into a response)
    """There is no connection to PostgREST, or it ended before the response was complete."""


class UpstreamSilent(UpstreamLost):
    """PostgREST sent nothing, or did not read the body, for too long."""


class UpstreamUnanswered(UpstreamLost):
    """The connection ended before any byte of the response: it may have been closed while idle."""


class ConnectionState(Enum):
    """The state of a connection: between requests, or of the response to the current one."""

    IDLE = auto()  # no request is open; incoming bytes would be an error
    ASKED = auto()  # a request is being sent or was sent; no byte of the response has come
    ANSWERING = auto()
    ANSWERED = auto()  # the response is complete; some of it may not be read yet
    CLOSED = auto()  # by either end, before the response was complete


class UpstreamConnection(asyncio.BufferedProtocol):
    """A connection for one request at a time: call `ask`, then `read` until it returns nothing.

    `status` and `headers` are those of the response; `status` is 0 until they have arrived.
    Whenever PostgREST is waited for, `patience` has the connection, and calls `fall_silent`.
    """

    _transport: asyncio.Transport  # set by `connection_made`, before the connection is used

    def __init__(self, patience: "Deadlines[UpstreamConnection]") -> None:
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        self._parser = HttpResponseParser(self)
        self.state = ConnectionState.IDLE
        self._loss: UpstreamLost | None = None
        self._change: asyncio.Future[None] | None = None
        self._pieces: list[bytes] = []
        self._unread = 0
        self._incoming: list[tuple[bytes, bytes]] = []
        self._head_only = False  # the current request is HEAD
        self._must_close = False  # no further request is possible
        self._writing_paused = False
        self.idle_since = 0.0
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []

    @property
    def open(self) -> bool:
        """True until either end closes the connection."""
        return self.state is not ConnectionState.CLOSED and not self._transport.is_closing()

    @property
    def complete(self) -> bool:
        """True once the whole response has arrived; some of it may not be read yet."""
        return self.state is ConnectionState.ANSWERED

    @property
    def reusable(self) -> bool:
        """True if the connection can carry another request."""
        done = self.state is ConnectionState.ANSWERED and not self._pieces
        return done and not self._must_close and self.open

    def keep(self, now: float) -> None:
        """Mark the connection as idle since `now`, in seconds of the monotonic clock."""
        self.state = ConnectionState.IDLE
        self.idle_since = now

    def close(self) -> None:
        """Close at once and discard what PostgREST still sends."""
        self._transport.abort()

    async def ask(
        self,
        head: bytes,
        body: AsyncGenerator[bytes, None] | None,
        *,
        chunked: bool,
        head_only: bool,
    ) -> None:
        """Send a request; return when `status` and `headers` have arrived.

        If the response arrives before the body is sent, the rest of the body is not sent.
        UpstreamSilent if no response comes in time, UpstreamLost if the connection ends before the
        head is complete, UpstreamUnanswered if it ends before any byte.
        """
        if self.state is not ConnectionState.CLOSED:
            self.state = ConnectionState.ASKED
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
            if not self.open:  # closed while the client was sending
                return
            self._transport.write(head + (_chunk(piece) if chunked else piece))
            head = b""  # it was sent with the first piece
            while self._writing_paused and not self.status:
                await self._wait()
            if self.status or self.state is ConnectionState.CLOSED:
                self._must_close = True  # the body remains incomplete
                return
        if not self.open:
            return
        if rest := head + (b"0\r\n\r\n" if chunked else b""):
            self._transport.write(rest)

    async def read(self) -> bytes:
        """Return the next bytes of the body, waiting for them; b"" at its end.

        UpstreamLost if the connection ends before the body does.
        """
        while not self._pieces:
            if self.state is ConnectionState.ANSWERED:
                return b""
            await self._wait()
        piece = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        if self._unread > UNREAD_BYTES:
            self._transport.resume_reading()
        self._unread = 0
        return piece

    async def _wait(self) -> None:
        """Wait until something changes."""
        if self._loss:
            raise self._loss
        self._change = change = self._loop.create_future()
        self._patience.set(self)
        try:
            await change
        finally:
            self._patience.drop(self)

    def fall_silent(self) -> None:
        """End the wait for PostgREST with UpstreamSilent."""
        if self._change and not self._change.done():
            self._change.set_exception(UpstreamSilent("PostgREST is silent."))

    def _wake(self) -> None:
        if self._change and not self._change.done():
            self._change.set_result(None)

    def _lose(self) -> None:
        """Record that nothing more will arrive."""
        if self.state in (ConnectionState.IDLE, ConnectionState.ASKED):
            self._loss = UpstreamUnanswered("PostgREST closed the connection.")
            self.state = ConnectionState.CLOSED
        elif self.state is ConnectionState.ANSWERING:
            self._loss = UpstreamLost("PostgREST closed the connection.")
            self.state = ConnectionState.CLOSED
        self._must_close = True
        self._wake()

    # The callbacks of asyncio.

    def connection_made(self, transport: Any) -> None:
        """Keep the transport."""
        self._transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the buffer that the next bytes are read into."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Parse the bytes that were read; pause reading if too much is unread."""
        if self.state is ConnectionState.ASKED:
            self.state = ConnectionState.ANSWERING
        try:
            self._parser.feed_data(self._buffer[:nbytes])
        except (HttpParserError, HttpParserUpgrade):
            self._transport.abort()
            self._lose()
            return
        if self._head_only and self.state is ConnectionState.ANSWERED:
            self._parser = HttpResponseParser(self)  # the old one expects a body
        if self._unread > UNREAD_BYTES:
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        """Record that PostgREST closed the connection."""
        self._lose()

    def connection_lost(self, exc: Exception | None) -> None:
        """Record that the connection is closed."""
        # Free the buffer, because the pool may keep a closed connection for a while.
        self._buffer = NO_BUFFER
        self._lose()

    def pause_writing(self) -> None:
        """Make `ask` wait before it sends more of a body."""
        self._writing_paused = True

    def resume_writing(self) -> None:
        """Let `ask` send more of a body."""
        self._writing_paused = False
        self._wake()

    # The callbacks of httptools' parser.

    def on_message_begin(self) -> None:
        """Start a response; UpstreamLost if there was no request."""
        if self.state is not ConnectionState.ANSWERING:
            raise UpstreamLost("PostgREST sent data without a request.")
        self._incoming = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect a header; names are converted to lower case."""
        self._incoming.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Set `status` and `headers`; the response to a HEAD is complete."""
        status = self._parser.get_status_code()
        if status < 200:  # 1xx: the final response follows
            return
        self.status, self.headers = status, self._incoming
        self._incoming = []  # trailers are not passed on
        if self._head_only:
            # Without a length PostgREST marks the end by closing the connection.
            framed = any(name in FRAMING for name, _ in self.headers)
            self._must_close |= (b"connection", b"close") in self.headers or not framed
            self.state = ConnectionState.ANSWERED

    def on_body(self, body: bytes) -> None:
        """Queue a piece of the body for `read`."""
        if not self._head_only:
            self._pieces.append(body)
            self._unread += len(body)

    def on_message_complete(self) -> None:
        """Record that the response is complete."""
        if self.status and not self._head_only:
            self._must_close |= not self._parser.should_keep_alive()
            self.state = ConnectionState.ANSWERED


def _chunk(piece: bytes) -> bytes:
    """Return a piece of a body in chunked transfer coding."""
    return b"%x\r\n%b\r\n" % (len(piece), piece)
