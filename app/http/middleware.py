"""Middleware for all requests: request id, Server-Timing, access log, metrics, limits, CORS.

It is pure ASGI, so that bodies stream through. Layers share values in app/request_state.py.
"""

import logging
import re
import time

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.auth.tokens import TokenVerifier
from app.auth.usage import UsageCounts
from app.errors import Problem
from app.http.compression import Compression
from app.http.concurrency import ConcurrencyLimits
from app.http.problems import respond
from app.http.protocol import Frames
from app.http.rate_limit import CallerLimits, RateLimiter
from app.http.request_limits import BodyLimits, HeadLimits, check_head
from app.http.strangers import StrangerLimits
from app.http.worker_window import WorkerCounts
from app.monitoring import logs
from app.monitoring.registry import Metrics
from app.request_state import RequestState, begin_request, new_request_id
from app.settings import HttpSettings, Settings
from app.tracing import RequestTrace, Tracing

logger = logging.getLogger(__name__)

REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
CLIENT_LEFT = 499
LONGEST_LOGGED_PATH = 256
CORS_REQUEST_HEADERS = [
    "accept-profile",
    "apikey",
    "authorization",
    "content-profile",
    "if-none-match",
    "prefer",
    "range",
    "range-unit",
    "x-client-info",
    "x-request-id",
    "x-retry-count",
    "x-supabase-api-version",
]
CORS_ANSWER_HEADERS = [
    "available-from",
    "available-to",
    "content-disposition",
    "content-location",
    "content-profile",
    "content-range",
    "data-as-of",
    "etag",
    "link",
    "location",
    "preference-applied",
    "proxy-status",
    "ratelimit",
    "ratelimit-policy",
    "retry-after",
    "server-timing",
    "warning",
    "www-authenticate",
    "x-request-id",
]


class RequestTelemetry:
    """Gives each request an id, measures, logs and counts it, and turns a crash into a 500."""

    def __init__(
        self, app: ASGIApp, metrics: Metrics, usage: UsageCounts, tracing: Tracing, *, log: bool
    ) -> None:
        self._app = app
        self._tracing = tracing
        self._metrics = metrics
        self._usage = usage
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = _request_id(scope)
        state = begin_request(scope, request_id.decode())
        state.response_headers.append((b"x-request-id", request_id))
        trace = self._tracing.begin(scope["method"], scope["headers"])
        status = size = 0
        ended = False

        async def send_observed(message: Message) -> None:
            nonlocal status, size, ended
            if message["type"] == "http.response.body":
                size += len(message.get("body", b""))
                ended = not message.get("more_body", False)
            elif message["type"] == "http.response.start":
                status = message["status"]
                total = time.perf_counter() - started
                state.response_headers.append((b"server-timing", _server_timing(state, total)))
                message["headers"] = [*message.get("headers", ()), *state.response_headers]
            await send(message)

        try:
            await self._app(scope, receive, send_observed)
        except Exception:
            if status and not ended:
                raise  # only breaking the response off shows the error
            logger.exception("request %s crashed", state.request_id)
            if not status:
                await respond(scope, Problem())(scope, receive, send_observed)
        finally:
            self._record(scope, state, status or CLIENT_LEFT, time.perf_counter() - started)
            if state.caller:
                frames = scope.get("state", {}).get("frames") or Frames()
                self._usage.add(state.caller, state.rows, size, frames.body)
            if trace:
                self._end(trace, scope, state, status or CLIENT_LEFT)

    def _end(self, trace: RequestTrace, scope: Scope, state: RequestState, status: int) -> None:
        route = self._metrics.templates.find(scope["path"])
        told = {"http.route": route, "flows.request_id": state.request_id}
        if state.caller:
            told["flows.client_id"] = state.caller.client_id
            told["flows.esco"] = state.caller.esco_code or ""
        trace.end(f"{scope['method']} {route}", status, told)

    def _record(self, scope: Scope, state: RequestState, status: int, seconds: float) -> None:
        self._metrics.observe(scope["method"], scope["path"], status, seconds)
        if not self._log:
            return
        caller = state.caller
        logs.write_request(
            state.request_id,
            status,
            seconds,
            method=scope["method"],
            # Without the query, whose filters may contain personal data.
            path=scope["path"][:LONGEST_LOGGED_PATH],
            upstream_seconds=state.upstream_seconds,
            **({"client_id": caller.client_id, "esco": caller.esco_code} if caller else {}),
        )


class PrefixDispatch:
    """Passes requests below a path to a separate application, bypassing FastAPI's routing."""

    def __init__(self, app: ASGIApp, prefix: str, target: ASGIApp) -> None:
        self._app = app
        self._prefix = prefix
        self._target = target

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request to one of the two applications."""
        inside = scope["type"] == "http" and scope["path"].startswith(self._prefix)
        await (self._target if inside else self._app)(scope, receive, send)


class CrossOrigin:
    """CORS, whose answers to preflights are for well-formed requests alone."""

    def __init__(self, app: ASGIApp, origins: tuple[str, ...], settings: HttpSettings) -> None:
        self._app = app
        self._settings = settings
        self._cors = CORSMiddleware(
            app,
            allow_origins=origins,
            allow_methods=["GET", "HEAD", "POST", "PATCH", "PUT", "DELETE"],
            allow_headers=CORS_REQUEST_HEADERS,
            expose_headers=CORS_ANSWER_HEADERS,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a malformed preflight by, and on to the layer that refuses it."""
        app: ASGIApp = self._cors
        if scope["type"] == "http" and scope["method"] == "OPTIONS":
            try:
                check_head(scope, self._settings)
            except Problem:
                app = self._app
        await app(scope, receive, send)


def wrap(
    routes: ASGIApp,
    settings: Settings,
    rest: ASGIApp,
    verifier: TokenVerifier,
    metrics: Metrics,
    usage: UsageCounts,
    tracing: Tracing,
    concurrency: ConcurrencyLimits,
    counts: WorkerCounts | None,
) -> ASGIApp:
    """Put the layers around the routes; a request passes the one added last first.

    They are outside of FastAPI, because the pass-through bypasses FastAPI's own middleware.
    """
    app: ASGIApp = PrefixDispatch(routes, prefix="/rest/v1/", target=rest)
    app = BodyLimits(app, settings.http, settings.imports.max_file_bytes)
    app = CallerLimits(
        app,
        limiter=RateLimiter(settings.limits, metrics, counts),
        concurrency=concurrency,
        strangers=StrangerLimits(settings),
        verifier=verifier,
        refusal_seconds=settings.limits.refusal_seconds,
        metrics=metrics,
    )
    app = HeadLimits(app, settings=settings.http)
    app = Compression(app)
    app = RequestTelemetry(app, metrics, usage, tracing, log=settings.access_log)
    if settings.cors_origins:
        app = CrossOrigin(app, settings.cors_origins, settings.http)
    return app


def _request_id(scope: Scope) -> bytes:
    """Return the caller's X-Request-Id if it is safe in logs and headers, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and REQUEST_ID.fullmatch(value):
            given: bytes = value
            return given
    return new_request_id().encode()


def _server_timing(state: RequestState, total: float) -> bytes:
    """Return a Server-Timing value: milliseconds until the first byte of the response."""
    timing = f"total;dur={total * 1000:.2f}"
    if state.upstream_seconds is not None:
        timing = f"upstream;dur={state.upstream_seconds * 1000:.2f}, {timing}"
    return timing.encode()
