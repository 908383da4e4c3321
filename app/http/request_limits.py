"""Limits of requests, in the order in which they are checked: the head, the caller, the body.

app/http/rate_limit.py checks the caller in between, so that nothing of a stranger's body is read.
"""

import asyncio
import re
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import (
    BadRequest,
    HeadersTooLarge,
    Problem,
    TooLarge,
    TooSlow,
    UnsupportedMediaType,
    UnsupportedTransferCoding,
    UnsupportedVersion,
    UrlTooLong,
)
from app.http.problems import respond
from app.http.protocol import Frames
from app.request_state import request_state
from app.settings import HttpSettings

DATA_PREFIX = "/rest/v1/"
IMPORTS = "/v1/imports"
# Bodies of all other routes: forms and small JSON objects.
SMALL_BODY_BYTES = 64 * 2**10
# Sizes, line ends and extensions of chunks: of the smallest ones five bytes to one of the body.
FRAMING_BYTES, FRAMING_RATIO = 64 * 2**10, 8
# The places of a request that sends more rest so long: no client makes such chunks by mistake.
FRAMING_REST_SECONDS = 1.0
# PostgREST needs some 300 bytes for each value of a body.
MOST_VALUES = 500_000
# Bytes between the values of a body, or before each of those in one another: of JSON; of CSV and
# forms.
MARKS_OF_JSON = (b",", b"[", b"{")
MARKS_OF_TEXT = (b",", b"\n", b"\r", b"&", b";")
# A name or address with an optional port (RFC 9110 §7.2), without the marks that no name has.
HOST = re.compile(rb"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")
VERSIONS = ("1.1", "1.0")


def check_head(scope: Scope, settings: HttpSettings) -> None:
    """Raise a Problem for a head that is malformed, ambiguous or too large."""
    if scope["http_version"] not in VERSIONS:
        raise UnsupportedVersion("Send HTTP/1.1 or HTTP/1.0.")
    if len(scope["raw_path"]) + len(scope["query_string"]) > settings.max_url_bytes:
        raise UrlTooLong(f"At most {settings.max_url_bytes} bytes are accepted.")
    # The parser drops what follows: `?id=gt.0#&id=eq.1` would be another, wider filter.
    if b"#" in scope.get("state", {}).get("target", b""):
        raise BadRequest("The target of the request contains a #; send it as %23.")
    size, hosts, codings = 0, [], []
    for name, value in scope["headers"]:
        size += len(name) + len(value) + 4
        if name == b"host":
            hosts.append(value)
        elif name == b"transfer-encoding":
            codings.append(value.strip().lower())
    if size > settings.max_header_bytes:
        raise HeadersTooLarge(f"At most {settings.max_header_bytes} bytes are accepted.")
    if len(hosts) > 1 or (not hosts and scope["http_version"] == "1.1"):
        raise BadRequest("Send one Host header.")
    if hosts and not HOST.fullmatch(hosts[0]):
        raise BadRequest("The Host header is neither a name nor an address.")
    if codings and codings != [b"chunked"]:
        raise UnsupportedTransferCoding("Send the body as it is or in chunks.")
    if codings and scope["http_version"] == "1.0":
        raise BadRequest("HTTP/1.0 has no Transfer-Encoding.")


