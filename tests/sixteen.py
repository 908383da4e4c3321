"""A program that starts PostgREST 12 and speaks as PostgREST 16 in front of it.

`sixteen(folder, real)` writes it as an executable file for FLOWS_POSTGREST_BIN. It changes what a
client sees: formats of the Swagger, headers, codes, limits that writes ignore, and preferences that
12.0 does not know. What happens inside (retries, the JWT cache, draining) stays PostgREST 12's.

Source: PostgREST's changelog from 12.1 to 16.1, and its modules Error, Preferences and OpenAPI.
"""

import asyncio
import ctypes
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import zoneinfo
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

import uvicorn
from starlette.types import Receive, Scope, Send

from app.postgrest.connection import UpstreamConnection, UpstreamLost
from app.postgrest.pool import Upstream
from app.settings import PostgrestSettings

VERSION = "PostgREST 16.2 (a double in front of PostgREST 12)"
ROOT = Path(__file__).resolve().parents[1]
FORMATS = {"smallint": "int32", "integer": "int32", "bigint": "int64"}
# Offsets that 16 accepts as a time zone, and a zone of 12's that has it all year.
OFFSETS = {"05:00": "Etc/GMT+5", "-4": "Etc/GMT+4"}
CLAIMS = {"JWT expired", "JWT not yet valid", "JWT issued at future", "JWT not in audience"}
START_SECONDS = 30
KEEP_SECONDS = 30  # as PostgREST keeps an idle connection
PR_SET_PDEATHSIG = 1

Error = dict[str, Any]
Headers = list[tuple[bytes, bytes]]


def sixteen(folder: Path, real: Path) -> Path:
    """Write the program as an executable file that starts `real`; return its path."""
    program = folder / "postgrest-16"
    program.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        f"from tests.sixteen import main\nmain({str(real)!r}, sys.argv[1:])\n"
    )
    program.chmod(0o755)
    return program


def main(real: str, arguments: list[str]) -> None:
    """Run the double until a SIGTERM; with --version, name it."""
    if "--version" in arguments:
        print(VERSION)
        return
    with socket.create_server(("127.0.0.1", 0)) as probe:
        inner = probe.getsockname()[1]
    port = int(os.environ["PGRST_SERVER_PORT"])
    child = subprocess.Popen(
        [real, *arguments],
        env=os.environ | {"PGRST_SERVER_PORT": str(inner)},
        preexec_fn=die_with_parent,
    )
    # Without it there is nothing to speak for, and the stack starts another.
    threading.Thread(target=end_with, args=(child,), daemon=True).start()
    try:
        double = Double(f"http://127.0.0.1:{inner}")
        uvicorn.run(
            double,
            host="127.0.0.1",
            port=port,
            log_level="critical",
            ws="none",
            timeout_keep_alive=KEEP_SECONDS,
        )
    finally:
        child.terminate()
        child.wait()


def end_with(child: subprocess.Popen[bytes]) -> None:
    """End this process when the child ends."""
    child.wait()
    os._exit(1)


