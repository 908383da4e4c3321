"""Compression of responses: zstd, br or gzip, as the client accepts.

Responses are compressed as they are sent, at the fastest level. What is sent often, the document
and the static files, is compressed once, well, and marked by its Content-Encoding.
"""

import re
import zlib
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Protocol

import brotli  # type: ignore[import-untyped]
import zstandard
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.http.conditional import asked_tags
from app.request_state import request_state

SMALLEST_BYTES = 1024
# In this order where a client likes several as much.
CODINGS = ("zstd", "br", "gzip")
COMPRESSIBLE = re.compile(
    rb"text/|application/(.*\+)?json|image/svg|"
    rb"application/(x-ndjson|xml|javascript|openmetrics-text|vnd\.apache\.arrow)"
)
# Responses with secrets: their size would tell of what they repeat from the request.
UNCOMPRESSED_PREFIXES = ("/auth/", "/admin/")
NO_BODY = frozenset({204, 304})
GZIP_WINDOW = 31  # the largest window, with gzip's header
TAG = re.compile(rb'(W/)?"([^"]*)"')


class Encoder(Protocol):
    """Compresses the pieces of a body; each result can be decompressed when it arrives."""

    def compress(self, piece: bytes) -> bytes:
        """Return the piece, compressed."""

    def finish(self, piece: bytes) -> bytes:
        """Return the last piece, compressed, and the end."""


class _Gzip:
    def __init__(self) -> None:
        self._inner = zlib.compressobj(1, wbits=GZIP_WINDOW)

    def compress(self, piece: bytes) -> bytes:
        return self._inner.compress(piece) + self._inner.flush(zlib.Z_SYNC_FLUSH)

    def finish(self, piece: bytes) -> bytes:
        return self._inner.compress(piece) + self._inner.flush()


class _Brotli:
    def __init__(self) -> None:
        self._inner = brotli.Compressor(quality=1)

    def compress(self, piece: bytes) -> bytes:
        compressed: bytes = self._inner.process(piece) + self._inner.flush()
        return compressed

    def finish(self, piece: bytes) -> bytes:
        compressed: bytes = self._inner.process(piece) + self._inner.finish()
        return compressed


class _Zstd:
    def __init__(self) -> None:
        self._inner = zstandard.ZstdCompressor(level=1).compressobj()

    def compress(self, piece: bytes) -> bytes:
        compressed = self._inner.compress(piece)
        return compressed + self._inner.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)

    def finish(self, piece: bytes) -> bytes:
        compressed = self._inner.compress(piece)
        return compressed + self._inner.flush(zstandard.COMPRESSOBJ_FLUSH_FINISH)


ENCODERS: dict[str, Callable[[], Encoder]] = {"zstd": _Zstd, "br": _Brotli, "gzip": _Gzip}
# For what is compressed once and sent often.
BEST: dict[str, Callable[[bytes], bytes]] = {
    "zstd": lambda body: zstandard.ZstdCompressor(level=15).compress(body),
    "br": lambda body: bytes(brotli.compress(body, quality=9)),
    "gzip": lambda body: zlib.compress(body, 9, GZIP_WINDOW),
}


