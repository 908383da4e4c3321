"""Rate limits per client and per ESCO, for `/rest/v1` and `/v1` alike; 429 when one is used up.

Counts live in this process, or in Redis where several gateways share them (`FLOWS_LIMITS_URL`).
When Redis does not answer, requests pass uncounted: logged, and counted in `/metrics`. A quota
protects the service; refusing everybody because the counter is down would be the outage itself.
"""

import asyncio
import logging
import random
import time
from collections.abc import Iterable

from limits import RateLimitItem, parse
from limits.aio.storage import Storage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from limits.errors import StorageError
from limits.storage import storage_from_string
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from app.auth.principal import Principal
from app.auth.tokens import OPERATOR, TokenVerifier
from app.errors import Forbidden, Problem, TooManyRequests, respond
from app.ops.metrics import Metrics
from app.rest.credentials import bearer_token
from app.settings import LimitsSettings

logger = logging.getLogger(__name__)

DOORS = ("/rest/v1/", "/v1/")
STORE_SECONDS = 0.25
STORE_PAUSE_SECONDS = 2.0

Headers = Iterable[tuple[bytes, bytes]]


class RateLimiter:
    """Counts requests; `count` tells the headers, or raises TooManyRequests.

    Windows slide: a used-up quota comes back evenly, where a fixed window would let a flood
    through in one burst each time a new window begins, and everybody else wait for it.
    """

    def __init__(self, settings: LimitsSettings, metrics: Metrics) -> None:
        self._quotas = {"client": parse(settings.client), "esco": parse(settings.esco)}
        policies = ", ".join(_policy(name, quota) for name, quota in self._quotas.items())
        self._policy = (b"ratelimit-policy", policies.encode())
        self._limiter = SlidingWindowCounterRateLimiter(_storage(settings))
        self._metrics = metrics
        self._paused_until = 0.0

    async def count(self, caller: Principal) -> Headers:
        """Count one request; return `RateLimit-Policy` and `RateLimit`.

        Source: draft-ietf-httpapi-ratelimit-headers-10.
        """
        if time.monotonic() < self._paused_until:
            self._metrics.limiter_errors.inc()
            return (self._policy,)
        try:
            async with asyncio.timeout(STORE_SECONDS):
                states = [
                    await self._hit(name, identity)
                    for name, identity in (("client", caller.client_id), ("esco", caller.esco))
                    if identity
                ]
        except (StorageError, TimeoutError) as error:
            # Asking a dead store again for each request would slow all of them down.
            self._paused_until = time.monotonic() + STORE_PAUSE_SECONDS
            self._metrics.limiter_errors.inc()
            logger.error("rate limits are not counted: the store does not answer (%r)", error)
            return (self._policy,)
        return (self._policy, (b"ratelimit", b", ".join(states)))

    async def _hit(self, name: str, identity: object) -> bytes:
        quota = self._quotas[name]
        allowed = await self._limiter.hit(quota, name, str(identity))
        reset_time, remaining = await self._limiter.get_window_stats(quota, name, str(identity))
        seconds = max(1, round(reset_time - time.time()))
        if not allowed:
            self._metrics.rate_limited.labels(name).inc()
            problem = TooManyRequests(
                f"{quota.amount} requests per {quota.get_expiry()} seconds are allowed per {name}.",
                retry_after=seconds,
            )
            policy, state = self._policy[1].decode(), f'"{name}";r=0;t={seconds}'
            problem.headers |= {"RateLimit-Policy": policy, "RateLimit": state}
            raise problem
        return f'"{name}";r={remaining};t={seconds}'.encode()


class RateLimits:
    """ASGI middleware: verifies the token at both doors (`scope["caller"]`) and counts."""

    def __init__(
        self, app: ASGIApp, limiter: RateLimiter, verifier: TokenVerifier, refusal_seconds: float
    ) -> None:
        self._app = app
        self._limiter = limiter
        self._verifier = verifier
        self._refusal_seconds = refusal_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 401, 403 or 429 here."""
        if scope["type"] == "http" and scope["path"].startswith(DOORS):
            try:
                scope["token"] = token = bearer_token(scope["headers"])
                scope["caller"] = caller = self._verifier.verify(token)
                if caller.role == OPERATOR:
                    raise Forbidden("This token administers; it reads no data.")
                scope["answer_headers"].extend(await self._limiter.count(caller))
            except Problem as problem:
                if isinstance(problem, TooManyRequests):
                    # For a varying time: a flood's connections would all come back at one moment.
                    await asyncio.sleep(self._refusal_seconds * random.uniform(0.5, 1.5))  # noqa: S311
                await respond(Request(scope), problem)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _storage(settings: LimitsSettings) -> Storage:
    if settings.url is None:
        storage = storage_from_string("async+memory://")
    else:
        storage = storage_from_string(
            f"async+{settings.url.get_secret_value()}",
            wrap_exceptions=True,
            connect_timeout=STORE_SECONDS,
            stream_timeout=STORE_SECONDS,
        )
    assert isinstance(storage, Storage)  # noqa: S101  (both are asynchronous)
    return storage


def _policy(name: str, quota: RateLimitItem) -> str:
    return f'"{name}";q={quota.amount};w={quota.get_expiry()}'
