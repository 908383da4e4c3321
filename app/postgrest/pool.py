"""A pool of kept-alive connections to PostgREST, limited in number and time."""

import asyncio
import math
import ssl
import time
from collections.abc import AsyncGenerator
from urllib.parse import urlsplit

from app.deadlines import Deadlines
from app.postgrest.connection import UpstreamConnection, UpstreamLost, UpstreamUnanswered
from app.settings import PostgrestSettings
from app.turns import NoTurn, Places

# PostgREST closes idle connections after 30 s; a request sent at that moment would be lost.
IDLE_SECONDS = 15.0
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


class UpstreamBusy(UpstreamLost):
    """All connections are in use: the request was not sent."""


class UpstreamRefused(UpstreamLost):
    """No connection was made: the request was not sent."""


class Upstream:
    """Sends requests to PostgREST; UpstreamLost or UpstreamSilent if there is no response."""

    def __init__(self, settings: PostgrestSettings, url: str) -> None:
        parts = urlsplit(url)
        secure = parts.scheme == "https"
        self._address = (parts.hostname or "", parts.port or (443 if secure else 80))
        self._tls = ssl.create_default_context() if secure else None
        self._prefix = parts.path.rstrip("/")
        self._host = parts.netloc.rpartition("@")[2]
        self._settings = settings
        self._turns = Places(settings.connections, math.inf, settings.connect_seconds)
        self._patience = Deadlines(settings.answer_seconds, UpstreamConnection.fall_silent)
        self._idle: list[UpstreamConnection] = []  # the most recently used one last

    async def ask(
        self,
        method: str,
        target: str,
        headers: dict[str, str],
        body: AsyncGenerator[bytes, None] | None = None,
    ) -> UpstreamConnection:
        """Send a request; return the connection with its response (`status`, `headers`, `read`).

        Pass the connection to `release` in any case.
        """
        lines = [f"{method} {self._prefix}{target} HTTP/1.1", f"host: {self._host}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        chunked = body is not None and "content-length" not in headers
        if chunked:
            lines.append("transfer-encoding: chunked")
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        head_only = method == "HEAD"
        await self._take_turn()
        connection = None
        try:
            connection = self._kept()
            if connection:
                try:
                    await connection.ask(head, body, chunked=chunked, head_only=head_only)
                    return connection
                except UpstreamUnanswered:
                    # If it was closed while idle, PostgREST has not seen the request.
                    if body or method not in SAFE:
                        raise
            connection = await self._connect()
            await connection.ask(head, body, chunked=chunked, head_only=head_only)
            return connection
        except BaseException:
            if connection:
                connection.close()
            self._turns.release()
            raise

    def release(self, connection: UpstreamConnection) -> None:
        """Keep the connection for the next request, or close it if its response is not read."""
        if connection.reusable:
            connection.keep(time.monotonic())
            self._idle.append(connection)
        else:
            connection.close()
        self._turns.release()

    def start(self) -> None:
        """Do nothing: a single server has to be asked in any case."""

    def close(self) -> None:
        """Close all idle connections."""
        while self._idle:
            self._idle.pop().close()

    async def _take_turn(self) -> None:
        try:
            await self._turns.take()
        except NoTurn:
            raise UpstreamBusy("no connection is free") from None

    def _kept(self) -> UpstreamConnection | None:
        now = time.monotonic()
        while self._idle:
            connection = self._idle.pop()
            if connection.open and now - connection.idle_since < IDLE_SECONDS:
                return connection
            connection.close()
        return None

    async def _connect(self) -> UpstreamConnection:
        host, port = self._address
        try:
            async with asyncio.timeout(self._settings.connect_seconds):
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: UpstreamConnection(self._patience),
                    host,
                    port,
                    ssl=self._tls,
                )
        except OSError as error:  # TimeoutError is one
            raise UpstreamRefused(f"no connection: {error!r}") from error
        return connection
