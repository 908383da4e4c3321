"""The client's side of a long request: its body, the response, and disconnects."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from types import TracebackType

import orjson
from starlette.types import Receive, Scope, Send

from app.errors import Problem
from app.request_state import request_state

# Most responses take less time; only beyond it a task watches for the client's disconnect.
WATCH_AFTER_SECONDS = 0.05
NO_ERROR = (None, None, None)

Pairs = list[tuple[bytes, bytes]]


class ClientGone(Exception):  # noqa: N818  (an expected end, not an error)
    """The client closed the connection or stopped reading."""


class ResponseStream:
    """A request's body and its response; an async context manager around their handling.

    It cancels the handling, and raises ClientGone, when the client disconnects before the end of
    the response.
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
        self._ended = False
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
        # Raise an error of the request itself instead of wrapping it in an exception group.
        cancelled = kind is asyncio.CancelledError
        try:
            await self._group.__aexit__(*((kind, error, traceback) if cancelled else NO_ERROR))
        except ExceptionGroup:
            raise ClientGone from None

    def _watch(self) -> None:
        if self._reading:  # the body is still being read, which also reveals a disconnect
            self._timer = self._loop.call_later(WATCH_AFTER_SECONDS, self._watch)
        else:
            self._watcher = self._group.create_task(self._raise_when_gone())

    async def _raise_when_gone(self) -> None:
        """Raise ClientGone when the client disconnects: the task group then cancels the request."""
        try:
            while (await self._receive())["type"] != "http.disconnect":
                pass
        except Problem:
            return  # a body that is no longer read, because the response came first
        if not self._ended:  # the server reports a disconnect after each response as well
            raise ClientGone

    def body(self) -> AsyncGenerator[bytes, None]:
        """Return the request's body as it arrives; errors are also kept in `body_error`."""
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
        """Send the head of the response."""
        self.started = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, piece: bytes) -> None:
        """Send a piece of the body; ClientGone if the client does not read it in time."""
        try:
            async with asyncio.timeout(self._send_seconds):
                await self._send({"type": "http.response.body", "body": piece, "more_body": True})
        except TimeoutError:
            # Abort: closing would wait for the client to read what is buffered.
            if abort := request_state(self._scope).abort:
                abort()
            raise ClientGone from None

    async def end(self, body: bytes = b"") -> None:
        """Complete the response, with the last or the only piece of its body."""
        self._ended = True
        await self._send({"type": "http.response.body", "body": body})

    async def answer(self, status: int, headers: Pairs, body: bytes) -> None:
        """Send a whole response; a Content-Length in `headers` is replaced by the body's."""
        pairs = [pair for pair in headers if pair[0] != b"content-length"]
        if status not in (204, 304) and self._scope["method"] != "HEAD":
            pairs.append((b"content-length", str(len(body)).encode()))
        await self.start(status, pairs)
        await self.end(body)

    async def answer_json(self, status: int, body: Mapping[str, str | None]) -> None:
        """Send a JSON object as PostgREST does."""
        pairs = [(b"content-type", b"application/json; charset=utf-8")]
        await self.answer(status, pairs, orjson.dumps(body))
