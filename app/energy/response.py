"""Responses of /v1: streamed within the caller's database session, with ETag and 304.

The ETag is computed from the version of the data, so that a 304 reads no rows.
"""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson
import psycopg
from psycopg_pool import PoolTimeout
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from app.app_state import Services
from app.db.batch import EarlyRows, Query, QueryRows
from app.db.principal import RESIDENT, Principal
from app.db.session import Connection, Pool, asking_session
from app.energy.changes import SeenChanges
from app.energy.files import FileCache
from app.energy.formats import Format
from app.energy.intervals import Instant, moment
from app.energy.parameters import Window
from app.energy.reading import computed
from app.energy.scope import Available
from app.energy.writers import BodyWriter, JsonWriter, writer
from app.http.byte_ranges import asked_range
from app.http.conditional import is_not_modified
from app.http.response_stream import ClientGone, ResponseStream
from app.memory import give_back
from app.request_state import request_state

if TYPE_CHECKING:
    import polars as pl

# Part of every ETag. Increase it when the same data are written differently.
REPRESENTATION = 4
# Rows of a response that leaves megabytes of free memory in pieces.
MANY_ROWS = 10_000

STATE = (
    "select version, as_of, remapping, cluster, seen, flows.has_derived()"
    " from flows.data_state(tstzrange(%(first)s, %(last)s), %(dimensions)s::text[])"
)
# A resident's moves with what it sees alone.
STATE_OF_RESIDENT = (
    "select version, as_of, remapping, null, null, has_derived"
    " from flows.own_data_state(tstzrange(%(first)s, %(last)s))"
)
NOTHING = Available(None, None)


@dataclass(frozen=True, slots=True)
class DataVersion:
    """The version of a period's data as the caller sees them.

    Changes up to `as_of` are included; `seen` names their transactions, as a token. While
    `remapping` is true, the stored aggregates still reflect circuit mappings that have changed
    since. A resident has no `seen`. `has_derived` is true if any half-hour that the caller sees may
    be derived. `early` are the rows of the report's early queries, in the same snapshot.
    """

    version: str
    as_of: datetime | None
    remapping: bool
    seen: SeenChanges | None
    has_derived: bool = False
    early: EarlyRows = field(default_factory=EarlyRows)


@dataclass(frozen=True, slots=True)
class RenderedReport:
    """The rows of an unstarted response and the metadata its ETag covers.

    `frames` yields one frame at least, which may be empty; of few rows of JSON, `few` returns them
    instead. `members` are those of a JSON object that precede the rows, `last_members` returns
    those that follow them. `keys` name the groups of rows of groups and intervals. `following` is
    the cursor of the next page, None on the last. `version` must change whenever anything in the
    response changes that is neither a half-hour nor a mapping nor configuration.
    """

    frames: "AsyncGenerator[pl.DataFrame, None]"
    members: Mapping[str, Any]
    last_members: Callable[[], Awaitable[Mapping[str, Any]]] | None = None
    keys: tuple[str, ...] = ()
    available: Available = NOTHING
    following: str | None = None
    version: str | None = None
    few: Callable[[], Awaitable[list[dict[str, Any]]]] | None = None


def fingerprint(path: str, parameters: Mapping[str, Any]) -> str:
    """Return a SHA-256 digest of path and parameters, independent of the parameters' order."""
    asked = orjson.dumps([path, parameters], option=orjson.OPT_SORT_KEYS, default=str)
    return hashlib.sha256(asked).hexdigest()


@dataclass(frozen=True, slots=True)
class ReportRequest:
    """A request for a report: its caller, output format and half-hours.

    `first` and `last` (exclusive) bound the half-hours; None means no bound. `dimensions` are those
    that its rows and filters depend on; None means all.
    """

    services: Services
    files: FileCache
    caller: Principal
    request: Request
    format: Format
    fingerprint: str
    first: Instant | None
    last: Instant | None
    dimensions: list[str] | None
    file_name: str


class Report:
    """The query behind a route, and its rows."""

    def early_queries(self) -> list[Query]:
        """Return queries that `render` needs and that depend on no answer, to be sent early."""
        return []

    async def render(
        self, request: ReportRequest, connection: Connection, version: DataVersion
    ) -> RenderedReport:
        """Run the first queries and return the rows to send; errors here become problems."""
        raise NotImplementedError


