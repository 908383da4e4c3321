"""Rate limits per client and per ESCO, shared by `/rest/v1`, `/v1` and `/admin`; 429 beyond them.

Counts are kept in this process, together for the workers of one gateway (`FLOWS_WORKERS`), or in a
Redis that several gateways share (`FLOWS_LIMITS_URL`). If Redis does not answer, requests are
accepted without being counted; this is logged and counted in `/metrics`. A quota protects the
service, so its failure must not become an outage.
"""

import asyncio
import logging
import random
import time
from collections.abc import Iterable
from contextlib import AsyncExitStack

from limits import RateLimitItem, parse
from limits.errors import StorageError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.auth.bearer import bearer_token
from app.auth.tokens import OPERATOR, TokenVerifier
from app.db.principal import Principal
from app.errors import Forbidden, Problem, TooManyRequests, Unauthorized
from app.http.concurrency import ConcurrencyLimits
from app.http.problems import respond
from app.http.sliding_window import LocalWindow, SharedWindow, SlidingWindow
from app.http.strangers import AUTH_PREFIX, StrangerLimits
from app.http.worker_window import WorkerCounts
from app.monitoring.registry import Metrics
from app.request_state import request_state
from app.settings import LimitsSettings

logger = logging.getLogger(__name__)

ADMIN_PREFIX = "/admin/"
LIMITED_PREFIXES = ("/rest/v1/", "/v1/", ADMIN_PREFIX)
# Shared caches must not give an ESCO's response to another, nor CSV to who asked for JSON. Secrets
# are shown by /admin alone.
VARY = (
    b"vary",
    b"Authorization, apikey, Accept, Accept-Encoding, Accept-Profile, Prefer, Range, Range-Unit",
)
CACHING = (VARY, (b"cache-control", b"private, no-cache"))
NO_CACHING = (VARY, (b"cache-control", b"no-store"))
STORE_PAUSE_SECONDS = 2.0

Headers = Iterable[tuple[bytes, bytes]]


class RateLimiter:
    """Counts requests; `count` returns the rate limit headers or raises TooManyRequests.

    Windows slide, so that a used-up quota recovers gradually. A fixed window would admit a flood in
    one burst at each start of a window, and make everybody else wait for it.
    """

    def __init__(
        self, settings: LimitsSettings, metrics: Metrics, counts: WorkerCounts | None = None
    ) -> None:
        self._quotas = {"client": parse(settings.client), "esco": parse(settings.esco)}
        policies = ", ".join(_policy(name, quota) for name, quota in self._quotas.items())
        self._policy = (b"ratelimit-policy", policies.encode())
        self._windows = {
            name: _window(name, quota, settings, counts) for name, quota in self._quotas.items()
        }
        self._metrics = metrics
        self._paused_until = 0.0

    async def count(self, caller: Principal) -> Headers:
        """Count a request; return the headers `RateLimit-Policy` and `RateLimit`.

        Source: draft-ietf-httpapi-ratelimit-headers-10.
        """
        if time.monotonic() < self._paused_until:
            self._metrics.limiter_errors.inc()
            return (self._policy,)
        try:
            states = [await self._hit("client", caller.subject)]
            if caller.crowd:
                states.append(await self._hit("esco", caller.crowd))
        except (StorageError, OSError) as error:  # of OSError: too slow, or cut while it answered
            # Pause: asking an unavailable store for each request would slow all of them down.
            self._paused_until = time.monotonic() + STORE_PAUSE_SECONDS
            self._metrics.limiter_errors.inc()
            logger.error("rate limits are not counted: the store does not answer (%r)", error)
            return (self._policy,)
        return (self._policy, (b"ratelimit", b", ".join(states)))

    async def _hit(self, name: str, identity: str) -> bytes:
        hit = await self._windows[name].hit(identity)
        seconds = max(1, round(hit.seconds))
        if not hit.allowed:
            self._metrics.rate_limited.labels(name).inc()
            quota = self._quotas[name]
            problem = TooManyRequests(
                f"{quota.amount} requests per {quota.get_expiry()} seconds are allowed per {name}.",
                retry_after=seconds,
            )
            policy, state = self._policy[1].decode(), f'"{name}";r=0;t={seconds}'
            problem.headers |= {"RateLimit-Policy": policy, "RateLimit": state}
            raise problem
        return b'"%b";r=%d;t=%d' % (name.encode(), hit.remaining, seconds)


