"""The client's side of a request that may take long: body in, answer out, and its leaving."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from types import TracebackType

import orjson
from starlette.types import Receive, Scope, Send

from app.errors import Problem
from app.request_state import request_state

# Most answers are there sooner; only then is it worth a task to watch whether the client stays.
WATCH_AFTER_SECONDS = 0.05
NO_ERROR = (None, None, None)

Pairs = list[tuple[bytes, bytes]]


class ClientGone(Exception):  # noqa: N818  (nobody is left to be told of an error)
    """The client closed the connection, or takes nothing any more."""


class ResponseStream:
    """Body in and answer out; as an asynchronous context it ends the request, with ClientGone, when
    the client leaves.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, send_seconds: float) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._send_seconds = send_seconds
        self._reading = False
        self._group = asyncio.TaskGroup()
        self._watcher: asyncio.Task[None] | None = None
        self.started = False
        self.body_error: Exception | None = None

    async def __aenter__(self) -> None:
        await self._group.__aenter__()
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(WATCH_AFTER_SECONDS, self._watch)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        if self._watcher:
            self._watcher.cancel()
        # An error of the request is not the group's to wrap: it goes on as it is.
        cancelled = kind is asyncio.CancelledError
        try:
            await self._group.__aexit__(*((kind, error, traceback) if cancelled else NO_ERROR))
        except ExceptionGroup:
            raise ClientGone from None

    def _watch(self) -> None:
        if self._reading:  # a body still comes in, and reading it tells of a disconnect too
            self._timer = self._loop.call_later(WATCH_AFTER_SECONDS, self._watch)
        else:
            self._watcher = self._group.create_task(self._raise_when_gone())

    async def _raise_when_gone(self) -> None:
        """Raise ClientGone when the client leaves: the group then cancels the request."""
        try:
            while (await self._receive())["type"] != "http.disconnect":
                pass
        except Problem:
            return  # of a body that nobody reads any more: the answer came before its end
        raise ClientGone

    def body(self) -> AsyncGenerator[bytes, None]:
        """Return the request's body as it arrives; what goes wrong is kept in `body_error` too."""
        self._reading = True
        return self._pieces()

    async def _pieces(self) -> AsyncGenerator[bytes, None]:
        try:
            while True:
                message = await self._receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                if message.get("body"):
                    yield message["body"]
                if not message.get("more_body"):
                    return
        except (ClientGone, Problem) as error:
            self.body_error = error
            raise
        finally:
            self._reading = False

    async def start(self, status: int, headers: Pairs) -> None:
        """Send the answer's head."""
        self.started = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, piece: bytes) -> None:
        """Send a piece; ClientGone when the client takes nothing for too long."""
        try:
            async with asyncio.timeout(self._send_seconds):
                await self._send({"type": "http.response.body", "body": piece, "more_body": True})
        except TimeoutError:
            # Closing would wait for the client to take what is buffered: that is what it does not.
            if abort := request_state(self._scope).abort:
                abort()
            raise ClientGone from None

    async def end(self) -> None:
        """Complete the answer."""
        await self._send({"type": "http.response.body", "body": b""})

    async def answer(self, status: int, headers: Pairs, body: bytes) -> None:
        """Send a whole answer; a length among the headers is replaced by the body's."""
        pairs = [pair for pair in headers if pair[0] != b"content-length"]
        if status not in (204, 304) and self._scope["method"] != "HEAD":
            pairs.append((b"content-length", str(len(body)).encode()))
        await self.start(status, pairs)
        await self._send({"type": "http.response.body", "body": body})

    async def answer_json(self, status: int, body: Mapping[str, str | None]) -> None:
        """Send a JSON object as PostgREST does."""
        pairs = [(b"content-type", b"application/json; charset=utf-8")]
        await self.answer(status, pairs, orjson.dumps(body))