def die_with_parent() -> None:
    """Have Linux end this process with its parent, however that ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Double:
    """The ASGI application."""

    def __init__(self, url: str) -> None:
        self._settings = PostgrestSettings(url=url, answer_seconds=300)
        self._upstream: Upstream | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request as 16 would."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        body = await read(receive)
        headers = {
            name.decode(): value.decode("latin-1")
            for name, value in scope["headers"]
            if name not in HOP_BY_HOP and name != b"prefer"
        }
        if body or scope["method"] in ("POST", "PUT", "PATCH"):
            headers["content-length"] = str(len(body))
        method, path, query = scope["method"], scope["raw_path"], scope["query_string"]
        asked = [one.decode("latin-1") for name, one in scope["headers"] if name == b"prefer"]
        prefer = Preferences(", ".join(asked))
        if method in ("PATCH", "DELETE"):
            query = without_limit(query)
        if refusal := prefer.refusal():
            await answer(send, 400, [], refusal, method)
            return
        if prefer.sent:
            headers["prefer"] = prefer.sent
        if prefer.most is not None and method in ("PATCH", "DELETE"):
            count = await self._count(path, query, headers)
            if count > prefer.most:
                await answer(send, 400, [], exceeds(count), method)
                return
        target = (path + (b"?" + query if query else b"")).decode("latin-1")
        async with self._asked(method, target, headers, body) as found:
            pairs = prefer.applied([pair for pair in found.headers if pair[0] not in HOP_BY_HOP])
            if found.status < 400 and found.status != 300:
                await self._pass(send, scope, found, pairs)
                return
            status, text = found.status, await whole(found)
        if method == "HEAD":  # only GET's error has a body that tells the code
            async with self._asked("GET", target, headers, body) as again:
                text = await whole(again)
        try:
            error = json.loads(text)
            assert "code" in error
        except (ValueError, TypeError, AssertionError):
            await send_all(send, status, pairs, text)
            return
        status, error = as_sixteen(status, error)
        await answer(send, status, pairs, error, method)

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                self._upstream = Upstream(self._settings, self._settings.url)
                await self._wait()
                await send({"type": "lifespan.startup.complete"})
            else:
                assert self._upstream
                self._upstream.close()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _wait(self) -> None:
        """Wait until PostgREST listens."""
        for _ in range(START_SECONDS * 20):
            try:
                async with self._asked("HEAD", "/", {}, b""):
                    return
            except UpstreamLost:
                await asyncio.sleep(0.05)

    @asynccontextmanager
    async def _asked(
        self, method: str, target: str, headers: dict[str, str], body: bytes
    ) -> AsyncIterator[UpstreamConnection]:
        assert self._upstream
        found = await self._upstream.ask(method, target, headers, once(body) if body else None)
        try:
            yield found
        finally:
            self._upstream.release(found)

    async def _count(self, path: bytes, query: bytes, headers: dict[str, str]) -> int:
        kept = {name: headers[name] for name in ("authorization",) if name in headers}
        filters = b"&".join(one for one in query.split(b"&") if not one.startswith(b"select="))
        target = (path + b"?" + filters).decode("latin-1")
        async with self._asked("HEAD", target, kept | {"prefer": "count=exact"}, b"") as found:
            told = dict(found.headers).get(b"content-range", b"*/0")
            return int(told.rpartition(b"/")[2])

    async def _pass(
        self, send: Send, scope: Scope, found: UpstreamConnection, pairs: Headers
    ) -> None:
        pairs = [*pairs, (b"vary", b"Accept, Prefer, Range")]
        if scope["path"] == "/" and scope["method"] == "GET":
            await send_all(send, found.status, pairs, swagger(await whole(found)))
            return
        await send({"type": "http.response.start", "status": found.status, "headers": pairs})
        while piece := await found.read():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


HOP_BY_HOP = frozenset(
    (b"connection", b"content-length", b"date", b"host", b"server", b"transfer-encoding")
)


async def once(body: bytes) -> AsyncGenerator[bytes, None]:
    """Yield a body in one piece."""
    yield body


async def whole(found: UpstreamConnection) -> bytes:
    """Return the body of a response."""
    pieces = []
    while piece := await found.read():
        pieces.append(piece)
    return b"".join(pieces)


class Preferences:
    """The preferences of a request: those for PostgREST 12, and what 16 makes of the others."""

    def __init__(self, prefer: str) -> None:
        asked = [word.strip() for word in prefer.split(",") if word.strip()]
        handling = next((word for word in asked if word.startswith("handling=")), "")
        self._strict = handling == "handling=strict"
        self._zone = next((word[9:] for word in asked if word.startswith("timezone=")), None)
        most = next((word[13:] for word in asked if word.startswith("max-affected=")), "")
        self.most = int(most) if self._strict and re.fullmatch("-?[0-9]+", most) else None
        kept = [word for word in asked if not word.startswith("max-affected=")]
        zone = OFFSETS.get(self._zone or "")
        self.sent = ", ".join(
            f"timezone={zone}" if zone and word.startswith("timezone=") else word for word in kept
        )

    def refusal(self) -> Error | None:
        """Return the error for a time zone that is none, which 16 never ignores."""
        zones = zoneinfo.available_timezones() | OFFSETS.keys()
        if self._zone is None or self._zone in zones:
            return None
        text = f'invalid value for parameter "TimeZone": "{self._zone}"'
        return {"code": "22023", "details": None, "hint": None, "message": text}

    def applied(self, pairs: Headers) -> Headers:
        """Return the headers with the preferences that 12 was not told of."""
        told = [value for name, value in pairs if name == b"preference-applied"]
        words = [one for one in b", ".join(told).decode().split(", ") if one]
        if self._zone in OFFSETS:
            words = [f"timezone={self._zone}" if w.startswith("timezone=") else w for w in words]
        if self.most is not None:
            words.append(f"max-affected={self.most}")
        rest = [pair for pair in pairs if pair[0] != b"preference-applied"]
        return [*rest, (b"preference-applied", ", ".join(words).encode())] if words else rest


def without_limit(query: bytes) -> bytes:
    """Return a query without the limit and offset that 16 ignores on writes."""
    kept = [
        pair
        for pair in query.split(b"&")
        if unquote_plus(pair.partition(b"=")[0].decode("latin-1")) not in ("limit", "offset")
    ]
    return b"&".join(kept)


def exceeds(count: int) -> Error:
    """Return the error of a write that would change more rows than `max-affected`."""
    return {
        "code": "PGRST124",
        "details": f"The query affects {count} rows",
        "hint": None,
        "message": "Query result exceeds max-affected preference constraint",
    }


def unknown_table(error: Error, name: str) -> Error:
    """Return 16's error for a relation that is not in its schema cache."""
    return error | {
        "code": "PGRST205",
        "hint": "Perhaps you meant the table 'api.meter_registry'",
        "message": f"Could not find the table 'api.{name}' in the schema cache",
    }


