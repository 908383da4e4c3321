"""Errors of the gateway's own routes: one class each, answered as RFC 9457 problem+json.

Raise a `Problem` subclass anywhere below a route; `install` turns it, FastAPI's validation errors
and the database driver's errors into a response. PostgREST's own errors pass through untouched and
are not described here.
"""

import json
import logging
import math
from typing import Any, ClassVar

import psycopg
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from psycopg_pool import PoolClosed, PoolTimeout
from starlette.exceptions import HTTPException

logger = logging.getLogger(__name__)

PROBLEM_JSON = "application/problem+json"


class Problem(Exception):  # noqa: N818  (RFC 9457 calls it a problem)
    """A failure with an HTTP status, a stable machine-readable code and a sentence for a person."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "Something failed inside the gateway"

    def __init__(
        self, detail: str | None = None, *, headers: dict[str, str] | None = None, **members: Any
    ) -> None:
        super().__init__(detail or self.title)
        self.detail = detail
        self.headers = headers or {}
        self.members = members


class BadRequest(Problem):
    """The request cannot be understood."""

    status, code, title = 400, "bad_request", "The request cannot be understood"


class Unauthorized(Problem):
    """No token, or one that is not valid (any more)."""

    status, code, title = 401, "unauthorized", "A valid access token is needed"

    def __init__(self, detail: str | None = None, *, error: str = "invalid_token") -> None:
        challenge = f'Bearer realm="flows", error="{error}"' if detail else 'Bearer realm="flows"'
        super().__init__(detail, headers={"WWW-Authenticate": challenge})


class Forbidden(Problem):
    """The token is valid and does not allow this."""

    status, code, title = 403, "forbidden", "The token does not allow this"


class NotFound(Problem):
    """No such thing, or not the caller's: the two are never told apart."""

    status, code, title = 404, "not_found", "There is nothing here"


class Conflict(Problem):
    """What is there already stands against it."""

    status, code, title = 409, "conflict", "This conflicts with what is there"


class MethodNotAllowed(Problem):
    """A method that this resource does not know."""

    status, code, title = 405, "method_not_allowed", "This method is not available here"


class NotAcceptable(Problem):
    """None of the forms that the Accept header takes is served."""

    status, code, title = 406, "not_acceptable", "There is no such form of this"


class TooSlow(Problem):
    """The client stopped sending its request."""

    status, code, title = 408, "request_timeout", "The request did not arrive in time"


class TooLarge(Problem):
    """The request's body is longer than the gateway takes."""

    status, code, title = 413, "body_too_large", "The body is too large; send it in parts"


class UrlTooLong(Problem):
    """The path and query are longer than the gateway takes."""

    status, code, title = 414, "url_too_long", "The URL is too long"


class UnsupportedMediaType(Problem):
    """The body is encoded in a way that the gateway does not read."""

    status, code, title = 415, "unsupported_encoding", "Send the body without Content-Encoding"


class HeadersTooLarge(Problem):
    """The header lines are longer than the gateway takes."""

    status, code, title = 431, "headers_too_large", "The headers are too large"


class Unprocessable(Problem):
    """A parameter has a value that is not allowed; `errors` names each."""

    status, code, title = 422, "invalid_parameter", "A parameter has a value that is not allowed"


class TooManyRequests(Problem):
    """A rate limit is used up."""

    status, code, title = 429, "rate_limited", "Too many requests"

    def __init__(self, detail: str, *, retry_after: int) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after)})


class Unavailable(Problem):
    """The database or PostgREST does not answer right now."""

    status, code, title = 503, "unavailable", "A service behind the gateway does not answer"

    def __init__(self, detail: str | None = None, *, retry_after: int = 2) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after)})


class UpstreamTimeout(Problem):
    """PostgREST took the request and sent nothing for too long."""

    status, code, title = 504, "upstream_timeout", "A service behind the gateway is too slow"


class Timeout(Problem):
    """The database took longer than the caller's role allows."""

    status, code, title = 504, "timeout", "The query took too long; ask for a shorter range"