class HeadLimits:
    """Refuses requests whose head is malformed, ambiguous or too large."""

    def __init__(self, app: ASGIApp, settings: HttpSettings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 400, 414, 431, 501 or 505 and close the connection."""
        if scope["type"] == "http":
            try:
                check_head(scope, self._settings)
            except Problem as problem:
                problem.headers["Connection"] = "close"
                await respond(scope, problem)(scope, receive, send)
                return
        await self._app(scope, receive, send)


class BodyLimits:
    """Refuses bodies that are too large, too slow or compressed, before they are read."""

    def __init__(self, app: ASGIApp, settings: HttpSettings, max_file_bytes: int) -> None:
        self._app = app
        self._settings = settings
        self._max_file_bytes = max_file_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with a limited `receive`, or answer 413 or 415."""
        if scope["type"] == "http":
            most = self._most(scope)
            try:
                if _has_body(scope, most):
                    receive = self._limited(scope, receive, most)
            except Problem as problem:
                # The body was not read, so the connection cannot be used for another request.
                problem.headers["Connection"] = "close"
                await respond(scope, problem)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _most(self, scope: Scope) -> int:
        """Return the greatest size of the body that a route accepts, in bytes."""
        if scope["path"].startswith(DATA_PREFIX):
            return self._settings.max_body_bytes
        if scope["path"] == IMPORTS and scope["method"] == "POST":
            return self._max_file_bytes + 2 * SMALL_BODY_BYTES
        return min(self._settings.max_body_bytes, SMALL_BODY_BYTES)

    def _limited(self, scope: Scope, receive: Receive, most: int) -> Receive:
        """Return `receive` with limits on the size of the body, its pauses and its rate."""
        settings = self._settings
        frames: Frames = scope.get("state", {}).get("frames") or Frames()
        seen, complete = 0, False
        marks = dict.fromkeys(_value_marks(scope), 0)
        # Seconds that the client was waited for, and bytes that came, since the rate was checked.
        waited, came = 0.0, 0

        async def next_message() -> Message:
            """Return the next piece; messages without one only tell of the frames of chunks."""
            while True:
                message = await receive()
                if max(seen + len(message.get("body", b"")), frames.count) > most:
                    raise TooLarge(
                        f"At most {most} bytes are accepted.", headers={"Connection": "close"}
                    )
                if frames.count - frames.body > FRAMING_BYTES + FRAMING_RATIO * frames.body:
                    request_state(scope).rest_seconds = FRAMING_REST_SECONDS
                    raise TooLarge(
                        "The chunks of the body have more around them than in them.",
                        headers={"Connection": "close"},
                    )
                if message.get("body") or not message.get("more_body"):
                    return message

        async def receive_limited() -> Message:
            nonlocal seen, complete, waited, came
            if complete:  # only a disconnect can follow, at any time
                return await receive()
            started = time.monotonic()
            try:
                async with asyncio.timeout(settings.body_seconds):
                    message = await next_message()
            except TimeoutError:
                raise TooSlow(headers={"Connection": "close"}) from None
            waited += time.monotonic() - started
            seen += len(message.get("body", b""))
            for mark in marks:
                marks[mark] += message.get("body", b"").count(mark)
                if marks[mark] >= MOST_VALUES:
                    raise TooLarge(
                        f"At most {MOST_VALUES:,} values are accepted at a time; send fewer rows.",
                        headers={"Connection": "close"},
                    )
            came += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if waited >= settings.rate_seconds and not complete:
                if came < settings.min_bytes_per_second * waited:
                    raise TooSlow(
                        f"Send at least {settings.min_bytes_per_second} bytes a second.",
                        headers={"Connection": "close"},
                    )
                waited, came = 0.0, 0
            return message

        return receive_limited


def _value_marks(scope: Scope) -> tuple[bytes, ...]:
    """Return the characters whose number tells how many values a body for PostgREST has."""
    if not scope["path"].startswith(DATA_PREFIX):
        return ()
    types = [value for name, value in scope["headers"] if name == b"content-type"]
    kind = b", ".join(types).partition(b";")[0].lower()
    return MARKS_OF_JSON if not kind or b"json" in kind else MARKS_OF_TEXT


def _has_body(scope: Scope, most: int) -> bool:
    """Check what the head says of the body, raising a Problem; return whether a body follows."""
    has_body = False
    for name, value in scope["headers"]:
        if name == b"content-length":
            has_body = value != b"0"
            # 20 digits are enough to tell that a length is beyond the limit.
            if int(value[:20]) > most:
                raise TooLarge(f"At most {most} bytes are accepted.")
        elif name == b"transfer-encoding":
            has_body = True
        elif name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            raise UnsupportedMediaType()
    return has_body
