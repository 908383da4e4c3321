"""Errors of the gateway's own routes: one class each, answered as RFC 9457 problem+json.

Raise a `Problem` subclass anywhere below a route; app/http/problems.py turns it, FastAPI's
validation errors and the database driver's errors into a response. The OpenAPI document is made
from the classes. PostgREST's own errors pass through untouched and are not described here.
"""

from typing import Any, ClassVar, Self

import psycopg
from psycopg_pool import PoolClosed

PROBLEM_JSON = "application/problem+json"
# PostgreSQL ended one of two transactions that could not both be carried out: a serialization
# failure, a deadlock. Nothing of it was done, and it can be repeated.
COLLISIONS = frozenset({"40001", "40P01"})
COLLISION = "The request collided with another and changed nothing; send it again."


class Problem(Exception):  # noqa: N818  (RFC 9457 calls it a problem)
    """An error with an HTTP status, a stable code for programs and a sentence for people."""

    status = 500
    code = "internal_error"
    title = "Something failed inside the gateway"

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
    """There is no token, or it is invalid, expired or revoked."""

    status, code, title = 401, "unauthorized", "A valid access token is needed"

    def __init__(self, detail: str | None = None, *, error: str = "invalid_token") -> None:
        challenge = f'Bearer realm="flows", error="{error}"' if detail else 'Bearer realm="flows"'
        super().__init__(detail, headers={"WWW-Authenticate": challenge})


class Forbidden(Problem):
    """The token is valid but does not allow this."""

    status, code, title = 403, "forbidden", "The token does not allow this"


class NotFound(Problem):
    """The resource does not exist or is not the caller's; responses never tell which."""

    status, code, title = 404, "not_found", "There is no such resource"


class Conflict(Problem):
    """It conflicts with the resource's current state."""

    status, code, title = 409, "conflict", "This conflicts with the current state"


class MethodNotAllowed(Problem):
    """The resource does not support the method."""

    status, code, title = 405, "method_not_allowed", "This method is not available here"

    def __init__(self, detail: str | None = None, *, allowed: str = "") -> None:
        super().__init__(detail, headers={"Allow": allowed} if allowed else None)


class NotAcceptable(Problem):
    """The resource is not available in any format that the Accept header allows."""

    status, code, title = 406, "not_acceptable", "This is not available in the requested format"


class TooSlow(Problem):
    """The client stopped sending its request."""

    status, code, title = 408, "request_timeout", "The request did not arrive in time"


class TooLarge(Problem):
    """The request's body is longer than the gateway accepts."""

    status, code, title = 413, "body_too_large", "The body is too large; send it in parts"


class UrlTooLong(Problem):
    """The path and query are longer than the gateway accepts."""

    status, code, title = 414, "url_too_long", "The URL is too long"


class UnsupportedMediaType(Problem):
    """The body has a Content-Encoding that the gateway does not support."""

    status, code, title = 415, "unsupported_encoding", "Send the body without Content-Encoding"


class UnsatisfiableRange(Problem):
    """The part that is asked for lies behind the end of the file."""

    status, code, title = 416, "range_not_satisfiable", "The file has no such part"

    def __init__(self, size: int) -> None:
        super().__init__(f"It has {size} bytes.", headers={"Content-Range": f"bytes */{size}"})


class HeadersTooLarge(Problem):
    """The headers are longer than the gateway accepts."""

    status, code, title = 431, "headers_too_large", "The headers are too large"


class Unprocessable(Problem):
    """A parameter has a value that is not allowed; `errors` names each."""

    status, code, title = 422, "invalid_parameter", "A parameter has a value that is not allowed"

    @classmethod
    def naming(cls, *faults: dict[str, Any]) -> Self:
        """Return the error with these faults (see `fault`), of which the detail tells the first."""
        first = faults[0]
        return cls(f"{first['parameter']}: {first['message']}", errors=list(faults))


def fault(where: str, parameter: str, value: object, message: str) -> dict[str, Any]:
    """Return a member of `errors`: the part of the request, its parameter, and what is allowed."""
    return {"in": where, "parameter": parameter, "value": value, "message": message}


class TooManyRequests(Problem):
    """A rate limit is used up."""

    status, code, title = 429, "rate_limited", "Too many requests"

    def __init__(self, detail: str, *, retry_after: int) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after)})


class UnsupportedTransferCoding(Problem):
    """The body has a Transfer-Encoding other than chunked."""

    status, code, title = 501, "unsupported_coding", "This Transfer-Encoding is not available"


class UnsupportedVersion(Problem):
    """The request line names another version of HTTP."""

    status, code, title = 505, "unsupported_version", "This version of HTTP is not available"


