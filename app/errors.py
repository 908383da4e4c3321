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
    """It conflicts with the resource's current state."""

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


class RestError(Exception):
    """A refusal of `/rest/v1` in PostgREST's own shape: `{code,message,details,hint}`."""

    status: ClassVar[int]
    code: ClassVar[str]
    message: ClassVar[str]

    def __init__(self, details: str | None = None) -> None:
        super().__init__(self.message)
        self.details = details

    @property
    def body(self) -> dict[str, str | None]:
        """The response's members."""
        return {"code": self.code, "message": self.message, "details": self.details, "hint": None}


class EstimateError(RestError):
    """The preference asks for an estimated count, which would tell of other ESCOs' rows."""

    status, code = 400, "FLOWS400"
    message = "Only count=exact is available; estimates are not"


class PreferenceError(RestError):
    """With handling=strict, a preference that is not known."""

    status, code = 400, "PGRST122"
    message = "Invalid preferences given with handling=strict"


class SchemaError(RestError):
    """The profile names another schema than `flows`."""

    status, code = 406, "PGRST106"
    message = "The schema must be one of the following: flows"


class PlanError(RestError):
    """The request accepts a query plan only, which would tell of other ESCOs' rows."""

    status, code = 406, "PGRST107"
    message = "None of these media types are available: plans are not"


def problems() -> list[type[Problem]]:
    """Return every class of Problem, by status."""
    return sorted((Problem, *Problem.__subclasses__()), key=lambda problem: problem.status)


def rest_errors() -> list[type[RestError]]:
    """Return every class of RestError, by status."""
    return sorted(RestError.__subclasses__(), key=lambda error: error.status)


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
