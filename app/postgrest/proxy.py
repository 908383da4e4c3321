"""`/rest/v1/*`: pass-through to PostgREST, streamed in both directions.

It is a raw ASGI application, because this hot path must bypass FastAPI's routing and validation.
The middleware (app/http/middleware.py) has already verified the token and limited the request.
"""

import asyncio
import logging
import os
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from starlette.types import Receive, Scope, Send

from app.db.principal import RESIDENT
from app.db.replica import Replica
from app.db.session import direct_url, replica_url
from app.errors import Problem, RestError, Unavailable, UpstreamTimeout
from app.http.problems import respond
from app.http.response_stream import ClientGone, ResponseStream
from app.monitoring.registry import Metrics
from app.postgrest.cancel import QueryCanceller
from app.postgrest.connection import UpstreamConnection, UpstreamLost, UpstreamSilent
from app.postgrest.newest import newest_asked
from app.postgrest.pool import Upstream
from app.postgrest.request import PREFIX, PROFILES, build_upstream_request, is_call, name_of
from app.postgrest.response import (
    allow_header,
    answer_headers,
    cleaned_error,
    counted_rows,
    error_headers,
)
from app.postgrest.row_limit import check_rows, limit_call, limit_rows, may_multiply
from app.postgrest.servers import UpstreamServers, connect
from app.request_state import RequestState, request_state
from app.settings import Settings
from app.tracing import child_span

logger = logging.getLogger(__name__)

# The most that a query may take whose rows may multiply, one digit: what it makes is in memory.
MULTIPLYING_SECONDS = 5
REPLICA_METHODS = frozenset({"GET", "HEAD"})
# PostgREST's status for an error: several relations or functions fit the request.
AMBIGUOUS = 300


class UpstreamCut(Exception):  # noqa: N818  (breaks off the transfer on purpose)
    """PostgREST's response ended early, after its first part had been passed on."""


@dataclass(frozen=True, slots=True)
class Side:
    """The primary or the replica: its PostgRESTs, and who cancels the queries of its database."""

    upstream: Upstream | UpstreamServers
    canceller: QueryCanceller


