"""A client's connection: uvicorn's httptools protocol with limits on requests and transfers.

Only this module and response_cycle.py use internals of uvicorn; tests/http/test_protocol.py fails
if those change.
"""

import asyncio
import http
import resource
import socket
from dataclasses import dataclass
from typing import Any, ClassVar, cast
from urllib.parse import unquote

import httptools
import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.deadlines import Deadlines
from app.errors import PROBLEM_JSON, BadRequest, HeadersTooLarge, Problem, UrlTooLong
from app.http.problems import problem_details
from app.http.response_cycle import ResponseCycle
from app.http.transport import ClientTransport, Delivery
from app.monitoring import logs
from app.request_state import new_request_id
from app.settings import HttpSettings

# Longer than proxies keep a connection without a request, mostly 60 s: a write that one sends just
# as the gateway closes is lost, and answered 502.
KEEP_ALIVE_SECONDS = 75
# A body may have this much left when its response is complete; beyond it, the connection is closed.
LEFTOVER_BYTES = 64 * 2**10
# A client that has finished sending may wait for its response, or be gone: both look alike until
# something is sent to it. This is the time to the first try, and between tries.
HALF_CLOSED_SECONDS = 1.0
INTERIM = b"HTTP/1.1 102 Processing\r\n\r\n"
# A client that is refused while it sends is read from so long, or so far: were the connection
# closed at once, the kernel would reset it, and the client would lose the answer.
LINGER_SECONDS = 5.0
LINGER_BYTES = 8 * 2**20
# Descriptors that are kept for files and for connections to PostgREST and the database.
KEPT_DESCRIPTORS = 256


@dataclass(slots=True)
class Frames:
    """Bytes received for a request so far: of its body, and with sizes and extensions of chunks."""

    body: int = 0
    count: int = 0


