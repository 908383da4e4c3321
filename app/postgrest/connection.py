"""One kept-alive HTTP/1.1 connection to PostgREST: an asyncio protocol around httptools' parser.

A general HTTP client costs more for each request than all else the gateway does with it. What is
needed here is little: one request at a time, its answer in pieces, and back-pressure both ways.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

# Beyond this nothing more is read from PostgREST until the client has taken what is there.
UNREAD_BYTES = 256 * 2**10
# What arrives is parsed at once, so one place to receive it serves every connection.
ARRIVING = memoryview(bytearray(256 * 2**10))


class UpstreamLost(Exception):  # noqa: N818  (what to tell the client is decided elsewhere)
    """There is no connection to PostgREST, or it ended before the answer was whole."""


class UpstreamSilent(UpstreamLost):
    """PostgREST sent nothing, or took nothing of the body, for too long."""


class UpstreamConnection(asyncio.BufferedProtocol):
    """Carries one request at a time: `ask`, then `read` until it is empty."""

    _transport: asyncio.Transport  # from `connection_made` on, before anybody else has it

    def __init__(self, silence_seconds: float) -> None:
        self._silence_seconds = silence_seconds
        self._loop = asyncio.get_running_loop()
        self._parser = HttpResponseParser(self)
        self._change: asyncio.Future[None] | None = None
        self._pieces: list[bytes] = []
        self._head_only = False
        self._incoming: list[tuple[bytes, bytes]] = []
        self._keep_alive = False
        self._sent = False
        self._reading_paused = self._writing_paused = False
        self._lost = False
        self.idle_since = 0.0
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.touched = False
        self.complete = True  # nothing is asked yet: bytes that come now answer nothing

    @property
    def open(self) -> bool:
        """Whether both ends still keep it."""
        return not self._lost and not self._transport.is_closing()

    @property
    def reusable(self) -> bool:
        """Whether another request may follow the one that was asked."""
        done = self.complete and self._sent and not self._pieces
        return done and self._keep_alive and self.open

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
        """
        self._head_only = head_only
        self._sent = self.touched = self.complete = False
        self.status = 0
        if body is None:
            self._transport.write(head)
            self._sent = True
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
            if self.status or self._lost:
                return
        if rest := head + (b"0\r\n\r\n" if chunked else b""):
            self._transport.write(rest)
        self._sent = True

    async def read(self) -> bytes:
        """Return what has come of the body, waiting for some; nothing at its end."""
        while not self._pieces:
            if self.complete:
                return b""
            await self._wait()
        piece = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        if self._reading_paused:
            self._reading_paused = False
            self._transport.resume_reading()
        return piece

    async def _wait(self) -> None:
        """Return when something has changed."""
        if self._lost:
            raise UpstreamLost("PostgREST closed the connection.")
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

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        return ARRIVING

    def buffer_updated(self, nbytes: int) -> None:
        self.touched = True
        try:
            self._parser.feed_data(ARRIVING[:nbytes])
        except (HttpParserError, HttpParserUpgrade):
            self._lost = True
            self._transport.abort()
        if self._head_only and self.complete:
            self._parser = HttpResponseParser(self)  # the old one waits for a body
        if len(self._pieces) > 1 and sum(map(len, self._pieces)) > UNREAD_BYTES:
            self._reading_paused = True
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        self._lost = True
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._wake()

    def pause_writing(self) -> None:
        self._writing_paused = True

    def resume_writing(self) -> None:
        self._writing_paused = False
        self._wake()

    def on_message_begin(self) -> None:
        if self.complete:
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
            self._keep_alive = (b"connection", b"close") not in self.headers
            self.complete = True

    def on_body(self, body: bytes) -> None:
        if not self._head_only:
            self._pieces.append(body)

    def on_message_complete(self) -> None:
        if self.status and not self._head_only:
            self._keep_alive = self._parser.should_keep_alive()
            self.complete = True


def _chunk(piece: bytes) -> bytes:
    """A piece of a body whose length is not known before."""
    return b"%x\r\n%b\r\n" % (len(piece), piece)
