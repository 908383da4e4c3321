"""The HTTP server around the application: uvicorn, with bounds on request heads, and draining."""

import gc
import logging
import signal
import sys
import time
from types import FrameType

import uvicorn

from app.http.gateway import Gateway
from app.http.protocol import guarded_protocol
from app.settings import Settings

logger = logging.getLogger(__name__)

GRACE_SECONDS = 15
KEEP_ALIVE_SECONDS = 60


def serve(app: Gateway, settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; then finish what has begun, and return."""
    _log_to_stderr()
    _report_renamed(settings)
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
            http=guarded_protocol(settings.http),
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


def _report_renamed(settings: Settings) -> None:
    """Log one line that names the variables set under former names, and what they are now."""
    if renamed := settings.renamed_variables:
        names = ", ".join(f"{former} is now {present}" for former, present in renamed.items())
        logger.warning("settings were renamed; the former names are still read: %s", names)


def _log_to_stderr() -> None:
    """Send warnings of everything to standard error, where the access log goes too."""
    plain = logging.StreamHandler(sys.stderr)
    plain.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[plain])
