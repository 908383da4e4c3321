"""`/rest/v1/*`: PostgREST as its clients know it, streamed both ways, behind a verified token.

A raw ASGI application: this is the hot path, and it stays off FastAPI's routing and validation.
The layers before it (app/middleware.py) have verified the token and bounded the request.
"""

import logging
import secrets
import time

import aiohttp
from starlette.requests import Request
from starlette.types import Receive, Scope, Send
from yarl import URL

from app.errors import Problem, Unavailable, UpstreamTimeout, respond
from app.exchange import ClientGone, Exchange
from app.ops.metrics import Metrics
from app.rest.cancel import QueryCanceller
from app.rest.rebuild import PREFIX, RestError, rebuild, route_template
from app.rest.relay import answer_headers, cleaned_error
from app.settings import RestSettings
from app.shares import Shares

logger = logging.getLogger(__name__)


class UpstreamCut(Exception):  # noqa: N818  (the transfer is broken, on purpose)
    """PostgREST's answer ended before it was complete, after its beginning was sent on."""


class RestProxy:
    """ASGI application; `open` and `close` frame its pool of connections to PostgREST."""

    def __init__(
        self,
        upstream: str,
        settings: RestSettings,
        metrics: Metrics,
        canceller: QueryCanceller,
        shares: Shares,
    ) -> None:
        self._upstream = upstream.rstrip("/")
        self._canceller = canceller
        self._shares = shares
        self._settings = settings
        self._metrics = metrics
        self._in_flight = 0
        self._session: aiohttp.ClientSession | None = None
        metrics.watch(
            "flows_postgrest_requests",
            "Requests at PostgREST now, and how many there may be.",
            lambda: {"in_flight": self._in_flight, "limit": settings.connections},
        )

    async def open(self) -> None:
        """Open the pool; connections are made as they are needed."""
        self._session = aiohttp.ClientSession(
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            connector=aiohttp.TCPConnector(limit=self._settings.connections),
            timeout=aiohttp.ClientTimeout(
                total=None,
                connect=self._settings.connect_seconds,
                sock_read=self._settings.answer_seconds,
            ),
            skip_auto_headers=("User-Agent", "Accept-Encoding", "Content-Type", "Accept"),
        )

    async def close(self) -> None:
        """Close the pool."""
        if self._session:
            await self._session.close()
        await self._canceller.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        exchange = Exchange(scope, receive, send, self._settings.send_seconds)
        try:
            target, headers = rebuild(scope)
            scope["route_template"] = route_template(target)
            headers["authorization"] = f"Bearer {scope['token']}"
            headers["x-flows-query"] = query = secrets.token_hex(16)
            self._in_flight += 1
            try:
                with exchange:
                    await self._forward(scope, exchange, target, headers)
            except (ClientGone, UpstreamTimeout):
                # PostgREST reads a whole body before its query, and answers after it.
                if "upstream_seconds" not in scope and not exchange.body_error:
                    self._canceller.cancel(query)
                raise
            finally:
                self._in_flight -= 1
        except RestError as error:
            await exchange.answer_json(error.status, error.body)
        except Problem as problem:
            await respond(Request(scope), problem)(scope, receive, send)
        except ClientGone:
            pass

    async def _forward(
        self, scope: Scope, exchange: Exchange, target: str, headers: dict[str, str]
    ) -> None:
        assert self._session is not None  # noqa: S101  (opened by the lifespan)
        has_body = "content-length" in headers or any(
            name == b"transfer-encoding" for name, _ in scope["headers"]
        )
        started = time.perf_counter()
        try:
            # PostgREST answers when it is done with the database: what follows is the transfer.
            async with self._shares.of(scope["caller"]):
                answer = await self._session.request(
                    scope["method"],
                    URL(self._upstream + target, encoded=True),
                    headers=headers,
                    data=exchange.body() if has_body else None,
                    allow_redirects=False,
                )
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._failure(exchange, error) from error
        scope["upstream_seconds"] = time.perf_counter() - started
        # Leaving this block early closes the connection instead of returning it to the pool.
        async with answer:
            pairs = answer_headers(answer, PREFIX)
            try:
                if answer.status >= 400:
                    status, body = await cleaned_error(answer)
                    await exchange.answer(status, pairs, body)
                else:
                    await self._stream(exchange, answer, pairs)
            except Unavailable:
                self._metrics.upstream_errors.labels("unavailable").inc()
                raise
            except (aiohttp.ClientError, TimeoutError) as error:
                self._metrics.upstream_errors.labels("cut").inc()
                if exchange.started:
                    raise UpstreamCut(str(error)) from error
                raise Unavailable("PostgREST broke off its answer.") from error

    async def _stream(
        self,
        exchange: Exchange,
        answer: aiohttp.ClientResponse,
        pairs: list[tuple[bytes, bytes]],
    ) -> None:
        # Read before the first byte goes out: a small answer is there whole and is sent at once.
        piece = await answer.content.readany()
        if answer.content.at_eof():
            await exchange.answer(answer.status, pairs, piece)
            return
        await exchange.start(answer.status, pairs)
        await exchange.write(piece)
        # A cut upstream raises here, before the last chunk: the client sees a broken transfer.
        async for more in answer.content.iter_any():
            await exchange.write(more)
        await exchange.end()

    def _failure(self, exchange: Exchange, error: Exception) -> Exception:
        """What to tell the client when there is no answer to pass on."""
        if exchange.body_error:
            return exchange.body_error
        if isinstance(error, aiohttp.SocketTimeoutError):
            self._metrics.upstream_errors.labels("timeout").inc()
            return UpstreamTimeout()
        self._metrics.upstream_errors.labels("connect").inc()
        logger.warning("PostgREST does not answer: %r", error)
        return Unavailable("PostgREST does not answer.")