class ReportResponse(Response):
    """A response that runs its query while it is sent: session and transfer end together."""

    def __init__(self, request: ReportRequest, report: Report) -> None:
        super().__init__()
        self._request = request
        self._report = report

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send 304, or 200 with a body; cancel the query when the client disconnects."""
        settings = self._request.services.settings.http
        stream = ResponseStream(scope, receive, send, settings.send_seconds)
        with suppress(ClientGone):
            async with stream:
                await self._send(stream)
        if request_state(scope).rows >= MANY_ROWS:
            await asyncio.to_thread(give_back)

    async def _send(self, stream: ResponseStream) -> None:
        """Send what the replica answers, if it is near enough, else the primary."""
        services = self._request.services
        replica = services.replica
        if replica and replica.usable:
            try:
                await self._send_from(replica.pool, stream)
                return
            except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                if stream.started or isinstance(error, psycopg.errors.QueryCanceled):
                    raise
                # Neither a conflict with what is replayed nor a busy pool is a failure of its.
                if not isinstance(error, psycopg.errors.SerializationFailure | PoolTimeout):
                    replica.leave_out(error)
        await self._send_from(services.pool, stream)

    async def _send_from(self, pool: Pool, stream: ResponseStream) -> None:
        request = self._request
        queries = [_state(request), *self._report.early_queries()]
        async with asking_session(pool, request.caller, queries) as (connection, rows):
            version = _version(rows[0], EarlyRows(queries[1:], rows[1:]))
            report = await self._report.render(request, connection, version)
            async with aclosing(_body(request, report)) as body:
                headers = response_headers(request, version, report)
                if is_not_modified(request.request, headers["ETag"]):
                    raw = Response(headers=headers, status_code=304).raw_headers
                    await stream.start(304, raw)
                    await stream.end()
                    return
                kind = "inline" if request.format.has_members else "attachment"
                name = f"{request.file_name}.{request.format.extension}"
                headers["Content-Disposition"] = f'{kind}; filename="{name}"'
                if request.format.name == "parquet":
                    await self._send_file(stream, headers, body)
                else:
                    await self._send_stream(stream, headers, body)

    async def _send_stream(
        self, stream: ResponseStream, headers: dict[str, str], body: AsyncGenerator[bytes, None]
    ) -> None:
        media_type = self._request.format.media_type
        head = StreamingResponse(body, headers=headers, media_type=media_type).raw_headers
        if self._request.request.method == "HEAD":
            await stream.start(200, head)
            await stream.end()
            return
        # Read the first rows before the head is sent, so that an error until then still gets
        # its own status.
        first = await anext(body)
        await stream.start(200, head)
        await stream.write(first)
        async for piece in body:
            await stream.write(piece)
            # Writing rows may never block; yield to the event loop between pieces.
            await asyncio.sleep(0)
        await stream.end()

    async def _send_file(
        self, stream: ResponseStream, headers: dict[str, str], body: AsyncGenerator[bytes, None]
    ) -> None:
        """Send a file, or a part of it: it is kept for the next request for a part."""
        request, files = self._request.request, self._request.files
        content = files.get(headers["ETag"])
        if content is None:
            content = b"".join([piece async for piece in body])
            files.keep(headers["ETag"], content)
        part = asked_range(request, headers["ETag"], len(content))
        status = 200
        headers |= {"Accept-Ranges": "bytes", "Content-Type": self._request.format.media_type}
        if part is not None:
            status = 206
            headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{len(content)}"
            content = content[part.start : part.stop]
        headers["Content-Length"] = str(len(content))
        if request.method == "HEAD":
            content = b""
        await stream.start(status, Response(headers=headers).raw_headers)
        for start in range(0, len(content), 2**18):
            await stream.write(content[start : start + 2**18])
        await stream.end()


async def _body(request: ReportRequest, report: RenderedReport) -> AsyncGenerator[bytes, None]:
    """Yield the pieces of a body; the first has rows, if there are any."""
    writing: BodyWriter = writer(request.format, report.keys)
    state = request_state(request.request.scope)
    before = writing.begin(report.members)
    if report.few is not None and isinstance(writing, JsonWriter):
        few = await report.few()
        state.rows = len(few)
        yield before + writing.add_few(few) + writing.end(await _last_members(request, report))
        return
    async with aclosing(report.frames) as frames:
        async for frame in frames:
            state.rows += frame.height
            for start in range(0, max(frame.height, 1), writing.ROWS):
                part = frame.slice(start, writing.ROWS)
                yield before + await computed(part.height, partial(writing.add, part))
                before = b""
    yield writing.end(await _last_members(request, report))


async def _last_members(request: ReportRequest, report: RenderedReport) -> Mapping[str, Any]:
    if request.format.has_members and report.last_members is not None:
        return await report.last_members()
    return {}


def response_headers(
    request: ReportRequest, version: DataVersion, report: RenderedReport
) -> dict[str, str]:
    """Return the response headers; other formats than JSON have no other place for metadata."""
    caller, page = request.caller, request.request.query_params.get("cursor")
    available = report.available
    known = [
        REPRESENTATION, version.version, caller.role, caller.esco, request.format.name, page,
        available.first, available.last, report.version, request.fingerprint, report.following,
    ]  # fmt: skip
    # Sealed, since a caller that knows the rest could find the numbers of its changes, which count
    # those of all ESCOs.
    keys = request.services.keys
    tag = keys.seal(orjson.dumps(known, default=str), b"ETag")[:16].hex()
    headers = {"ETag": f'"{tag}"'}
    if version.seen:
        headers["Next-Changes"] = version.seen.token(keys)
    for name, at in (
        ("Data-As-Of", version.as_of),
        ("Available-From", available.first),
        ("Available-To", available.last),
    ):
        if at:
            headers[name] = at.isoformat()
    if report.following:
        following = request.request.url.include_query_params(cursor=report.following)
        headers["Link"] = f'<{following.path}?{following.query}>; rel="next"'
    return headers


def period(query: Window, version: DataVersion, available: Available) -> dict[str, Any]:
    """Return the JSON members that describe a period, with times in the requested time zone."""
    zone = query.zone()
    local = {
        "period_from": query.period_from,
        "period_to": query.period_to,
        "available_from": available.first,
        "available_to": available.last,
    }
    return {
        "timezone": query.timezone,
        **{name: at.astimezone(zone).isoformat() if at else None for name, at in local.items()},
        "data_as_of": version.as_of.isoformat() if version.as_of else None,
    }


def _state(request: ReportRequest) -> Query:
    first, last = (at if at is None else moment(at) for at in (request.first, request.last))
    if request.caller.role == RESIDENT:
        return Query(STATE_OF_RESIDENT, {"first": first, "last": last})
    return Query(STATE, {"first": first, "last": last, "dimensions": request.dimensions})


def _version(rows: QueryRows, early: EarlyRows) -> DataVersion:
    ((version, as_of, remapping, cluster, seen, derived),) = rows.tuples()
    changes = SeenChanges(cluster, seen) if seen else None
    return DataVersion(version, as_of, remapping, changes, derived, early)