def negotiate_coding(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """Return the coding that the client likes most, or None for the body as it is.

    Source: RFC 9110 §12.5.3.
    """
    lines = [value for name, value in headers if name == b"accept-encoding"]
    return _liked(b",".join(lines)) if lines else None


@lru_cache(maxsize=256)
def _liked(accepted: bytes) -> str | None:
    likes: dict[str, float] = {}
    for word in accepted.decode("latin-1").lower().split(","):
        coding, _, weight = word.partition(";")
        likes[coding.strip()] = _weight(weight)
    others = likes.get("*", 0.0)
    best = max(CODINGS, key=lambda coding: likes.get(coding, others))
    liked = likes.get(best, others)
    return best if liked > 0 and liked >= likes.get("identity", 0.0) else None


def _weight(text: str) -> float:
    name, _, value = text.strip().partition("=")
    if name.strip() != "q":
        return 1.0
    try:
        return float(value)
    except ValueError:
        return 0.0


def compressible(content_type: bytes) -> bool:
    """Return whether a body of this type becomes smaller."""
    return bool(COMPRESSIBLE.match(content_type.lower()))


def tagged(etag: bytes, coding: str) -> bytes:
    """Return the ETag of a representation's compressed form, which is another (RFC 9110 §8.8.3)."""
    return TAG.sub(rb'\1"\2-' + coding.encode() + b'"', etag, count=1)


class Compression:
    """ASGI middleware that compresses responses for clients that accept it.

    They are those of at least 1 KB, and those whose size is not known when they begin.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["path"].startswith(UNCOMPRESSED_PREFIXES):
            await self._app(scope, receive, send)
            return
        coding = negotiate_coding(scope["headers"])
        if coding is None:
            await self._app(scope, receive, _send_varying(scope, send))
            return
        inner = scope
        if asked := asked_tags(scope["headers"]):
            inner = dict(scope, headers=_without_coding(scope["headers"], coding))
        await self._app(inner, receive, _Response(scope, send, coding, asked).send)


class _Response:
    """A response that is compressed if its head and its size say so."""

    def __init__(self, scope: Scope, send: Send, coding: str, asked: frozenset[bytes]) -> None:
        self._scope = scope
        self._send = send
        self._coding = coding
        self._asked = asked
        self._start: Message | None = None
        self._encoder: Encoder | None = None

    async def send(self, message: Message) -> None:
        """Pass a message on; the head waits for the first piece, which shows the size."""
        if message["type"] == "http.response.start":
            message["headers"] = headers = _varying(self._scope, message.get("headers", ()))
            if message["status"] == 304:
                message["headers"] = self._with_asked_tag(headers)
            if message["status"] in NO_BODY or not _may_compress(headers):
                await self._send(message)
            else:
                self._start = message
        elif message["type"] != "http.response.body":
            await self._send(message)
        elif self._start is not None:
            await self._begin(self._start, message)
        elif self._encoder is not None:
            await self._go_on(self._encoder, message)
        else:
            await self._send(message)

    async def _begin(self, start: Message, message: Message) -> None:
        body, more = message.get("body", b""), message.get("more_body", False)
        self._start = None
        if not more and len(body) < SMALLEST_BYTES and not self._is_head_of_stream(start):
            await self._send(start)
            await self._send(message)
            return
        self._encoder = encoder = ENCODERS[self._coding]()
        body = encoder.compress(body) if more else encoder.finish(body)
        pairs = []
        for name, value in start["headers"]:
            if name.lower() == b"etag":
                pairs.append((name, tagged(value, self._coding)))
            elif name.lower() != b"content-length":
                pairs.append((name, value))
        pairs.append((b"content-encoding", self._coding.encode()))
        if self._scope["method"] == "HEAD":
            body = b""
        elif not more:
            pairs.append((b"content-length", str(len(body)).encode()))
        start["headers"] = pairs
        await self._send(start)
        await self._send({"type": "http.response.body", "body": body, "more_body": more})

    def _is_head_of_stream(self, start: Message) -> bool:
        """Return whether this is the head of a response that GET streams, whatever its size."""
        names = {name.lower() for name, _ in start["headers"]}
        is_head = self._scope["method"] == "HEAD"
        return is_head and b"etag" in names and b"content-length" not in names

    async def _go_on(self, encoder: Encoder, message: Message) -> None:
        body, more = message.get("body", b""), message.get("more_body", False)
        body = encoder.compress(body) if more else encoder.finish(body)
        await self._send({"type": "http.response.body", "body": body, "more_body": more})

    def _with_asked_tag(self, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """Return the headers of a 304 with the tag that the client has stored.

        A client that named none (`*`) would have got the compressed form.
        """
        return [
            (name, tag)
            if name.lower() == b"etag"
            and not self._asked.isdisjoint((tag := tagged(value, self._coding), b"*"))
            else (name, value)
            for name, value in headers
        ]


def _without_coding(headers: list[tuple[bytes, bytes]], coding: str) -> list[tuple[bytes, bytes]]:
    """Return the headers whose If-None-Match names the uncompressed forms."""
    ending = f'-{coding}"'.encode()
    return [
        (name, value.replace(ending, b'"') if name == b"if-none-match" else value)
        for name, value in headers
    ]


def _may_compress(headers: list[tuple[bytes, bytes]]) -> bool:
    """Return whether a response's head allows its body to be compressed."""
    found = {name.lower(): value for name, value in headers}
    if b"content-encoding" in found or found.get(b"content-range", b"").startswith(b"bytes"):
        return False
    if b"no-transform" in found.get(b"cache-control", b""):
        return False
    length = found.get(b"content-length", b"")
    if length.isdigit() and int(length) < SMALLEST_BYTES:
        return False
    return compressible(found.get(b"content-type", b""))


def _varying(scope: Scope, headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return the headers of a response, with Vary: Accept-Encoding if it depends on that."""
    pairs = list(headers)
    added = [value for name, value in request_state(scope).response_headers if name == b"vary"]
    if any(b"accept-encoding" in value.lower() for value in added):
        return pairs
    told = [value for name, value in pairs if name.lower() == b"vary"]
    if any(b"accept-encoding" in value.lower() for value in told):
        return pairs
    types = [value for name, value in pairs if name.lower() == b"content-type"]
    if not any(map(compressible, types)):
        return pairs
    rest = [pair for pair in pairs if pair[0].lower() != b"vary"]
    return [*rest, (b"vary", b", ".join([*told, b"Accept-Encoding"]))]


def _send_varying(scope: Scope, send: Send) -> Send:
    """Return `send` that says of what the response depends."""

    async def send_varying(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = _varying(scope, message.get("headers", ()))
        await send(message)

    return send_varying
