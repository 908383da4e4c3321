"""Error responses: the gateway's problem+json, RFC 6749 at the token endpoint, PostgREST's own."""

from collections.abc import Iterable
from typing import Any

from app.auth.oauth import TOO_MANY_ATTEMPTS, WRONG_CREDENTIALS
from app.errors import (
    PROBLEM_JSON,
    BadRequest,
    Conflict,
    Forbidden,
    HeadersTooLarge,
    NotAcceptable,
    NotFound,
    Problem,
    Timeout,
    TooLarge,
    TooManyRequests,
    TooSlow,
    Unauthorized,
    Unavailable,
    Unprocessable,
    UnsatisfiableRange,
    UnsupportedMediaType,
    UpstreamTimeout,
    UrlTooLong,
    problem_classes,
    rest_error_classes,
)
from app.openapi.types import JsonSchema

Response = dict[str, Any]
JSON = "application/json"

SCHEMAS: dict[str, JsonSchema] = {
    "Problem": {
        "type": "object",
        "description": "An error of the gateway (RFC 9457); programs can rely on `code`.",
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "code": {
                "type": "string",
                "description": "\n".join(
                    [
                        "",
                        *(f"- `{problem.code}`: {problem.title}." for problem in problem_classes()),
                    ]
                ),
            },
            "detail": {"type": ["string", "null"]},
            "errors": {
                "type": "array",
                "description": "The parameters with values that are not allowed.",
                "items": {
                    "type": "object",
                    "properties": {
                        "in": {"type": "string"},
                        "parameter": {"type": "string"},
                        "value": {"type": ["string", "number", "boolean", "null"]},
                        "message": {"type": "string"},
                    },
                },
            },
            "request_id": {"type": "string"},
        },
        "required": ["type", "title", "status", "code"],
    },
    "PostgrestError": {
        "type": "object",
        "description": "An error of `/rest/v1`; `code` is PostgREST's or PostgreSQL's.",
        "properties": {
            "code": {"type": ["string", "null"]},
            "message": {"type": "string"},
            "details": {"type": ["string", "null"]},
            "hint": {"type": ["string", "null"]},
        },
        "required": ["code", "message", "details", "hint"],
    },
    "TokenError": {
        "type": "object",
        "description": "An error of the token endpoint (RFC 6749 §5.2).",
        "properties": {
            "error": {
                "type": "string",
                "enum": [
                    "invalid_request",
                    "invalid_client",
                    "invalid_grant",
                    "unauthorized_client",
                    "unsupported_grant_type",
                    "invalid_scope",
                    "invalid_target",
                    "slow_down",
                ],
            },
            "error_description": {"type": "string"},
        },
        "required": ["error"],
    },
}

# PostgREST's own errors: status → name of the response, description, code and message.
POSTGREST: dict[str, tuple[str, str, str, str]] = {
    "400": ("BadRequest", "A filter, a body or a parameter is malformed.",
            "PGRST100", '"failed to parse filter (EML1)"'),
    "401": ("Unauthorized", "There is no token, or it is invalid, expired or revoked.",
            "PT401", "The token is no longer valid"),
    "403": ("Forbidden", "The token does not allow this, or a row would be another ESCO's.",
            "42501", "permission denied for view meter_registry"),
    "404": ("NotFound", "There is no such relation, function or column.",
            "42883", "operator does not exist"),
    "406": ("NotAcceptable", "Not available in that format, or not exactly one row.",
            "PGRST116", "JSON object requested, multiple (or no) rows returned"),
    "409": ("Conflict", "A row with that key exists, or another row refers to this one.",
            "23505", "duplicate key value violates unique constraint"),
    "415": ("UnsupportedMediaType", "The type or the encoding of the body is not supported.",
            "PGRST102", "Content-Type not acceptable"),
    "416": ("RangeNotSatisfiable", "`offset` is past the last row.",
            "PGRST103", "Requested range not satisfiable"),
    "422": ("Unprocessable", "An argument, a value or a filter is beyond its bounds.",
            "PT422", "max_gap: must be more than 0 and at most 1 day"),
    "500": ("InternalError", "Something failed.", "XX000", "internal error"),
    "504": ("Timeout", "The query took too long; ask for less.",
            "57014", "canceling statement due to statement timeout"),
}  # fmt: skip

Problems = tuple[type[Problem], ...]
# Errors of the gateway for any request, for requests with a body, and for those with a token.
ANY: Problems = (UrlTooLong, HeadersTooLarge, Problem)
WITH_BODY: Problems = (TooSlow, TooLarge, UnsupportedMediaType)
WITH_TOKEN: Problems = (BadRequest, Unauthorized, Forbidden, Unavailable)
# Further errors, by the path of the gateway's own routes.
BY_PATH: dict[str, Problems] = {
    "/v1/": (NotFound, NotAcceptable, UnsatisfiableRange, Unprocessable, TooManyRequests, Timeout),
    "/admin/": (NotFound, Conflict, Unprocessable, TooManyRequests),
    "/auth/": (Unavailable,),
}
# Errors of routes that need no token, which are limited by address.
FOR_ALL: Problems = (TooManyRequests,)
ON_REST: Problems = (*ANY, *WITH_BODY, *WITH_TOKEN, TooManyRequests, UpstreamTimeout)