def as_sixteen(status: int, error: Error) -> tuple[int, Error]:
    """Return status and body that 16 sends instead of an error of 12."""
    code, message = error["code"], str(error["message"])
    missing = re.fullmatch(r'relation "api\.(.+)" does not exist', message)
    if code == "42P01" and missing:
        return 404, unknown_table(error, missing[1])
    if code == "PGRST301" and message in CLAIMS:
        return status, error | {"code": "PGRST303"}
    if code == "PGRST116":
        return status, error | {"message": "Cannot coerce the result to a single JSON object"}
    if code == "PGRST107":
        return 406, error
    if code == "22023" and re.fullmatch(r'role ".*" does not exist', message):
        return 401, error
    column = re.fullmatch(r"Column '(.*)' of relation '(.*)' does not exist", message)
    if code == "PGRST204" and column:
        text = f"Could not find the '{column[1]}' column of '{column[2]}' in the schema cache"
        return status, error | {"message": text}
    return status, error


def swagger(body: bytes) -> bytes:
    """Return the Swagger with 16's formats of integers."""
    return json.dumps(each(json.loads(body), as_format), ensure_ascii=False).encode()


def as_format(node: dict[str, Any]) -> dict[str, Any]:
    """Return a schema or parameter with 16's format."""
    known = node.get("format")
    return node | {"format": FORMATS[known]} if known in FORMATS else node


def each(node: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """Return a JSON value of which every object was changed."""
    if isinstance(node, dict):
        return change({key: each(value, change) for key, value in node.items()})
    return [each(value, change) for value in node] if isinstance(node, list) else node


async def read(receive: Receive) -> bytes:
    """Return the body of a request."""
    pieces: list[bytes] = []
    while True:
        message = await receive()
        pieces.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(pieces)


async def answer(send: Send, status: int, pairs: Headers, error: Error, method: str) -> None:
    """Send an error with the headers that 16 gives each."""
    kept = [pair for pair in pairs if pair[0] != b"content-type"]
    kept.append((b"content-type", b"application/json; charset=utf-8"))
    kept.append((b"proxy-status", f"PostgREST; error={error['code']}".encode()))
    body = json.dumps(error, ensure_ascii=False).encode()
    if method == "HEAD":
        kept.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": kept})
        await send({"type": "http.response.body", "body": b""})
        return
    await send_all(send, status, kept, body)


async def send_all(send: Send, status: int, pairs: Headers, body: bytes) -> None:
    """Send a whole response with its length."""
    if status not in (204, 304):
        pairs = [*pairs, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})