def from_database(error: Exception) -> Problem:
    """Translate a database driver's error; what the server said is logged, never sent."""
    if isinstance(error, psycopg.Error) and error.sqlstate:
        # PTnnn is how SQL functions of this project (and PostgREST's users) name an HTTP status.
        refusals: dict[str, type[Problem]] = {
            "PT401": Unauthorized,
            "PT403": Forbidden,
            "PT404": NotFound,
        }
        if refusal := refusals.get(error.sqlstate):
            return refusal(error.diag.message_primary)
        if isinstance(error, psycopg.errors.QueryCanceled):
            return Timeout()
        if isinstance(error, psycopg.errors.InsufficientPrivilege):
            return Forbidden()
        if error.sqlstate[:2] in ("08", "53", "57"):  # connection, resources, shutdown
            return Unavailable()
        return Problem()
    if isinstance(error, psycopg.DataError):
        # The driver itself refused a value before it was sent: a NUL, or half a surrogate pair.
        return Unprocessable("A text holds a character that cannot be stored.")
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError | PoolClosed):
        return Unavailable()
    return Problem()


class ProblemResponse(JSONResponse):
    """Problem details that may repeat what the caller sent, half a surrogate pair included."""

    media_type = PROBLEM_JSON

    def render(self, content: Any) -> bytes:
        """Write a lone surrogate as the escape it came in: UTF-8 has none."""
        return json.dumps(content, ensure_ascii=False).encode("utf-8", "backslashreplace")


def respond(request: Request, problem: Problem) -> JSONResponse:
    """Build the problem+json answer; its members are type, title, status, code, detail, request_id.

    Source: RFC 9457 (members), RFC 6750 §3 (the challenge of a 401).
    """
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": problem.title,
        "status": problem.status,
        "code": problem.code,
    }
    if problem.detail:
        body["detail"] = problem.detail
    body |= problem.members
    if request_id := request.scope.get("request_id"):
        body["request_id"] = request_id
    if request.scope["path"].startswith("/rest/v1/"):
        # PostgREST's clients show `message` and read the other two.
        body |= {"message": problem.detail or problem.title, "details": None, "hint": None}
    return ProblemResponse(body, status_code=problem.status, headers=problem.headers)


def from_validation(error: RequestValidationError) -> Problem:
    """Name each parameter, the value it had and what is allowed."""
    errors = []
    for item in error.errors():
        where, *path = (str(part) for part in item["loc"])
        if where == "query":
            del path[1:]  # a parameter is named as a whole, not by the place in its list
        found = item.get("input")
        if isinstance(found, list) and all(isinstance(part, str) for part in found):
            found = ",".join(found)
        errors.append(
            {
                "in": where,
                "parameter": ".".join(path) or where,
                "value": found if _is_plain(found) else None,
                "message": item["msg"].removeprefix("Value error, "),
            }
        )
    first = errors[0]
    return Unprocessable(f"{first['parameter']}: {first['message']}", errors=errors)


def _is_plain(value: Any) -> bool:
    """Whether JSON can say it."""
    return isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


def install(app: FastAPI) -> None:
    """Register the handlers that turn every failure below a route into problem+json."""

    async def on_problem(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, Problem)  # noqa: S101
        return respond(request, error)

    async def on_validation(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)  # noqa: S101
        return respond(request, from_validation(error))

    async def on_http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)  # noqa: S101
        known = {404: NotFound, 400: BadRequest}.get(error.status_code)
        problem: Problem = known() if known else _unnamed(error.status_code, str(error.detail))
        problem.headers |= dict(error.headers or {})
        return respond(request, problem)

    async def on_database(request: Request, error: Exception) -> JSONResponse:
        problem = from_database(error)
        if problem.status >= 500:
            logger.error("database: %s", error, exc_info=problem.status == 500)
        return respond(request, problem)

    async def on_anything(request: Request, error: Exception) -> JSONResponse:
        return respond(request, Problem())

    app.add_exception_handler(Problem, on_problem)
    app.add_exception_handler(RequestValidationError, on_validation)
    app.add_exception_handler(HTTPException, on_http)
    for error_class in (psycopg.Error, PoolTimeout, PoolClosed):
        app.add_exception_handler(error_class, on_database)
    app.add_exception_handler(Exception, on_anything)


def _unnamed(status: int, detail: str) -> Problem:
    """Wrap a status that the framework chose (405, 413, …) and that has no class of its own."""

    class FrameworkProblem(Problem):
        pass

    FrameworkProblem.status = status
    FrameworkProblem.code = detail.lower().replace(" ", "_")
    FrameworkProblem.title = detail
    return FrameworkProblem()
