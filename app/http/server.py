"""The HTTP server: uvicorn with limits on request heads, and draining before shutdown."""

import gc
import logging
import resource
import signal
import sys
import time
from types import FrameType

import uvicorn

from app.http.gateway import Gateway
from app.http.protocol import guarded_protocol
from app.monitoring.logs import log_to_stderr
from app.settings import Settings

logger = logging.getLogger(__name__)

GRACE_SECONDS = 15
KEEP_ALIVE_SECONDS = 60
MOST_DESCRIPTORS = 65_536
# A thread that makes a frame of a long answer lets go of the interpreter so often: by default every
# 5 ms, for which a short answer would wait each time it has waited for the database.
SWITCH_SECONDS = 0.0005


def serve(app: Gateway, settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then finish running requests and return."""
    log_to_stderr()
    # The lower limit that a shell or systemd sets (1,024) is for programs that use select().
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, MOST_DESCRIPTORS), most))
    _report_renamed(settings)
    # Imported objects stay anyway, and requests leave few cycles: collect garbage less often.
    gc.collect()
    gc.freeze()
    gc.enable()
    gc.set_threshold(10_000, 50, 50)
    sys.setswitchinterval(SWITCH_SECONDS)
    _Server(
        uvicorn.Config(
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
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=GRACE_SECONDS,
        ),
        app,
        settings.drain_seconds,
    ).run()


class _Server(uvicorn.Server):
    """A server whose `/ready` answers 503 for a while before it shuts down, for load balancers."""

    def __init__(self, config: uvicorn.Config, app: Gateway, drain_seconds: float) -> None:
        super().__init__(config)
        self._app = app
        self._drain_seconds = drain_seconds
        self._shut_at: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Start draining; shut down at once on a second signal or Ctrl-C."""
        self._app.state.draining = True
        if sig == signal.SIGTERM and self._shut_at is None and self._drain_seconds:
            self._shut_at = time.monotonic() + self._drain_seconds
        else:
            super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """Shut down when draining is over."""
        if self._shut_at and time.monotonic() >= self._shut_at:
            self.should_exit = True
        return await super().on_tick(counter)


def _report_renamed(settings: Settings) -> None:
    """Log one line with the variables set under former names, and their present names."""
    if renamed := settings.renamed_variables:
        names = ", ".join(f"{former} is now {present}" for former, present in renamed.items())
        logger.warning("settings were renamed; the former names are still read: %s", names)