RETRY_AFTER = {
    "Retry-After": {
        "description": "Seconds to wait before the next attempt.",
        "schema": {"type": "string"},
    }
}


def components() -> dict[str, Response]:
    """Return the shared responses: `Rest…` for /rest/v1, `Problem…` for the gateway's routes.

    If both PostgREST and the gateway answer /rest/v1 with a status, its `Rest…` has both contents.
    """
    own = {*ANY, *WITH_BODY, *WITH_TOKEN, *(one for some in BY_PATH.values() for one in some)}
    found = {}
    for status, problems in _by_status(own).items():
        titles = "; ".join(problem.title for problem in problems)
        found[f"Problem{status}"] = _response(status, titles, _problem_content(problems))
    refused = _by_status(ON_REST)
    for status, (name, description, code, message) in POSTGREST.items():
        examples = {code: message} | {
            error.code: error.message
            for error in rest_error_classes()
            if str(error.status) == status
        }
        bodies = {
            code: {"code": code, "message": message, "details": None, "hint": None}
            for code, message in examples.items()
        }
        content = {JSON: _content("PostgrestError", bodies)}
        if status in refused:
            content |= _problem_content(refused.pop(status))
        found[f"Rest{name}"] = _response(status, description, content)
    for status, (problem,) in refused.items():
        content = _problem_content([problem])
        found[f"Rest{problem.__name__}"] = _response(status, problem.title, content)
    return found


def rest(*statuses: str, body: bool) -> dict[str, Response]:
    """Return references to the error responses of an operation of /rest/v1.

    `statuses` are those of PostgREST's own errors; the gateway's are added.
    """
    own = _by_status({*ON_REST} - {*(() if body else WITH_BODY)})
    names = {status: f"Rest{found[0].__name__}" for status, found in own.items()}
    names |= {
        status: f"Rest{POSTGREST[status][0]}" for status in (*statuses, *own.keys() & POSTGREST)
    }
    return {status: _reference(names[status]) for status in sorted(names)}


def error_responses(path: str, *, body: bool, token: bool) -> dict[str, Response]:
    """Return references to the error responses of one of the gateway's own operations."""
    found = {*ANY, *(WITH_BODY if body else ()), *(WITH_TOKEN if token else ())}
    for beyond in [own for start, own in BY_PATH.items() if path.startswith(start)] or [FOR_ALL]:
        found |= {*beyond}
    return {status: _reference(f"Problem{status}") for status in _by_status(found)}


def token_errors() -> dict[str, Response]:
    """Return the error responses of the endpoints at which clients authenticate."""
    wrong = {"error": "invalid_client", "error_description": WRONG_CREDENTIALS}
    scope = {"error": "invalid_scope", "error_description": "The client may ask for: read."}
    return {
        "400": _response(
            "400", "The request is malformed, or asks for more than the client may have.",
            {JSON: _content("TokenError", {"scope": scope})},
        ),
        "401": _response(
            "401", WRONG_CREDENTIALS, {JSON: _content("TokenError", {"wrong": wrong})}
        ),
        "429": _response(
            "429", TOO_MANY_ATTEMPTS,
            {JSON: _content("TokenError",
                            {"wait": wrong | {"error_description": TOO_MANY_ATTEMPTS}})},
        ),
    }  # fmt: skip


def _response(status: str, description: str, content: dict[str, Any]) -> Response:
    response: Response = {"description": description, "content": content}
    return response | ({"headers": RETRY_AFTER} if status in ("429", "503") else {})


def _reference(name: str) -> Response:
    return {"$ref": f"#/components/responses/{name}"}


def _by_status(classes: Iterable[type[Problem]]) -> dict[str, list[type[Problem]]]:
    found: dict[str, list[type[Problem]]] = {}
    for problem in problem_classes():
        if problem in classes:
            found.setdefault(str(problem.status), []).append(problem)
    return found


def _problem_content(problems: list[type[Problem]]) -> dict[str, Any]:
    bodies = {
        problem.code: {
            "type": "about:blank",
            "title": problem.title,
            "status": problem.status,
            "code": problem.code,
        }
        for problem in problems
    }
    return {PROBLEM_JSON: _content("Problem", bodies)}


def _content(schema: str, bodies: dict[str, Any]) -> dict[str, Any]:
    """Return a media type's schema with its example, or with several examples by name."""
    described: dict[str, Any] = {"schema": {"$ref": f"#/components/schemas/{schema}"}}
    if len(bodies) == 1:
        return described | {"example": next(iter(bodies.values()))}
    return described | {"examples": {name: {"value": body} for name, body in bodies.items()}}