class Unavailable(Problem):
    """The database or PostgREST does not answer right now."""

    status, code, title = 503, "unavailable", "A service behind the gateway does not answer"

    def __init__(self, detail: str | None = None, *, retry_after: int = 2) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after)})


class UpstreamTimeout(Problem):
    """PostgREST accepted the request but did not answer in time."""

    status, code, title = 504, "upstream_timeout", "A service behind the gateway is too slow"


class Timeout(Problem):
    """The database took longer than the caller's role allows."""

    status, code, title = 504, "timeout", "The query took too long; ask for a shorter range"


class RestError(Exception):
    """An error of `/rest/v1` in PostgREST's format: `{code,message,details,hint}`."""

    status: ClassVar[int]
    code: ClassVar[str]
    message: ClassVar[str]
    hint: ClassVar[str | None] = None

    def __init__(self, details: str | None = None) -> None:
        super().__init__(self.message)
        self.details = details

    @property
    def body(self) -> dict[str, str | None]:
        """The members of the JSON response."""
        return {
            "code": self.code,
            "message": self.message,
            "details": self.details,
            "hint": self.hint,
        }


class EstimateError(RestError):
    """A preference asks for an estimated count, which would reveal the rows of other ESCOs."""

    status, code = 400, "FLOWS400"
    message = "Only count=exact is available; estimates are not"


class PreferenceError(RestError):
    """A preference is unknown, and handling=strict is set."""

    status, code = 400, "PGRST122"
    message = "Invalid preferences given with handling=strict"


class CostlyFilterError(RestError):
    """A pattern, a nesting or what is embedded may cost far more than the rows it reads."""

    status, code = 422, "FLOWS422"
    message = "The query costs too much"
    hint = (
        "Use eq, in, like or a simple pattern, and() and or() that are not deeply nested, embed no "
        "relation within itself, limit a series where you embed it, and cast to text, float8 and "
        "other types of bounded length"
    )


class TooManyRowsError(RestError):
    """The answer has more rows than the gateway lets PostgREST hold in memory."""

    status, code = 422, "FLOWSROWS"
    message = "The answer has too many rows"
    hint = (
        "Ask for it in pages, by order, limit and offset or by Range, or narrow the filters; "
        "/v1/energy answers long periods whole"
    )

    def __init__(self, most: int) -> None:
        super().__init__(f"It has more than {most:,}, which is the most at a time")


class LimitedWriteError(RestError):
    """A PATCH or DELETE with limit or offset, which PostgREST 13 and later ignore on writes."""

    status, code = 400, "PGRST114"
    message = "limit and offset are not allowed for PATCH and DELETE"
    hint = (
        "Every row that matches the filters would change. Read the keys first, with GET, order and "
        "limit, and name them: id=in.(…)"
    )

    def __init__(self) -> None:
        super().__init__("A write changes all rows that match its filters")


class SchemaError(RestError):
    """The request's profile names a schema other than `flows`."""

    status, code = 406, "PGRST106"
    message = "The schema must be one of the following: flows"


class PlanError(RestError):
    """The request accepts only a query plan, which would reveal the rows of other ESCOs."""

    status, code = 406, "PGRST107"
    message = "None of these media types are available: plans are not"


def problem_classes() -> list[type[Problem]]:
    """Return all classes of Problem, ordered by status."""
    return sorted((Problem, *Problem.__subclasses__()), key=lambda problem: problem.status)


def rest_error_classes() -> list[type[RestError]]:
    """Return all classes of RestError, ordered by status."""
    return sorted(RestError.__subclasses__(), key=lambda error: error.status)


def from_database(error: Exception) -> Problem:
    """Convert a database driver's error to a problem; the server's message is never sent."""
    if isinstance(error, psycopg.Error) and error.sqlstate:
        # SQL functions choose an HTTP status with the error code PTnnn, a convention of PostgREST.
        refusals: dict[str, type[Problem]] = {
            "PT401": Unauthorized,
            "PT403": Forbidden,
            "PT404": NotFound,
            "PT422": Unprocessable,
        }
        if refusal := refusals.get(error.sqlstate):
            return refusal(error.diag.message_primary)
        if isinstance(error, psycopg.errors.QueryCanceled):
            return Timeout()
        if isinstance(error, psycopg.errors.InsufficientPrivilege):
            return Forbidden()
        if error.sqlstate in COLLISIONS:
            return Unavailable(COLLISION)
        if error.sqlstate[:2] in ("08", "53", "57"):  # connection, resources, shutdown
            return Unavailable()
        return Problem()
    if isinstance(error, psycopg.DataError):
        # The driver refused to send a value, such as a NUL or half a surrogate pair.
        return Unprocessable("A text contains a character that cannot be stored.")
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError | PoolClosed):
        return Unavailable()
    return Problem()
