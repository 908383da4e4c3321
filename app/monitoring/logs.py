"""The gateway's log on standard error: a JSON object a line, tracebacks and warnings included."""

import logging
import sys
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from types import TracebackType
from typing import Any

import orjson

logger = logging.getLogger(__name__)

# An error may quote a value that it is about, which is as long as a body.
MOST_OF_MESSAGE = 4_000
MOST_OF_TRACEBACK = 20_000


def now() -> str:
    """Return the present time in ISO 8601, in UTC with milliseconds."""
    seconds, rest = divmod(time.time_ns(), 10**9)
    return f"{_whole_second(seconds)}.{rest // 10**6:03}Z"


@lru_cache(maxsize=1)
def _whole_second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def write_request(
    request_id: str,
    status: int,
    seconds: float,
    *,
    method: str | None = None,
    path: str | None = None,
    upstream_seconds: float | None = None,
    **caller: str | None,
) -> None:
    """Write a line of the access log; a request that is no HTTP has neither method nor path.

    Not with `logging`, whose records cost several times as much.
    """
    line = {
        "time": now(),
        "level": "info",
        "request_id": request_id,
        "method": method,
        "path": path,
        "status": status,
        "seconds": round(seconds, 6),
        "upstream_seconds": upstream_seconds,
        **caller,
    }
    with suppress(OSError):  # the reader of standard error may be gone
        sys.stderr.buffer.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        sys.stderr.buffer.flush()


class JsonFormatter(logging.Formatter):
    """Formats a record as time, level, logger, message and, if there is one, traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line, whatever line breaks the message has."""
        line: dict[str, Any] = {
            "time": _iso(datetime.fromtimestamp(record.created, UTC)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _cut(record.getMessage(), MOST_OF_MESSAGE),
        }
        if record.exc_info:
            line["traceback"] = _cut(self.formatException(record.exc_info), MOST_OF_TRACEBACK)
        return orjson.dumps(line, default=str).decode()


def log_to_stderr(level: int = logging.WARNING) -> None:
    """Send records of all libraries from this level on, and what ends the process, to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda crash: _log_uncaught(
        crash.exc_type, crash.exc_value or crash.exc_type(), crash.exc_traceback
    )


def _log_uncaught(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        logger.critical("crashed: %s", error, exc_info=(kind, error, traceback))


def _cut(text: str, most: int) -> str:
    """Return a text without its middle where it has more characters than `most`."""
    return text if len(text) <= most else f"{text[: most // 2]} … {text[-most // 2 :]}"


def _iso(time: datetime) -> str:
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