class CallerLimits:
    """ASGI middleware that verifies the token on /rest/v1, /v1 and /admin, before any of the body.

    It counts the request against the quotas, and holds one of its ESCO's places from then until the
    last byte of the response: for the body's upload, the query and the download. A request for
    anything else, and what is refused to one without a valid token, holds one of its address's.
    """

    def __init__(
        self,
        app: ASGIApp,
        limiter: RateLimiter,
        concurrency: ConcurrencyLimits,
        strangers: StrangerLimits,
        verifier: TokenVerifier,
        refusal_seconds: float,
        metrics: Metrics,
    ) -> None:
        self._app = app
        self._limiter = limiter
        self._concurrency = concurrency
        self._strangers = strangers
        self._verifier = verifier
        self._refusal_seconds = refusal_seconds
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 401, 403 or 429."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["path"].startswith(AUTH_PREFIX):
            await self._of_client(scope, receive, send)
        elif scope["path"].startswith(LIMITED_PREFIXES):
            await self._of_caller(scope, receive, send)
        else:
            await self._of_stranger(self._app, scope, receive, send)

    async def _of_caller(self, scope: Scope, receive: Receive, send: Send) -> None:
        admitted = False
        try:
            state = request_state(scope)
            is_admin = scope["path"].startswith(ADMIN_PREFIX)
            state.response_headers.extend(NO_CACHING if is_admin else CACHING)
            state.token = bearer_token(scope["headers"])
            state.caller = caller = self._verifier.verify(state.token)
            if caller.role == OPERATOR and not is_admin:
                raise Forbidden("This token is for administration and cannot read data.")
            state.response_headers.extend(await self._limiter.count(caller))
            async with self._concurrency.of(caller, state, scope):
                admitted = True
                await self._app(scope, receive, send)
        except Problem as problem:
            if admitted:
                raise
            if isinstance(problem, Unauthorized):
                await self._of_stranger(respond(scope, problem), scope, receive, send)
            else:
                await self._refuse(problem, scope, receive, send)

    async def _of_stranger(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        admitted = False
        try:
            async with self._strangers.of(scope):
                admitted = True
                await app(scope, receive, send)
        except TooManyRequests as problem:
            if admitted:
                raise
            self._metrics.rate_limited.labels("address").inc()
            await self._refuse(problem, scope, receive, send)

    async def _of_client(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request for a token; refusals alone wait for a turn of their address."""

        async def send_in_turn(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] >= 400:
                try:
                    await turns.enter_async_context(self._strangers.of(scope))
                except TooManyRequests:
                    await self._pause()
            await send(message)

        async with AsyncExitStack() as turns:
            await self._app(scope, receive, send_in_turn)

    async def _refuse(self, problem: Problem, scope: Scope, receive: Receive, send: Send) -> None:
        if isinstance(problem, TooManyRequests):
            await self._pause()
        await respond(scope, problem)(scope, receive, send)

    async def _pause(self) -> None:
        # A random delay keeps the connections of a flood from returning all at once.
        await asyncio.sleep(self._refusal_seconds * random.uniform(0.5, 1.5))  # noqa: S311


def _window(
    name: str, quota: RateLimitItem, settings: LimitsSettings, counts: WorkerCounts | None
) -> SlidingWindow:
    if settings.url:
        return SharedWindow(quota, name, settings.url.get_secret_value())
    return counts.window(quota, name) if counts else LocalWindow(quota)


def _policy(name: str, quota: RateLimitItem) -> str:
    return f'"{name}";q={quota.amount};w={quota.get_expiry()}'
