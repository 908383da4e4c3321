"""One client's connection: uvicorn's httptools protocol with bounds on request heads.

This is the one module that reaches into uvicorn beyond its documented interface;
tests/http/test_protocol.py fails when what it relies on changes.
"""

import asyncio
from typing import Any, ClassVar, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.settings import HttpSettings

# A write of at least this many bytes is not held back to be sent together with others.
GATHER_BELOW_BYTES = 32 * 2**10


class GuardedProtocol(HttpToolsProtocol):
    """A protocol whose request heads are bounded in size and in time.

    The parser alone would collect a head without end, and wait for one forever. A head that is
    complete and too large is answered in app/http/middleware.py; this aborts the connection of one
    that never completes.
    """

    max_head_bytes: ClassVar[int]
    head_seconds: ClassVar[float]

    _head_bytes = 0
    _in_head = True
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Start waiting for the first head; requests find `abort` in their scope's state."""
        gathering = GatheringTransport(transport, self.loop)
        super().connection_made(cast(asyncio.Transport, gathering))
        self.app_state = self.app_state | {"abort": transport.abort}
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._cancel_head_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, and count what belongs to a head that is not complete yet."""
        super().data_received(data)
        if not self._in_head:
            return
        self._head_bytes += len(data)
        if self._head_bytes > self.max_head_bytes:
            self.transport.abort()
        elif self._head_timer is None:
            self._start_head_timer()

    def on_message_begin(self) -> None:
        """Count a new head from zero."""
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0

    def on_headers_complete(self) -> None:
        """Hand the request to the application; its head was in time."""
        self._in_head = False
        self._cancel_head_timer()
        super().on_headers_complete()

    def _start_head_timer(self) -> None:
        self._head_timer = self.loop.call_later(self.head_seconds, self.transport.abort)

    def _cancel_head_timer(self) -> None:
        if self._head_timer:
            self._head_timer.cancel()
            self._head_timer = None


def guarded_protocol(settings: HttpSettings) -> type[GuardedProtocol]:
    """Return the protocol class with the bounds of `settings`, for `uvicorn.Config(http=…)`."""

    class ConfiguredProtocol(GuardedProtocol):
        max_head_bytes = settings.max_header_bytes + settings.max_url_bytes
        head_seconds = settings.head_seconds

    return ConfiguredProtocol


class GatheringTransport:
    """A connection's transport that writes once for each turn of the event loop.

    uvicorn writes the head and the body of a response apart: twice the system calls, and a client
    that is woken twice.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        """Return anything else from the transport itself."""
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Write `data` together with what else this turn writes; at once where it is long."""
        self._held.append(data)
        if len(data) >= GATHER_BELOW_BYTES:
            self._flush()
        elif len(self._held) == 1:
            self._loop.call_soon(self._flush)

    def close(self) -> None:
        """Close after what was written."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        held, self._held = self._held, []
        if held and not self._transport.is_closing():
            self._transport.writelines(held)
