"""A client's connection: uvicorn's httptools protocol with limits on request heads.

This is the only module that uses internals of uvicorn; tests/http/test_protocol.py fails if those
change.
"""

import asyncio
from typing import Any, ClassVar, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.settings import HttpSettings

# Writes of at least this many bytes are sent at once instead of together with others.
GATHER_BELOW_BYTES = 32 * 2**10


class GuardedProtocol(HttpToolsProtocol):
    """A protocol that limits request heads in size and time.

    The parser itself would collect a head of any size, and wait for it forever. A complete head
    that is too large is answered in app/http/middleware.py; this class aborts connections whose
    head never completes.
    """

    max_head_bytes: ClassVar[int]
    head_seconds: ClassVar[float]

    _head_bytes = 0
    _in_head = True
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Start the timer for the first head; put `abort` into the state of requests' scopes."""
        gathering = GatheringTransport(transport, self.loop)
        super().connection_made(cast(asyncio.Transport, gathering))
        self.app_state = self.app_state | {"abort": transport.abort}
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        self._cancel_head_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse the data, and count the bytes of an incomplete head."""
        super().data_received(data)
        if not self._in_head:
            return
        self._head_bytes += len(data)
        if self._head_bytes > self.max_head_bytes:
            self.transport.abort()
        elif self._head_timer is None:
            self._start_head_timer()

    def on_message_begin(self) -> None:
        """Start counting the bytes of a new head."""
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0

    def on_headers_complete(self) -> None:
        """Stop the timer and pass the request to the application."""
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
    """Return a protocol class with the limits in `settings`, for `uvicorn.Config(http=…)`."""

    class ConfiguredProtocol(GuardedProtocol):
        max_head_bytes = settings.max_header_bytes + settings.max_url_bytes
        head_seconds = settings.head_seconds

    return ConfiguredProtocol


class GatheringTransport:
    """A connection's transport that writes once per turn of the event loop.

    uvicorn writes head and body of a response separately, which costs a second system call and
    wakes the client twice.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        """Return any other attribute of the wrapped transport."""
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Collect `data` until the end of this turn, or write it at once if it is long."""
        self._held.append(data)
        if len(data) >= GATHER_BELOW_BYTES:
            self._flush()
        elif len(self._held) == 1:
            self._loop.call_soon(self._flush)

    def close(self) -> None:
        """Write the collected data, then close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        held, self._held = self._held, []
        if held and not self._transport.is_closing():
            self._transport.writelines(held)
