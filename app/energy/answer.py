"""Responses of /v1: streamed within the caller's database session, with ETag and 304.

The ETag is computed from the version of the data, so that a 304 reads no rows.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from app.app_state import Services
from app.db.principal import Principal
from app.db.session import Connection, caller_session
from app.energy.formats import Format
from app.energy.intervals import Instant, moment
from app.energy.parameters import Window
from app.energy.scope import Available
from app.http.conditional import is_not_modified
from app.http.response_stream import ClientGone, ResponseStream

# Part of every ETag. Increase it when the same data are written differently.
REPRESENTATION = 1

STATE = "select version, as_of, remapping from flows.data_state(tstzrange(%s, %s))"

Body = AsyncIterator[str]
NOTHING = Available(None, None)


@dataclass(frozen=True, slots=True)
class State:
    """The version of a period's data as the caller sees them.

    Changes up to `as_of` are included. While `remapping` is true, the stored aggregates still
    reflect circuit mappings that have changed since.
    """

    version: str
    as_of: datetime | None
    remapping: bool


@dataclass(frozen=True, slots=True)
class Written:
    """An unstarted response body and the metadata its ETag covers.

    `following` is the cursor of the next page, None on the last. `version` must change whenever
    anything in the response changes that is neither a half-hour nor a mapping nor configuration.
    """

    body: Body
    available: Available = NOTHING
    following: str | None = None
    version: str | None = None


def fingerprint(path: str, parameters: Mapping[str, Any]) -> str:
    """Return a SHA-256 digest of path and parameters, independent of the parameters' order."""
    asked = orjson.dumps([path, parameters], option=orjson.OPT_SORT_KEYS, default=str)
    return hashlib.sha256(asked).hexdigest()


@dataclass(frozen=True, slots=True)
class Question:
    """A request for a report: its caller, output format and half-hours.

    `first` and `last` (exclusive) bound the half-hours; None means no bound.
    """

    services: Services
    caller: Principal
    request: Request
    format: Format
    fingerprint: str
    first: Instant | None
    last: Instant | None
    file_name: str


class Report:
    """The query behind a route, and how its rows are written."""

    async def write(self, question: Question, connection: Connection, state: State) -> Written:
        """Run the first queries and return the body to send; errors here become problems."""
        raise NotImplementedError


class Answer(Response):
    """A response that runs its query while it is sent: session and transfer end together."""

    def __init__(self, question: Question, report: Report) -> None:
        super().__init__()
        self._question = question
        self._report = report

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send 304, or 200 with a streamed body; cancel the query when the client disconnects."""
        settings = self._question.services.settings.http
        stream = ResponseStream(scope, receive, send, settings.send_seconds)
        with suppress(ClientGone):
            async with stream:
                await self._send(stream)

    async def _send(self, stream: ResponseStream) -> None:
        question = self._question
        async with caller_session(question.services.pool, question.caller) as connection:
            state = await _state(connection, question)
            written = await self._report.write(question, connection, state)
            headers = _headers(question, state, written)
            if is_not_modified(question.request, headers["ETag"]):
                await stream.start(304, Response(headers=headers, status_code=304).raw_headers)
                await stream.end()
                return
            kind = "inline" if question.format.name == "json" else "attachment"
            name = f"{question.file_name}.{question.format.name}"
            headers["Content-Disposition"] = f'{kind}; filename="{name}"'
            body, media_type = written.body, question.format.media_type
            head = StreamingResponse(body, headers=headers, media_type=media_type).raw_headers
            if question.request.method == "HEAD":
                await stream.start(200, head)
                await stream.end()
                return
            # Read the first rows before the head is sent, so that an error until then still gets
            # its own status.
            begin = [piece async for piece in _some(body, 2)]
            await stream.start(200, head)
            for piece in begin:
                await stream.write(piece.encode())
            async for piece in body:
                await stream.write(piece.encode())
                # Writing rows may never block; yield to the event loop between pieces.
                await asyncio.sleep(0)
            await stream.end()


def _headers(question: Question, state: State, written: Written) -> dict[str, str]:
    """Return the response headers; CSV and NDJSON have no other place for this metadata."""
    caller, page = question.caller, question.request.query_params.get("cursor")
    available = written.available
    known = [
        REPRESENTATION, state.version, caller.role, caller.esco, question.format.name, page,
        available.first, available.last, written.version, question.fingerprint,
        written.following,
    ]  # fmt: skip
    tag = hashlib.sha256(orjson.dumps(known, default=str)).hexdigest()
    headers = {"ETag": f'"{tag[:32]}"'}
    for name, at in (
        ("Data-As-Of", state.as_of),
        ("Available-From", available.first),
        ("Available-To", available.last),
    ):
        if at:
            headers[name] = at.isoformat()
    if written.following:
        following = question.request.url.include_query_params(cursor=written.following)
        headers["Link"] = f'<{following.path}?{following.query}>; rel="next"'
    return headers


async def _some(body: Body, count: int) -> Body:
    """Yield at most `count` pieces of the body and leave the rest unread."""
    for _ in range(count):
        with suppress(StopAsyncIteration):
            yield await anext(body)


def period(query: Window, state: State, available: Available) -> dict[str, Any]:
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
        "data_as_of": state.as_of.isoformat() if state.as_of else None,
    }


async def _state(connection: Connection, question: Question) -> State:
    bounds = [at if at is None else moment(at) for at in (question.first, question.last)]
    cursor = await connection.execute(STATE, bounds)
    row = await cursor.fetchone()
    assert row is not None  # noqa: S101  (the query returns exactly one row)
    return State(row["version"], row["as_of"], row["remapping"])
