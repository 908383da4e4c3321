"""The gateway's own routes as FastAPI describes them, completed with facts it does not know."""

from collections.abc import Set as AbstractSet
from typing import Any

from app.openapi import examples, responses

# Types of values; titles of objects and of choices name what generators make of them.
VALUES = frozenset({"string", "integer", "number", "boolean", "array"})
OPERATION_KEYS = frozenset({"get", "put", "post", "patch", "delete", "head", "options"})
# The value of this member is the scope a token must have to see the operation in its document.
SCOPE_MARK = "x-flows-scope"
# The same for all operations below a path.
SCOPED_PATHS = {"/admin": "admin"}
# Paths for operators, which no document contains, whatever their routes say.
HIDDEN = ("/metrics", "/internal")

TOKEN = {
    "type": "object",
    "description": "An access token (RFC 6749 §5.1).",
    "properties": {
        "access_token": {"type": "string", "description": "Send it as `Authorization: Bearer`."},
        "token_type": {"const": "Bearer"},
        "expires_in": {"type": "integer", "description": "Seconds.", "examples": [3600]},
        "scope": {"type": "string", "examples": ["read write"]},
        "issued_token_type": {
            "const": "urn:ietf:params:oauth:token-type:access_token",
            "description": "With token exchange (RFC 8693 §2.2.1).",
        },
    },
    "required": ["access_token", "token_type", "expires_in", "scope"],
}  # fmt: skip
ARRAYS = {"type": "object", "additionalProperties": {"type": "array", "items": {}}}
COLUMNS = {
    "type": "object",
    "description": "The members of the JSON, with arrays instead of `rows`: `intervals` and "
    "`groups` for energy and balances, `columns` for others.",
    "properties": {
        "intervals": ARRAYS,
        "groups": {"type": "array", "items": {"type": "object"}},
        "columns": ARRAYS,
    },
}
INTROSPECTED = {
    "type": "object",
    "description": "The state of a token (RFC 7662 §2.2); for an invalid token only `active`.",
    "properties": {"active": {"type": "boolean"}},
    "required": ["active"],
}
JWKS = {
    "type": "object",
    "description": "The public keys that verify tokens (RFC 7517 §5).",
    "properties": {
        "keys": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "kty": {"const": "RSA"},
                    "kid": {"type": "string", "description": "In the header of its tokens."},
                    "use": {"const": "sig"},
                    "alg": {"const": "RS256"},
                    "n": {"type": "string", "description": "The modulus, in base64url."},
                    "e": {"type": "string", "description": "The exponent, in base64url."},
                },
                "required": ["kty", "kid", "n", "e"],
            },
        }
    },
    "required": ["keys"],
}
METADATA = {
    "type": "object",
    "description": "The authorization server's metadata (RFC 8414 §2).",
    "properties": {
        "issuer": {"type": "string", "format": "uri", "examples": ["https://gateway.example.org"]},
        "token_endpoint": {"type": "string", "format": "uri"},
        "jwks_uri": {"type": "string", "format": "uri"},
        "response_types_supported": {"type": "array", "items": {"type": "string"}},
        "grant_types_supported": {"type": "array", "items": {"type": "string"}},
        "scopes_supported": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["issuer", "token_endpoint", "jwks_uri", "response_types_supported"],
}
# Routes that FastAPI knows no schema of: path → schema of the response.
UNTYPED_PATHS: dict[str, dict[str, Any]] = {
    "/.well-known/jwks.json": JWKS,
    "/.well-known/oauth-authorization-server": METADATA,
}
# Endpoints at which a client authenticates with its secret: path → schema of the response.
CLIENT_PATHS: dict[str, dict[str, Any] | None] = {
    "/auth/token": {"$ref": "#/components/schemas/Token"},
    "/auth/introspect": INTROSPECTED,
    "/auth/revoke": None,
}


def paths(
    described: dict[str, Any], secured: AbstractSet[tuple[str, str]], scopes: AbstractSet[str]
) -> dict[str, Any]:
    """Return the path items for a caller with `scopes`.

    `secured` holds (method, path) of the operations that need a token.
    """
    items: dict[str, Any] = {}
    known = schemas(described) | {"Token": TOKEN}
    for path, item in _untitled(described["paths"]).items():
        if path.startswith(HIDDEN):
            continue
        operations = {
            method: _shown(_operation(method, path, operation, (method, path) in secured), known)
            for method, operation in item.items()
            if method in OPERATION_KEYS and _scope(path, operation) in {"", *scopes}
        }
        if operations:
            items[path] = operations
    return items


def schemas(described: dict[str, Any]) -> dict[str, Any]:
    """Return the component schemas of the gateway's routes, without FastAPI's validation errors."""
    unused = ("HTTPValidationError", "ValidationError")
    found = described.get("components", {}).get("schemas", {})
    return {name: _untitled(found[name]) for name in found if name not in unused}


def _untitled(node: Any) -> Any:
    """Return a copy without the titles of values, with which Pydantic says their names again."""
    if isinstance(node, list):
        return [_untitled(one) for one in node]
    if not isinstance(node, dict):
        return node
    named = node.get("type") in VALUES and "enum" not in node
    return {name: _untitled(of) for name, of in node.items() if not (named and name == "title")}


def _operation(method: str, path: str, operation: dict[str, Any], secured: bool) -> dict[str, Any]:
    needed = _scope(path, operation)
    operation.pop(SCOPE_MARK, None)
    # Required parameters come first on the page.
    operation.get("parameters", []).sort(key=lambda one: not one.get("required", False))
    answers = operation["responses"]
    if _is_framework_validation(answers.get("422", {})):
        del answers["422"]
    if path in UNTYPED_PATHS:
        answers["200"]["content"] = {responses.JSON: {"schema": UNTYPED_PATHS[path]}}
    if path in CLIENT_PATHS:
        schema = CLIENT_PATHS[path]
        answers["200"].pop("content", None)
        if schema:
            answers["200"]["content"] = {responses.JSON: {"schema": schema}}
        answers |= responses.token_errors()
    if secured:
        scopes = [needed] if needed else ["read"]
        operation["security"] = [{"oauth2": scopes}, {"bearer": []}]
    else:
        operation["security"] = []
    body = "requestBody" in operation
    problems = responses.error_responses(path, body=body, token=secured)
    operation["responses"] = dict(sorted((problems | answers).items()))
    return operation


def _shown(operation: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """Return an operation with examples of its parameters, its body and its answers."""
    for parameter in operation.get("parameters", ()):
        schema = parameter["schema"]
        if "default" not in schema and not schema.keys() & {"examples", "enum"}:
            schema["examples"] = [examples.whole(schema, known, parameter["name"])]
    for content in operation.get("requestBody", {}).get("content", {}).values():
        if not content.keys() & {"example", "examples"}:
            content["example"] = _part(content["schema"], known)
    for status, answer in operation["responses"].items():
        told = answer.get("content", {}).get(responses.JSON, {}) if status.startswith("2") else {}
        if told and not told.keys() & {"example", "examples"}:
            told["example"] = examples.whole(told["schema"], known)
    return operation


def _part(schema: dict[str, Any], known: dict[str, Any]) -> Any:
    """Return an example of a body, of the first member alone where none is required."""
    schema = known.get(str(schema.get("$ref", "")).rpartition("/")[2], schema)
    body = examples.whole(schema, known)
    needed = "required" in schema or not isinstance(body, dict)
    return body if needed else dict([*body.items()][:1])


def _scope(path: str, operation: dict[str, Any]) -> str:
    """Return the scope that an operation requires in addition to a valid token; "" for none."""
    below = (scope for start, scope in SCOPED_PATHS.items() if path.startswith(start))
    return str(operation.get(SCOPE_MARK) or next(below, ""))


def _is_framework_validation(response: dict[str, Any]) -> bool:
    schema = response.get("content", {}).get(responses.JSON, {}).get("schema", {})
    return str(schema.get("$ref", "")).endswith("/HTTPValidationError")