class RestProxy:
    """The ASGI application of `/rest/v1`: `start` it, and `close` it at the end.

    `token` returns one of the gateway's own, to look whether PostgREST serves.
    """

    def __init__(self, settings: Settings, metrics: Metrics, token: Callable[[], str]) -> None:
        database, own = settings.database, settings.postgrest
        self._primary = Side(
            connect(own, own.urls, token), QueryCanceller(lambda: direct_url(database))
        )
        self._replica: Replica | None = None
        self._replica_side: Side | None = None
        if urls := settings.replica.urls:
            canceller = QueryCanceller(lambda: replica_url(settings.replica))
            self._replica_side = Side(connect(own, urls, token), canceller)
        self._send_seconds = settings.http.send_seconds
        self._max_rows = settings.postgrest.max_rows
        self._metrics = metrics
        self._profiles = {**PROFILES, **{name.encode(): name for name in own.schemas}}
        self._in_flight = 0
        metrics.watch(
            "flows_postgrest_requests_in_flight",
            "Current requests to PostgREST.",
            lambda: self._in_flight,
        )
        metrics.watch(
            "flows_postgrest_requests_limit",
            "Most requests to each PostgREST at a time (FLOWS_POSTGREST_CONNECTIONS).",
            lambda: own.connections,
        )
        if isinstance(several := self._primary.upstream, UpstreamServers):
            metrics.watch_common(
                "flows_postgrest_servers_serving",
                "PostgRESTs of FLOWS_POSTGREST_URL that requests are sent to.",
                lambda: several.serving,
            )

    def start(self, replica: Replica | None) -> None:
        """Begin to watch several PostgRESTs; reads go to the replica while it is usable."""
        self._replica = replica
        for side in self._sides:
            side.upstream.start()

    async def close(self) -> None:
        """Close the connections and stop the cancellers."""
        for side in self._sides:
            side.upstream.close()
            await side.canceller.close()

    @property
    def _sides(self) -> list[Side]:
        return [self._primary, *([self._replica_side] if self._replica_side else [])]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        stream = ResponseStream(scope, receive, send, self._send_seconds)
        state = request_state(scope)
        try:
            target, headers = build_upstream_request(scope, self._profiles)
            headers["authorization"] = f"Bearer {state.token}"
            headers["x-flows-query"] = query = os.urandom(16).hex()
            if may_multiply(scope["query_string"]):
                headers["x-flows-seconds"] = str(MULTIPLYING_SECONDS)
            self._in_flight += 1
            try:
                async with stream:
                    await self._forward(scope, state, stream, target, headers)
            except (ClientGone, UpstreamTimeout):
                # PostgREST reads the whole body before it runs the query and responds.
                if state.upstream_seconds is None and not stream.body_error:
                    for side in self._sides:
                        side.canceller.cancel(query)
                raise
            finally:
                self._in_flight -= 1
        except RestError as error:
            await stream.answer_json(error.status, error.body)
        except Problem as problem:
            await respond(scope, problem)(scope, receive, send)
        except ClientGone:
            pass

    async def _forward(
        self,
        scope: Scope,
        state: RequestState,
        stream: ResponseStream,
        target: str,
        headers: dict[str, str],
    ) -> None:
        has_body = "content-length" in headers or any(
            name == b"transfer-encoding" for name, _ in scope["headers"]
        )
        body = stream.body() if has_body else None
        method, side = scope["method"], self._replica_side
        if (
            side
            and self._replica
            and self._replica.usable
            and body is None
            and method in REPLICA_METHODS
        ):
            try:
                await self._pass_on(side, scope, state, stream, target, headers)
                return
            except Unavailable:
                if stream.started:
                    raise
                logger.warning("request %s: the primary is asked instead", state.request_id)
        await self._pass_on(self._primary, scope, state, stream, target, headers, body)

    async def _pass_on(
        self,
        side: Side,
        scope: Scope,
        state: RequestState,
        stream: ResponseStream,
        target: str,
        headers: dict[str, str],
        body: AsyncGenerator[bytes, None] | None = None,
    ) -> None:
        """Send a request to a side and its answer to the client."""
        method, newest = scope["method"], None
        if state.caller is not None and state.caller.esco is not None:
            newest = newest_asked(method, target, headers, resident=state.caller.role == RESIDENT)
        rows, query = None, scope["query_string"]
        if method == "GET":
            rows = limit_rows(query, headers, self._max_rows, name_of(target))
        elif method == "POST" and is_call(target):
            rows, target = limit_call(target, query, self._max_rows, name_of(target))
        started = time.perf_counter()
        try:
            with child_span("PostgREST", {"flows.query": headers["x-flows-query"]}) as parent:
                if parent is not None:
                    headers["traceparent"] = parent
                answer = await side.upstream.ask(
                    method, newest.target if newest else target, headers, body
                )
                if newest and answer.status >= 400:
                    # An error is told in the words of the client's own request.
                    side.upstream.release(answer)
                    newest = None
                    answer = await side.upstream.ask(method, target, headers, body)
        except UpstreamSilent:
            self._metrics.upstream_errors.labels("timeout").inc()
            raise UpstreamTimeout() from None
        except UpstreamLost as error:
            self._metrics.upstream_errors.labels("connect").inc()
            logger.warning("PostgREST does not answer: %s", error)
            raise Unavailable("PostgREST does not answer.") from error
        state.upstream_seconds = time.perf_counter() - started
        if state.on_answer:
            state.on_answer()
        try:
            pairs = answer_headers(answer, PREFIX)
            if newest:
                pairs.append((b"content-location", PREFIX + newest.content_location))
            if answer.status >= 400 or answer.status == AMBIGUOUS:
                refusal = await cleaned_error(answer, scope["query_string"])
                if refusal.status == 500:
                    # The database's log has no errors of the doors: see sql/objects/010_roles.sql.
                    logger.error("request %s: PostgREST: error %s", state.request_id, refusal.code)
                pairs = error_headers(pairs, refusal.code)
                if refusal.status == 405:
                    pairs.append(allow_header(scope["path"], refusal.code))
                await stream.answer(refusal.status, pairs, refusal.body)
            else:
                if rows is not None:
                    check_rows(pairs, rows)
                state.rows = counted_rows(pairs)
                _keep_cache_control(state, pairs)
                await self._stream(stream, answer, pairs)
        except Unavailable:
            self._metrics.upstream_errors.labels("unavailable").inc()
            raise
        except UpstreamLost as error:
            self._metrics.upstream_errors.labels("cut").inc()
            if stream.started:
                raise UpstreamCut(str(error)) from error
            raise Unavailable("PostgREST broke off its response.") from error
        finally:
            side.upstream.release(answer)

    async def _stream(
        self, stream: ResponseStream, answer: UpstreamConnection, pairs: list[tuple[bytes, bytes]]
    ) -> None:
        # Read before sending the head: a small response is complete by then and sent at once.
        piece = await answer.read()
        if not answer.complete:
            # The end often arrives separately, right after the last piece.
            await asyncio.sleep(0)
        if answer.complete:
            piece += await answer.read()
            await stream.answer(answer.status, pairs, piece)
            return
        await stream.start(answer.status, pairs)
        # An early end raises here, before the last chunk, so the client sees a broken transfer.
        while piece:
            await stream.write(piece)
            piece = await answer.read()
        await stream.end()


def _keep_cache_control(state: RequestState, pairs: list[tuple[bytes, bytes]]) -> None:
    """Let a Cache-Control that SQL has set stand instead of the gateway's own."""
    if any(name == b"cache-control" for name, _ in pairs):
        own = state.response_headers
        own[:] = [pair for pair in own if pair[0] != b"cache-control"]
