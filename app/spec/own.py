"""The gateway's own routes, as FastAPI describes them, with what it cannot know added."""

from collections.abc import Set as AbstractSet
from copy import deepcopy
from typing import Any

import orjson

from app.spec import names, responses

METHODS = frozenset({"get", "put", "post", "patch", "delete", "head", "options"})
# An operation with this mark is shown only to a token that carries the scope it names.
SCOPE_MARK = "x-flows-scope"
# For operators: never in a document, whether or not their routes say so.
HIDDEN = ("/metrics", "/admin", "/internal")
TOKEN_PATH = "/auth/token"  # noqa: S105

TOKEN = {
    "type": "object",
    "description": "An access token (RFC 6749 §5.1).",
    "properties": {
        "access_token": {"type": "string", "description": "Send it as `Authorization: Bearer`."},
        "token_type": {"const": "Bearer"},
        "expires_in": {"type": "integer", "description": "Seconds.", "examples": [3600]},
        "scope": {"type": "string", "examples": ["read write"]},
    },
    "required": ["access_token", "token_type", "expires_in", "scope"],
}  # fmt: skip


def readable(described: dict[str, Any]) -> dict[str, Any]:
    """Name the forms that FastAPI calls `Body_…` after their operation: `CreateTokenForm`."""
    text = orjson.dumps(described)
    for path, item in described["paths"].items():
        for method in item:
            form = names.pascal(names.route_operation_id(method, path)) + "Form"
            body = f"Body_{item[method]['operationId']}"
            text = text.replace(f'"{body}"'.encode(), f'"{form}"'.encode())
            text = text.replace(f'/{body}"'.encode(), f'/{form}"'.encode())
    renamed: dict[str, Any] = orjson.loads(text)
    return renamed


def paths(
    described: dict[str, Any], secured: AbstractSet[tuple[str, str]], scopes: AbstractSet[str]
) -> dict[str, Any]:
    """Return the path items for a caller with `scopes`; `secured` (method, path) need a token."""
    items: dict[str, Any] = {}
    for path, item in deepcopy(described["paths"]).items():
        if path.startswith(HIDDEN):
            continue
        operations = {
            method: _operation(method, path, operation, (method, path) in secured)
            for method, operation in item.items()
            if method in METHODS and operation.get(SCOPE_MARK, "") in {"", *scopes}
        }
        if operations:
            items[path] = operations
    return items


def schemas(described: dict[str, Any]) -> dict[str, Any]:
    """Return the component schemas of the own routes, FastAPI's validation errors left out."""
    unused = ("HTTPValidationError", "ValidationError")
    found = described.get("components", {}).get("schemas", {})
    return {name: deepcopy(found[name]) for name in found if name not in unused}


def _operation(method: str, path: str, operation: dict[str, Any], secured: bool) -> dict[str, Any]:
    needed = operation.pop(SCOPE_MARK, None)
    operation["operationId"] = names.route_operation_id(method, path)
    answers = operation["responses"]
    if _is_framework_validation(answers.get("422", {})):
        del answers["422"]
    if path == TOKEN_PATH:
        answers["200"]["content"] = {
            responses.JSON: {"schema": {"$ref": "#/components/schemas/Token"}}
        }
        answers |= responses.token_errors() | responses.problems("429", "503")
        operation["security"] = []
        return operation
    if secured:
        scopes = [needed] if needed else ["read"]
        operation["security"] = [{"oauth2": scopes}, {"bearer": []}]
        operation["responses"] = responses.problems(*responses.OWN) | answers
    else:
        operation["security"] = []
    return operation


def _is_framework_validation(response: dict[str, Any]) -> bool:
    schema = response.get("content", {}).get(responses.JSON, {}).get("schema", {})
    return str(schema.get("$ref", "")).endswith("/HTTPValidationError")
