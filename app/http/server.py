"""The HTTP server: uvicorn with limits on request heads, and draining before shutdown."""

import asyncio
import gc
import logging
import os
import resource
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

import uvicorn

from app.http.gateway import Gateway
from app.http.protocol import guarded_protocol
from app.http.worker_window import WorkerCounts
from app.http.workers import ACCEPTS, RETIRE, Supervisor
from app.monitoring.logs import log_to_stderr
from app.settings import Settings

logger = logging.getLogger(__name__)

GRACE_SECONDS = 15
MOST_DESCRIPTORS = 65_536
# A thread that makes a frame of a long answer lets go of the interpreter so often: by default every
# 5 ms, for which a short answer would wait each time it has waited for the database.
SWITCH_SECONDS = 0.0005


# A worker that is replaced answers so long on its connections, each of which ends with an answer.
RETIRING_SECONDS = 10.0

CreateApp = Callable[[Settings, WorkerCounts | None], Gateway]


def serve(create_app: CreateApp, settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT, then finish running requests; return an exit code."""
    log_to_stderr()
    # The lower limit that a shell or systemd sets (1,024) is for programs that use select().
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, MOST_DESCRIPTORS), most))
    _report_renamed(settings)
    if settings.workers == 1:
        app = create_app(settings, None)
        _keep_garbage_rare()
        _Server(_config(app, settings), app, settings.drain_seconds).run()
        return 0
    _keep_garbage_rare()

    def run_worker(link: socket.socket, counts: WorkerCounts) -> int:
        app = create_app(settings, counts)
        _keep_garbage_rare()
        server = _Server(_config(app, settings), app, settings.drain_seconds, link)
        server.run(sockets=[listening])
        return 0

    listening = uvicorn.Config("", settings.host, settings.port, log_config=None).bind_socket()
    try:
        return Supervisor(settings.workers, run_worker).run()
    finally:
        listening.close()
        shutil.rmtree(os.environ["PROMETHEUS_MULTIPROC_DIR"], ignore_errors=True)


def _keep_garbage_rare() -> None:
    """Collect garbage less often: imported objects stay anyway, and requests leave few cycles."""
    gc.collect()
    gc.freeze()
    gc.enable()
    gc.set_threshold(10_000, 50, 50)
    sys.setswitchinterval(SWITCH_SECONDS)


def _config(app: Gateway, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        # Refuses request smuggling (two lengths, bad chunks, bare CR or LF), unlike h11.
        http=guarded_protocol(settings.http, writes_log=settings.access_log),
        ws="none",
        log_config=None,
        access_log=False,  # written by app/http/middleware.py
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )


class _Server(uvicorn.Server):
    """A server whose `/ready` answers 503 for a while before it shuts down, for load balancers.

    With a `link` to a supervisor it says when it accepts, retires when told to, and ends with it.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        app: Gateway,
        drain_seconds: float,
        link: socket.socket | None = None,
    ) -> None:
        super().__init__(config)
        self._app = app
        self._drain_seconds = drain_seconds
        self._link = link
        self._shut_at: float | None = None
        self._retiring = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to accept, and say so."""
        await super().startup(sockets)
        if self._link:
            asyncio.get_running_loop().add_reader(self._link, self._hear, self._link)
            with suppress(ConnectionError):  # a supervisor that is gone is heard of
                self._link.send(ACCEPTS)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Start draining; shut down at once on a second signal or Ctrl-C."""
        self._app.state.draining = True
        if sig == signal.SIGTERM and self._shut_at is None and self._drain_seconds:
            self._shut_at = time.monotonic() + self._drain_seconds
        else:
            super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """Shut down when draining is over, or when the last connection to retire has ended."""
        gone = self._retiring and not self.server_state.connections
        if gone or (self._shut_at and time.monotonic() >= self._shut_at):
            self.should_exit = True
        return await super().on_tick(counter)

    def _hear(self, link: socket.socket) -> None:
        """Retire, or shut down if the supervisor is gone."""
        heard = b""
        with suppress(ConnectionError):
            heard = link.recv(1)
        asyncio.get_running_loop().remove_reader(link)
        if heard != RETIRE:
            self.should_exit = True
            return
        self._retiring = True
        self._shut_at = time.monotonic() + RETIRING_SECONDS
        for server in self.servers:
            server.close()
        # Else a client would send its next request just as its connection is closed.
        closing = (b"connection", b"close")
        self.config.encoded_headers.append(closing)
        self.server_state.default_headers.append(closing)


def _report_renamed(settings: Settings) -> None:
    """Log one line with the variables set under former names, and their present names."""
    if renamed := settings.renamed_variables:
        names = ", ".join(f"{former} is now {present}" for former, present in renamed.items())
        logger.warning("settings were renamed; the former names are still read: %s", names)
