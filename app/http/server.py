"""The HTTP server around the application: uvicorn, with bounds on request heads, and draining."""

import asyncio
import gc
import logging
import signal
import sys
import time
from types import FrameType
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.main import Gateway
from app.settings import RestSettings, Settings

GRACE_SECONDS = 15
KEEP_ALIVE_SECONDS = 60
MUCH = 32 * 2**10  # bytes that are not held back to be written with others


def serve(app: Gateway, settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; then finish what has begun, and return."""
    _log_to_stderr()
    # What was imported stays; requests leave few cycles, so looking for them can wait longer.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 50, 50)
    _Server(
        uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            loop="uvloop",
            # Refuses what smuggles requests (two lengths, bad chunks, bare CR or LF); h11 does not.
            http=guarded(settings.rest),
            ws="none",
            log_config=None,
            access_log=False,  # app/http/middleware.py writes it
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=GRACE_SECONDS,
        ),
        app,
        settings.drain_seconds,
    ).run()


class _Server(uvicorn.Server):
    """After the first SIGTERM `/ready` says 503, for load balancers to see, before it shuts."""

    def __init__(self, config: uvicorn.Config, app: Gateway, drain_seconds: float) -> None:
        super().__init__(config)
        self._app = app
        self._drain_seconds = drain_seconds
        self._shut_at: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Start draining; a second signal, or Ctrl-C, does not wait."""
        self._app.state.draining = True
        if sig == signal.SIGTERM and self._shut_at is None and self._drain_seconds:
            self._shut_at = time.monotonic() + self._drain_seconds
        else:
            super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """Shut when the drain is over."""
        if self._shut_at and time.monotonic() >= self._shut_at:
            self.should_exit = True
        return await super().on_tick(counter)


def guarded(limits: RestSettings) -> type[HttpToolsProtocol]:
    """Return the protocol with a bound on how large a head grows and how long it takes.

    The parser alone would collect a head without end, and wait for one forever. A head that is
    complete and too large is answered in app/http/middleware.py; this closes on one that never
    completes.
    """

    class GuardedProtocol(HttpToolsProtocol):
        _head_bytes = 0
        _in_head = True
        _head_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(cast(asyncio.Transport, Gathered(transport, self.loop)))
            self.app_state = self.app_state | {"abort": transport.abort}
            self._watch_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._forget_head()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if not self._in_head:
                return
            self._head_bytes += len(data)
            if self._head_bytes > limits.max_header_bytes + limits.max_url_bytes:
                self.transport.abort()
            elif self._head_timer is None:
                self._watch_head()

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._in_head, self._head_bytes = True, 0

        def on_headers_complete(self) -> None:
            self._in_head = False
            self._forget_head()
            super().on_headers_complete()

        def _watch_head(self) -> None:
            self._head_timer = self.loop.call_later(limits.head_seconds, self.transport.abort)

        def _forget_head(self) -> None:
            if self._head_timer:
                self._head_timer.cancel()
                self._head_timer = None

    return GuardedProtocol


class Gathered:
    """A connection's transport that writes once for each turn of the event loop.

    uvicorn writes the head and the body of an answer apart: twice the system calls, and a client
    that is woken twice.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        """Everything else is the transport's own."""
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Write it with what else this turn writes; at once where there is much of it."""
        self._held.append(data)
        if len(data) >= MUCH:
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


def _log_to_stderr() -> None:
    """Send warnings of everything to standard error, where the access log goes too."""
    plain = logging.StreamHandler(sys.stderr)
    plain.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[plain])
