"""A client's connection for writing: what it has taken, and whether it takes it fast enough."""

import asyncio
import fcntl
import socket
import struct
import sys
import termios
from contextlib import suppress
from typing import Any


class ClientTransport:
    """A connection's transport that counts what is written, and can abort at once."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._written = 0

    def __getattr__(self, name: str) -> Any:
        """Return any other attribute of the wrapped transport."""
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Write bytes, unless the connection is closing."""
        self.writelines([data])

    def writelines(self, pieces: list[bytes]) -> None:
        """Write pieces together, unless the connection is closing."""
        if not self._transport.is_closing():
            self._written += sum(map(len, pieces))
            self._transport.writelines(pieces)

    def reset(self) -> None:
        """Abort the connection; the kernel would go on sending megabytes to a slow client."""
        with suppress(AttributeError, OSError):  # the socket may be gone
            self._transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
        self._transport.abort()

    def end(self) -> None:
        """Close the connection for writing alone."""
        if not self._transport.is_closing():
            self._transport.write_eof()

    def delivered(self) -> int:
        """Return the number of bytes that the client's machine has acknowledged so far."""
        queued = bytearray(4)
        # The kernel takes megabytes for a client that reads nothing, so ask for its queue as well.
        with suppress(OSError, ValueError):
            fcntl.ioctl(self._transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, queued)
        pending = self._transport.get_write_buffer_size()
        return self._written - pending - int.from_bytes(queued, sys.byteorder)


class Delivery:
    """Aborts a connection whose client accepts responses more slowly than the least rate.

    Only the time counts in which the gateway waits for the client.
    """

    def __init__(
        self,
        transport: ClientTransport,
        loop: asyncio.AbstractEventLoop,
        min_bytes_per_second: int,
        rate_seconds: float,
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._least = min_bytes_per_second * rate_seconds
        self._seconds = rate_seconds
        self._left = rate_seconds  # of waiting, until the rate is checked
        self._waiting_since: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._delivered = 0  # when the present measure began

    def wait(self) -> None:
        """Begin to wait for the client."""
        if self._least and self._waiting_since is None:
            self._waiting_since = self._loop.time()
            if self._left == self._seconds:
                self._delivered = self._transport.delivered()
            self._timer = self._loop.call_later(self._left, self._check)

    def resume(self) -> None:
        """Stop waiting for the client."""
        if self._waiting_since is not None:
            self._left -= self._loop.time() - self._waiting_since
            self.stop()

    def finish(self) -> None:
        """Wait for what is left of a complete response."""
        if self._transport.get_write_buffer_size():
            self.wait()

    def stop(self) -> None:
        """Cancel the timer."""
        self._waiting_since = None
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _check(self) -> None:
        delivered = self._transport.delivered()
        pending = self._transport.get_write_buffer_size()
        self._left, self._waiting_since, self._timer = self._seconds, None, None
        if pending and delivered - self._delivered < self._least:
            self._transport.reset()
            return
        if pending:
            self.wait()
