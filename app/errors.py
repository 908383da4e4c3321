"""Errors of the gateway's own routes: one class each, answered as RFC 9457 problem+json.

Raise a `Problem` subclass anywhere below a route; app/http/problems.py turns it, FastAPI's
validation errors and the database driver's errors into a response. The OpenAPI document is made
from the classes. PostgREST's own errors pass through untouched and are not described here.
"""

from typing import Any, ClassVar

import psycopg
from psycopg_pool import PoolClosed

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
