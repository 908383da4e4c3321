"""Several PostgRESTs: a request goes to the least busy of those that serve.

One that refuses, breaks off or stays silent is left out until it answers again. A request that has
certainly reached none is sent to the next; one that may have is sent again only if it is a read of
whose answer no byte has come.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress

from app.errors import Unavailable
from app.monitoring.health import PROBE_PATH
from app.postgrest.connection import UpstreamConnection, UpstreamLost, UpstreamUnanswered
from app.postgrest.pool import SAFE, Upstream, UpstreamBusy, UpstreamRefused
from app.settings import PostgrestSettings

logger = logging.getLogger(__name__)

WATCH_SECONDS = 1.0
# A server is asked for so long, and left out when it was silent twice: one that is busy answers.
WATCH_PATIENCE_SECONDS = 2.0
MOST_SILENCES = 2
CANNOT_SERVE = 503


class Server:
    """A PostgREST, and what is known of it."""

    def __init__(self, settings: PostgrestSettings, url: str, token: Callable[[], str]) -> None:
        self.url = url
        self._token = token
        self.upstream = Upstream(settings, url)
        self.serves = True
        self.busy = 0
        self.asked = 0
        self.silences = 0
        # Of reads that wait for it, so that they are sent elsewhere when it is left out.
        self.waiting: set[asyncio.Timeout] = set()

    def leave_out(self, why: object) -> None:
        """Send it no more requests until it answers the watch."""
        if not self.serves:
            return
        logger.error("the PostgREST at %s is left out: %s", self.url, why)
        self.serves = False
        now = asyncio.get_running_loop().time()
        for patience in self.waiting:
            patience.reschedule(now)
        self.waiting.clear()
        self.upstream.close()

    async def look(self) -> None:
        """Ask as a client would: one that starts refuses strangers before it can serve others."""
        headers = {}
        with suppress(Unavailable):
            headers["authorization"] = f"Bearer {self._token()}"
        try:
            async with asyncio.timeout(WATCH_PATIENCE_SECONDS):
                answer = await self.upstream.ask("HEAD", PROBE_PATH, headers)
            status = answer.status
            self.upstream.release(answer)
        except TimeoutError:
            self.silences += 1
            if self.silences >= MOST_SILENCES:
                self.leave_out("it is silent")
            return
        except UpstreamBusy:
            return  # its connections are all in use, so it answers
        except UpstreamLost as error:
            self.leave_out(error)
            return
        self.silences = 0
        if status >= 500:
            self.leave_out(f"it answers {status}")
        elif not self.serves:
            logger.warning("the PostgREST at %s serves again", self.url)
            self.serves = True


class UpstreamServers:
    """Sends requests to one of several servers, as `Upstream` does to one; call `start` first."""

    def __init__(
        self, settings: PostgrestSettings, urls: Sequence[str], token: Callable[[], str]
    ) -> None:
        self.servers = [Server(settings, url, token) for url in urls]
        self._asked: dict[UpstreamConnection, Server] = {}
        self._watch: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to watch the servers."""
        self._watch = asyncio.create_task(self._look_at_all())

    def close(self) -> None:
        """Stop watching and close all idle connections."""
        if self._watch:
            self._watch.cancel()
        for server in self.servers:
            server.upstream.close()

    @property
    def serving(self) -> int:
        """The number of servers that serve."""
        return sum(server.serves for server in self.servers)

    async def ask(
        self,
        method: str,
        target: str,
        headers: dict[str, str],
        body: AsyncGenerator[bytes, None] | None = None,
    ) -> UpstreamConnection:
        """Send a request; return the connection with its response, as `Upstream.ask` does."""
        untried = [*self.servers]
        repeatable = method in SAFE and body is None
        while True:
            server = min(untried, key=_burden)
            untried.remove(server)
            server.busy += 1
            server.asked += 1
            try:
                connection = await self._ask(server, method, target, headers, body)
            except UpstreamLost as error:
                server.busy -= 1
                if not isinstance(error, UpstreamBusy):
                    server.leave_out(error)
                sent = not isinstance(error, UpstreamBusy | UpstreamRefused)
                unanswered = isinstance(error, UpstreamUnanswered)
                if not untried or (sent and not (repeatable and unanswered)):
                    raise
                continue
            except BaseException:
                server.busy -= 1
                raise
            self._asked[connection] = server
            if repeatable and untried and connection.status == CANNOT_SERVE:
                self.release(connection)
                continue
            return connection

    def release(self, connection: UpstreamConnection) -> None:
        """Keep the connection for the next request, or close it if its response is not read."""
        server = self._asked.pop(connection)
        server.busy -= 1
        server.upstream.release(connection)

    async def _ask(
        self,
        server: Server,
        method: str,
        target: str,
        headers: dict[str, str],
        body: AsyncGenerator[bytes, None] | None,
    ) -> UpstreamConnection:
        if body is not None or method not in SAFE:
            return await server.upstream.ask(method, target, headers, body)
        try:
            async with asyncio.timeout(None) as patience:
                server.waiting.add(patience)
                try:
                    return await server.upstream.ask(method, target, headers)
                finally:
                    server.waiting.discard(patience)
        except TimeoutError:
            raise UpstreamUnanswered("it was left out") from None

    async def _look_at_all(self) -> None:
        while True:
            began = time.monotonic()
            await asyncio.gather(*(server.look() for server in self.servers))
            await asyncio.sleep(max(0.0, began + WATCH_SECONDS - time.monotonic()))


def _burden(server: Server) -> tuple[bool, int, int]:
    """Return what the least of is asked next: it serves, and has few requests, or has had."""
    return not server.serves, server.busy, server.asked


def connect(
    settings: PostgrestSettings, urls: Sequence[str], token: Callable[[], str]
) -> Upstream | UpstreamServers:
    """Return what sends requests to PostgRESTs; several are watched with a `token`."""
    several = len(urls) > 1
    return UpstreamServers(settings, urls, token) if several else Upstream(settings, urls[0])