class GuardedProtocol(HttpToolsProtocol):
    """A protocol that limits what the parser itself does not.

    The parser would collect a head of any size, and wait for it forever; it is refused once it is
    too large, as app/http/request_limits.py refuses a complete one. It would take trailers for
    headers, and read the extensions of chunks without end. Connections would be held until no
    descriptor is left; the one that has waited longest for a request makes room for a new one.

    The state of a request's scope gets `abort`, the `target` as it was sent, and the `frames` of
    the body.
    """

    logs_requests: ClassVar[bool]
    max_url_bytes: ClassVar[int]
    max_header_bytes: ClassVar[int]
    head_seconds: ClassVar[float]
    min_bytes_per_second: ClassVar[int]
    rate_seconds: ClassVar[float]
    idle: ClassVar[Deadlines["GuardedProtocol"]]  # those that wait for a request

    _head_bytes = 0
    _in_head = True
    _in_body = False
    _leftover_bytes = 0
    _half_closed = False
    _refusal: Problem | None = None  # then nothing is parsed any more
    _head_timer: asyncio.TimerHandle | None = None
    _gone_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Start the timer for the first head; put `abort` into the state of requests' scopes."""
        self.url = b""
        self._wire = ClientTransport(transport)
        super().connection_made(cast(asyncio.Transport, self._wire))
        self.idle.set(self)
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - KEPT_DESCRIPTORS
        if len(self.connections) > most:
            self.idle.first._wire.reset()
        self.app_state = self.app_state | {"abort": self._wire.reset}
        self._frames = Frames()
        self._delivery = Delivery(
            self._wire, self.loop, self.min_bytes_per_second, self.rate_seconds
        )
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers."""
        self.idle.drop(self)
        self._cancel_head_timer()
        self._delivery.stop()
        if self._gone_timer:
            self._gone_timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse the data, and count the bytes of an incomplete head, of frames and of leftovers."""
        if self._refusal:
            self._leftover_bytes += len(data)
            if self._leftover_bytes > LINGER_BYTES:
                self.transport.abort()
            return
        began_in_body, body = self._in_body, self._frames.body
        if began_in_body:
            self._frames.count += len(data)
        super().data_received(data)
        if self._refusal:
            return
        if self._in_body and began_in_body:
            if self.cycle.response_complete:
                self._leftover_bytes += len(data)
                if self._leftover_bytes > LEFTOVER_BYTES:
                    self.transport.close()
            else:
                # Bytes that are no body wake nobody, and fill no buffer, but they count.
                self.cycle.message_event.set()
                if self._frames.body == body:
                    self.flow.pause_reading()
        if not self._in_head:
            return
        self._head_bytes += len(data)
        if self._head_bytes > self.max_url_bytes + self.max_header_bytes:
            self._refuse_head()
        elif self._head_timer is None:
            self._start_head_timer()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keep the connection for the responses of a client that has finished sending."""
        if self._in_body or self.cycle is None or self.cycle.response_complete:
            # Nothing is left to answer, or the request will never be complete.
            self.transport.close()
        elif not self._half_closed:
            self._half_closed = True
            self._gone_timer = self.loop.call_later(HALF_CLOSED_SECONDS, self._try_client)
        return True

    def _try_client(self) -> None:
        """Send an interim response, which closes the connection if the client is gone."""
        error = self.transport.get_extra_info("socket").getsockopt(
            socket.SOL_SOCKET, socket.SO_ERROR
        )
        started = self.cycle.response_started  # then each piece of the response is such a try
        if error or (self.scope["http_version"] != "1.1" and not started):
            self.transport.abort()
            return
        if not started:
            self.transport.write(INTERIM)
        self._gone_timer = self.loop.call_later(HALF_CLOSED_SECONDS, self._try_client)

    def on_message_begin(self) -> None:
        """Start counting the bytes of a new head."""
        super().on_message_begin()
        self._in_head, self._head_bytes, self._leftover_bytes = True, 0, 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect a header; a trailer, which follows the body, is none."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Stop the timer and pass the request to the application.

        As uvicorn does, but with a cycle of our own, and without upgrades to other protocols.
        """
        self._in_head, self._in_body = False, True
        self.idle.drop(self)
        self._cancel_head_timer()
        self._frames = Frames()
        version, url = self.parser.get_http_version(), httptools.parse_url(self.url)
        path = url.path.decode("ascii")
        self.scope |= {
            "method": self.parser.get_method().decode("ascii"),
            "http_version": version,
            "path": unquote(path) if "%" in path else path,
            "raw_path": url.path,
            "query_string": url.query or b"",
        }
        self.scope["state"] |= {"target": self.url, "frames": self._frames}
        before = self.cycle
        self.cycle = ResponseCycle(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        if before is None or before.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def on_body(self, body: bytes) -> None:
        """Count the body."""
        self._frames.body += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note the end of the request."""
        self._in_body = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Go on with the next request; close if there will be none, or a body does not end.

        Not by uvicorn's, which starts a timer for each response.
        """
        is_last = not self.pipeline
        self.server_state.total_requests += 1
        self._delivery.finish()
        if not self.transport.is_closing():
            self.flow.resume_reading()
            if self.pipeline:
                self._start_asgi_task(*self.pipeline.pop())
            elif self._refusal:
                self._answer_refused(self._refusal)
            else:
                self.idle.set(self)
        if is_last and self._half_closed:
            self.transport.close()
        elif self._in_body and self._head_timer is None:
            self._start_head_timer()  # for the rest of the body, which nobody reads

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that has waited for a request long enough."""
        is_receiving_head = self._head_timer is not None
        if not is_receiving_head:
            super().timeout_keep_alive_handler()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP."""
        self._refuse(BadRequest(msg))

    def _refuse_head(self) -> None:
        """Answer a head that is too large before it is complete."""
        if len(self.url) > self.max_url_bytes:
            self._refuse(UrlTooLong(f"At most {self.max_url_bytes} bytes are accepted."))
        else:
            self._refuse(HeadersTooLarge(f"At most {self.max_header_bytes} bytes are accepted."))

    def _refuse(self, problem: Problem) -> None:
        """Answer the request, or the next one after those that run, and end the connection."""
        self._refusal, self._leftover_bytes = problem, 0
        self._cancel_head_timer()
        runs = self.cycle is not None and not self.cycle.response_complete
        if not runs:
            self._answer_refused(problem)
        elif self._in_body:  # of the request that runs
            if self.cycle.response_started:
                self.transport.close()  # two responses would be mixed
                return
            self._answer_refused(problem)
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def _answer_refused(self, problem: Problem) -> None:
        """Answer as the application answers errors; read on for a while, then close."""
        request_id = new_request_id()
        body = orjson.dumps(problem_details(problem, request_id))
        status = http.HTTPStatus(problem.status)
        lines = (
            f"HTTP/1.1 {status.value} {status.phrase}", f"content-type: {PROBLEM_JSON}",
            f"content-length: {len(body)}", f"x-request-id: {request_id}", "connection: close",
        )  # fmt: skip
        self.transport.write("\r\n".join((*lines, "", "")).encode() + body)
        self._wire.end()
        self.idle.set(self)
        self.flow.resume_reading()
        self._head_timer = self.loop.call_later(LINGER_SECONDS, self.transport.abort)
        if self.logs_requests:
            logs.write_request(request_id, problem.status, 0.0)

    def pause_writing(self) -> None:
        """Measure how fast the client takes what was sent."""
        self._delivery.wait()
        super().pause_writing()

    def resume_writing(self) -> None:
        """Stop measuring."""
        self._delivery.resume()
        super().resume_writing()

    def _start_head_timer(self) -> None:
        self._head_timer = self.loop.call_later(self.head_seconds, self.transport.abort)

    def _cancel_head_timer(self) -> None:
        if self._head_timer:
            self._head_timer.cancel()
            self._head_timer = None


def guarded_protocol(settings: HttpSettings, *, writes_log: bool = False) -> type[GuardedProtocol]:
    """Return a protocol class with the limits in `settings`, for `uvicorn.Config(http=…)`."""

    class ConfiguredProtocol(GuardedProtocol):
        logs_requests = writes_log
        max_url_bytes = settings.max_url_bytes
        max_header_bytes = settings.max_header_bytes
        head_seconds = settings.head_seconds
        min_bytes_per_second = settings.min_bytes_per_second
        rate_seconds = settings.rate_seconds
        idle = Deadlines[GuardedProtocol](
            KEEP_ALIVE_SECONDS, lambda one: one.timeout_keep_alive_handler()
        )

    return ConfiguredProtocol
