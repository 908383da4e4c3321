"""A request of a client's connection and its response, written to the connection for less."""

import re
from collections.abc import Iterable

from starlette.types import Message
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from app.http.compression import NO_BODY

# Characters that no header has (RFC 9110 §5.5); line ends are counted.
CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


class ResponseCycle(RequestResponseCycle):
    """uvicorn's cycle, whose `send` looks at a head once, and writes it with what follows it.

    uvicorn looks at each header by itself, and writes the head alone, which wakes the client twice.
    """

    _head = b""  # until it is written

    async def send(self, message: Message) -> None:  # type: ignore[override]
        """Send a message of the application, as soon as the client has taken the others."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if message["type"] == "http.response.start" and not self.response_started:
            self.response_started = True
            self.waiting_for_100_continue = False
            self._head = self._begin(message["status"], message.get("headers", ()))
        elif message["type"] == "http.response.body" and not self.response_complete:
            self._write(message.get("body", b""), more=message.get("more_body", False))
        else:
            raise RuntimeError(f"{message['type']} does not follow what was sent.")

    def _begin(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        """Return the head of a response; its headers say how the body is framed."""
        lines = []
        for name, value in (*self.default_headers, *headers):
            lowered = name.lower()
            if lowered == b"content-length":
                self.expected_content_length = int(value)
                self.chunked_encoding = False
            elif lowered == b"connection" and value.lower() == b"close":
                self.keep_alive = False
                continue
            lines.append(b"%b: %b\r\n" % (lowered, value))
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        has_body = self.scope["method"] != "HEAD" and status not in NO_BODY
        if has_body and self.chunked_encoding is None:
            self.chunked_encoding = True
            lines.append(b"transfer-encoding: chunked\r\n")
        head = b"".join(lines)
        if CONTROL.search(head) or {head.count(b"\r"), head.count(b"\n")} != {len(lines)}:
            raise RuntimeError("A header has a character that no header has.")
        return b"%b%b\r\n" % (STATUS_LINE[status], head)

    def _write(self, body: bytes, *, more: bool) -> None:
        """Write a piece of the body, and the head before the first."""
        pieces = [self._head] if self._head else []
        self._head = b""
        if self.scope["method"] == "HEAD":
            self.expected_content_length = 0
        elif self.chunked_encoding:
            if body:
                pieces += (b"%x\r\n" % len(body), body, b"\r\n")
            if not more:
                pieces.append(b"0\r\n\r\n")
        elif body:
            self.expected_content_length -= len(body)
            pieces.append(body)
        if self.expected_content_length < 0 or (self.expected_content_length and not more):
            raise RuntimeError("The body is not as long as its Content-Length.")
        if pieces:
            self.transport.writelines(pieces)
        if not more:
            self.response_complete = True
            self.message_event.set()
            if not self.keep_alive:
                self.transport.close()
            self.on_response()
