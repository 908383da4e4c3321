"""Error responses: problem+json of the gateway, RFC 6749 of the token endpoint, PostgREST's own."""

from typing import Any

from app.errors import PROBLEM_JSON
from app.openapi.types import JsonSchema

Response = dict[str, Any]
JSON = "application/json"

SCHEMAS: dict[str, JsonSchema] = {
    "Problem": {
        "type": "object",
        "description": "An error of the gateway (RFC 9457); `code` is stable, for programs.",
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "code": {"type": "string"},
            "detail": {"type": ["string", "null"]},
            "errors": {
                "type": "array",
                "description": "Each parameter that has a value that is not allowed.",
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
                ],
            },
            "error_description": {"type": "string"},
        },
        "required": ["error"],
    },
}

# status → name of the response, description, PostgREST's code, message.
REST = {
    "400": ("BadRequest", "A filter, a body or a parameter is malformed.",
            "PGRST100", '"failed to parse filter (EML1)"'),
    "401": ("Unauthorized", "No token, or one that is not valid (any more).",
            "PGRST301", "A valid access token is needed"),
    "403": ("Forbidden", "The token does not allow this, or a row would be another ESCO's.",
            "42501", "permission denied for view meter_registry"),
    "404": ("NotFound", "There is no such relation, function or column.",
            "42883", "operator does not exist"),
    "406": ("NotAcceptable", "Not available in that form, or not exactly one row.",
            "PGRST116", "JSON object requested, multiple (or no) rows returned"),
    "409": ("Conflict", "A row with that key exists, or another row refers to this one.",
            "23505", "duplicate key value violates unique constraint"),
    "413": ("TooLarge", "The body is too large.", "FLOWS413", "The body is too large"),
    "415": ("UnsupportedMediaType", "The body is of a type that is not taken.",
            "PGRST102", "Content-Type not acceptable"),
    "416": ("RangeNotSatisfiable", "`offset` is past the last row.",
            "PGRST103", "Requested range not satisfiable"),
    "422": ("Unprocessable", "The body does not fit.", "22P02", "invalid input syntax"),
    "429": ("TooManyRequests", "A rate limit is used up; `Retry-After` says when to come back.",
            "FLOWS429", "Too many requests"),
    "503": ("Unavailable", "The database or PostgREST does not answer right now.",
            "PGRST002", "Could not query the database for the schema cache. Retrying."),
    "504": ("Timeout", "The query took too long.",
            "57014", "canceling statement due to statement timeout"),
}  # fmt: skip

PROBLEMS = {
    "400": ("bad_request", "The request cannot be understood"),
    "401": ("unauthorized", "A valid access token is needed"),
    "403": ("forbidden", "The token does not allow this"),
    "404": ("not_found", "There is nothing here"),
    "406": ("not_acceptable", "None of the formats asked for is available"),
    "422": ("invalid_parameter", "A parameter has a value that is not allowed"),
    "429": ("rate_limited", "Too many requests"),
    "500": ("internal_error", "Something failed inside the gateway"),
    "503": ("unavailable", "A service behind the gateway does not answer"),
    "504": ("timeout", "The query took too long; ask for a shorter range"),
}
OWN = ("401", "403", "404", "422", "429", "503", "504")

RETRY_AFTER = {
    "Retry-After": {
        "description": "Seconds to wait before the next try.",
        "schema": {"type": "string"},
    }
}


def components() -> dict[str, Response]:
    """Return the shared responses: `Rest…` for /rest/v1, `Problem…` for the gateway's routes."""
    rest = {
        f"Rest{name}": _response(
            status,
            description,
            {
                JSON: _content(
                    "PostgrestError",
                    {"code": code, "message": message, "details": None, "hint": None},
                )
            },
        )
        for status, (name, description, code, message) in REST.items()
    }
    own = {
        f"Problem{status}": _response(
            status, title, {PROBLEM_JSON: _content("Problem", _problem(status, code, title))}
        )
        for status, (code, title) in PROBLEMS.items()
    }
    # A refusal at the door comes before PostgREST is asked.
    for status, (name, *_) in REST.items():
        if status in PROBLEMS:
            rest[f"Rest{name}"]["content"] |= own[f"Problem{status}"]["content"]
    return rest | own


def rest(*statuses: str) -> dict[str, Response]:
    """Return references to the error responses of an operation of /rest/v1."""
    return {
        status: {"$ref": f"#/components/responses/Rest{REST[status][0]}"} for status in statuses
    }


def problems(*statuses: str) -> dict[str, Response]:
    """Return references to the error responses of one of the gateway's own operations."""
    return {status: {"$ref": f"#/components/responses/Problem{status}"} for status in statuses}


def token_errors() -> dict[str, Response]:
    """Return the error responses of the endpoints that a client authenticates at."""
    wrong = {"error": "invalid_client", "error_description": "The client id or secret is wrong."}
    scope = {"error": "invalid_scope", "error_description": "The client may ask for: read."}
    return {
        "400": _response(
            "400", "The request is malformed, or asks for more than the client may have.",
            {JSON: _content("TokenError", scope)},
        ),
        "401": _response(
            "401", "The client id or secret is wrong.", {JSON: _content("TokenError", wrong)}
        ),
        "429": _response(
            "429", "Too many wrong secrets.",
            {JSON: _content("TokenError", wrong | {"error_description": "Wait."})},
        ),
    }  # fmt: skip


def _response(status: str, description: str, content: dict[str, Any]) -> Response:
    response: Response = {"description": description, "content": content}
    return response | ({"headers": RETRY_AFTER} if status in ("429", "503") else {})


def _content(schema: str, example: dict[str, Any]) -> dict[str, Any]:
    return {"schema": {"$ref": f"#/components/schemas/{schema}"}, "example": example}


def _problem(status: str, code: str, title: str) -> dict[str, Any]:
    return {"type": "about:blank", "title": title, "status": int(status), "code": code}
