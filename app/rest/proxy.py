"""`/rest/v1/*`: PostgREST as its clients know it, streamed both ways, behind a verified token.

A raw ASGI application: this is the hot path, and it stays off FastAPI's routing and validation.
Requests are rebuilt from the raw path and an allow-list of headers; nothing else crosses.
"""

import re
from collections.abc import AsyncIterator, Mapping

import aiohttp
import orjson
from starlette.types import Receive, Scope, Send
from yarl import URL

from app.auth.tokens import TokenVerifier
from app.errors import PROBLEM_JSON, BadRequest, Problem, Unauthorized, Unavailable

PREFIX = b"/rest/v1"
REQUEST_HEADERS = frozenset(
    b"accept content-length content-type prefer range range-unit if-none-match".split()
)
RESPONSE_HEADERS = frozenset(
    {
        "allow",
        "content-length",
        "content-location",
        "content-range",
        "content-type",
        "etag",
        "preference-applied",
        "retry-after",
        "www-authenticate",
    }
)
PROFILES = {b"flows": b"api", b"api": b"api"}
# Dot segments, empty segments, encoded slashes and dots, parameters, backslashes, controls.
HOSTILE_PATH = re.compile(rb"//|/\.\.?(/|$)|%2e|%2f|%5c|%25|%00|[;\\\x00-\x20]", re.IGNORECASE)
ESTIMATES = re.compile(rb"count\s*=\s*(planned|estimated)", re.IGNORECASE)


class RestError(Exception):
    """A refusal in PostgREST's own shape, for clients that read `{code,message,details,hint}`."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"code": code, "message": message, "details": None, "hint": None}


class ClientGone(Exception):  # noqa: N818  (nobody is left to be told of an error)
    """The client closed the connection before its request was answered."""


class RestProxy:
    """ASGI application; `open` and `close` frame its pool of connections to PostgREST."""

    def __init__(self, upstream: str, verifier: TokenVerifier) -> None:
        self._upstream = upstream.rstrip("/")
        self._verifier = verifier
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Open the pool; connections are made as they are needed."""
        self._session = aiohttp.ClientSession(
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            connector=aiohttp.TCPConnector(limit=100),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=2, sock_read=60),
            skip_auto_headers=("User-Agent", "Accept-Encoding", "Content-Type", "Accept"),
        )

    async def close(self) -> None:
        """Close the pool."""
        if self._session:
            await self._session.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            url, headers = self._rebuild(scope)
            await self._forward(scope, receive, send, url, headers)
        except RestError as error:
            await _answer(send, error.status, error.body, b"application/json; charset=utf-8")
        except Problem as problem:
            body = {"type": "about:blank", "title": problem.title, "status": problem.status,
                    "code": problem.code, "detail": problem.detail}  # fmt: skip
            await _answer(send, problem.status, body, PROBLEM_JSON.encode(), problem.headers)
        except ClientGone:
            pass

    def _rebuild(self, scope: Scope) -> tuple[URL, dict[str, str]]:
        path = scope["raw_path"].split(b"?", 1)[0].removeprefix(PREFIX) or b"/"
        if HOSTILE_PATH.search(path) or not path.startswith(b"/"):
            raise BadRequest("The path holds characters that no relation or function has.")
        headers = {
            name.decode(): value.decode("latin-1")
            for name, value in scope["headers"]
            if name in REQUEST_HEADERS
        }
        values: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            values.setdefault(name, []).append(value)
        headers["authorization"] = "Bearer " + self._token(values)
        for name in (b"accept-profile", b"content-profile"):
            if asked := values.get(name):
                profile = PROFILES.get(asked[0])
                if profile is None:
                    raise RestError(406, "PGRST106", "The schema must be: flows")
                headers[name.decode()] = profile.decode()
        if b"prefer" in values:
            headers["prefer"] = b", ".join(values[b"prefer"]).decode("latin-1")
            if ESTIMATES.search(headers["prefer"].encode("latin-1")):
                raise RestError(400, "FLOWS400", "Only count=exact is available; estimates are not")
        if b"vnd.pgrst.plan" in b"".join(values.get(b"accept", [])):
            raise RestError(406, "PGRST107", "None of these media types are available")
        query = scope["query_string"].decode("latin-1")
        target = self._upstream + path.decode("latin-1") + (f"?{query}" if query else "")
        return URL(target, encoded=True), headers

    def _token(self, values: dict[bytes, list[bytes]]) -> str:
        authorization = values.get(b"authorization", [])
        if len(authorization) > 1:
            raise BadRequest("There are two Authorization headers; send one.")
        if authorization:
            scheme, _, token = authorization[0].decode("latin-1").partition(" ")
            if scheme.lower() != "bearer":
                raise Unauthorized("Send the token as Authorization: Bearer.")
        elif apikey := values.get(b"apikey"):
            token = apikey[0].decode("latin-1")
        else:
            raise Unauthorized()
        self._verifier.verify(token)
        return token

    async def _forward(
        self, scope: Scope, receive: Receive, send: Send, url: URL, headers: dict[str, str]
    ) -> None:
        assert self._session is not None  # noqa: S101  (opened by the lifespan)
        has_body = "content-length" in headers or any(
            name == b"transfer-encoding" for name, _ in scope["headers"]
        )
        try:
            answer = await self._session.request(
                scope["method"],
                url,
                headers=headers,
                data=_body(receive) if has_body else None,
                allow_redirects=False,
            )
        except (aiohttp.ClientConnectionError, TimeoutError) as error:
            raise Unavailable("PostgREST does not answer.") from error
        async with answer:
            out = [
                (name.lower().encode(), value.encode("latin-1"))
                for name, value in answer.headers.items()
                if name.lower() in RESPONSE_HEADERS
            ]
            if location := answer.headers.get("Location"):
                out.append((b"location", PREFIX + location.encode("latin-1")))
            if "Content-Profile" in answer.headers:
                out.append((b"content-profile", b"flows"))
            if answer.status >= 400:
                await _relay_error(send, answer, out)
                return
            await send({"type": "http.response.start", "status": answer.status, "headers": out})
            # A cut upstream raises here, before the last chunk: the client sees a broken transfer.
            async for chunk in answer.content.iter_any():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})


async def _body(receive: Receive) -> AsyncIterator[bytes]:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        if message.get("body"):
            yield message["body"]
        if not message.get("more_body"):
            return


async def _relay_error(
    send: Send, answer: aiohttp.ClientResponse, headers: list[tuple[bytes, bytes]]
) -> None:
    """Pass PostgREST's error on without `details` and `hint`, which can tell of others' rows."""
    raw = await answer.read()
    try:
        error = orjson.loads(raw)
        raw = orjson.dumps(error | {"details": None, "hint": None})
    except (orjson.JSONDecodeError, TypeError):
        pass  # HEAD and the like have no body to clean
    headers = [pair for pair in headers if pair[0] != b"content-length"]
    headers.append((b"content-length", str(len(raw)).encode()))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": raw})


async def _answer(
    send: Send,
    status: int,
    body: Mapping[str, object],
    media_type: bytes,
    headers: dict[str, str] | None = None,
) -> None:
    raw = orjson.dumps(body)
    pairs = [(b"content-type", media_type), (b"content-length", str(len(raw)).encode())]
    pairs += [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": raw})
