"""Error responses: the handlers that turn every error into RFC 9457 problem+json."""

import json
import logging
import math
from typing import Any

import psycopg
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from psycopg_pool import PoolClosed, PoolTimeout
from starlette.exceptions import HTTPException
from starlette.types import Scope

from app.errors import (
    PROBLEM_JSON,
    BadRequest,
    MethodNotAllowed,
    NotFound,
    Problem,
    Unprocessable,
    fault,
    from_database,
)
from app.request_state import request_state

logger = logging.getLogger(__name__)

# The problems for errors that the framework itself raises, by status.
FRAMEWORK = {400: BadRequest, 404: NotFound, 405: MethodNotAllowed}


class ProblemResponse(JSONResponse):
    """A response with problem details, which may quote lone surrogates from the request."""

    media_type = PROBLEM_JSON

    def render(self, content: Any) -> bytes:
        """Write a lone surrogate as an escape, because UTF-8 cannot encode it."""
        return json.dumps(content, ensure_ascii=False).encode("utf-8", "backslashreplace")


def problem_details(problem: Problem, request_id: str) -> dict[str, Any]:
    """Return the body: type, title, status, code, detail, the problem's own members, request_id.

    Source: RFC 9457 §3.1.
    """
    details: dict[str, Any] = {
        "type": "about:blank",
        "title": problem.title,
        "status": problem.status,
        "code": problem.code,
    }
    if problem.detail:
        details["detail"] = problem.detail
    return details | problem.members | {"request_id": request_id}


def respond(scope: Scope, problem: Problem) -> JSONResponse:
    """Return the problem+json response.

    Source: RFC 9457, RFC 6750 §3 (the challenge of a 401).
    """
    body = problem_details(problem, request_state(scope).request_id)
    if scope["path"].startswith("/rest/v1/"):
        # PostgREST's clients display `message` and expect the other two.
        body |= {"message": problem.detail or problem.title, "details": None, "hint": None}
    return ProblemResponse(body, status_code=problem.status, headers=problem.headers)


def from_validation(error: RequestValidationError) -> Problem:
    """Return an Unprocessable that names each parameter, its value and what is allowed."""
    faults = []
    for item in error.errors():
        where, *path = (str(part) for part in item["loc"])
        if where == "query":
            del path[1:]  # name the parameter without the index in its list
        found = item.get("input")
        if isinstance(found, list) and all(isinstance(part, str) for part in found):
            found = ",".join(found)
        shown = found if _is_plain(found) else None
        message = item["msg"].removeprefix("Value error, ")
        faults.append(fault(where, ".".join(path) or where, shown, message))
    return Unprocessable.naming(*faults)


def _is_plain(value: Any) -> bool:
    """Return True if JSON can express the value."""
    return isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


def install(app: FastAPI) -> None:
    """Register the handlers that turn every failure below a route into problem+json."""

    async def on_problem(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, Problem)  # noqa: S101
        return respond(request.scope, error)

    async def on_validation(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)  # noqa: S101
        return respond(request.scope, from_validation(error))

    async def on_http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)  # noqa: S101
        if isinstance(error.__cause__, Problem):
            # FastAPI reports any error while a body is read as a body that cannot be parsed.
            return respond(request.scope, error.__cause__)
        problem = FRAMEWORK.get(error.status_code, Problem)()
        if problem.status != error.status_code:
            problem.status, problem.title = error.status_code, str(error.detail)
            problem.code = problem.title.lower().replace(" ", "_")
        problem.headers |= dict(error.headers or {})
        return respond(request.scope, problem)

    async def on_database(request: Request, error: Exception) -> JSONResponse:
        problem = from_database(error)
        if problem.status >= 500:
            logger.error("database: %s", error, exc_info=problem.status == 500)
        return respond(request.scope, problem)

    async def on_anything(request: Request, error: Exception) -> JSONResponse:
        return respond(request.scope, Problem())

    app.add_exception_handler(Problem, on_problem)
    app.add_exception_handler(RequestValidationError, on_validation)
    app.add_exception_handler(HTTPException, on_http)
    for error_class in (psycopg.Error, PoolTimeout, PoolClosed):
        app.add_exception_handler(error_class, on_database)
    app.add_exception_handler(Exception, on_anything)
