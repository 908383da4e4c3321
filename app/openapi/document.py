"""Assembly of the OpenAPI 3.1 document from PostgREST's converted part and the gateway's routes."""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.openapi import filters, names, own, responses
from app.openapi.facts import Facts
from app.openapi.functions import functions
from app.openapi.relations import relations

GUIDE = Path(__file__).parent / "guide.md"
REST_PATH = "/rest/v1"
SCOPE_DESCRIPTIONS = {
    "read": "Read the ESCO's data.",
    "write": "Change the ESCO's data.",
    "admin": "Manage the ESCO's clients.",
}


@dataclass(frozen=True, slots=True)
class Frame:
    """The parts that the documents of all callers share."""

    base_url: str
    version: str
    own: dict[str, Any]
    secured: frozenset[tuple[str, str]]
    sign_in: dict[str, Any] | None = None  # the security scheme of people, if they can sign in


def build(
    frame: Frame, swagger: dict[str, Any], facts: Facts, scopes: AbstractSet[str]
) -> dict[str, Any]:
    """Return the document for a role with the rights in `facts` and a token with `scopes`."""
    exposed = relations(swagger, facts)
    paths = own.paths(frame.own, frame.secured, scopes)
    paths |= {f"{REST_PATH}/{relation.name}": relation.path_item() for relation in exposed}
    paths |= {REST_PATH + path: item for path, item in functions(swagger, facts).items()}
    schemas = own.schemas(frame.own) | responses.SCHEMAS
    schemas |= {"Token": own.TOKEN, "Columns": own.COLUMNS}
    parameters = {"limit": filters.LIMIT_PARAMETER, "offset": filters.OFFSET_PARAMETER}
    for relation in exposed:
        schemas |= relation.schemas()
        parameters |= relation.parameters()
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "Flows",
            "summary": "Prepayment smart meters of energy communities.",
            "description": GUIDE.read_text().replace("{base_url}", frame.base_url),
            "version": frame.version,
        },
        "servers": [{"url": frame.base_url}],
        "tags": _tags(paths),
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "parameters": parameters,
            "responses": responses.components(),
            "securitySchemes": _security_schemes(frame),
        },
    }
    return _without_unused(document)


def only_tags(document: dict[str, Any], tags: AbstractSet[str]) -> dict[str, Any]:
    """Return a document with the operations of some tags, and the components that they need."""
    paths = {}
    for path, item in document["paths"].items():
        kept = {
            method: operation
            for method, operation in item.items()
            if not tags.isdisjoint(operation.get("tags", ()))
        }
        if kept:
            paths[path] = kept
    components = {kind: dict(named) for kind, named in document["components"].items()}
    small = document | {"paths": paths, "components": components}
    small["tags"] = [tag for tag in document["tags"] if tag["name"] in tags]
    return _without_unused(small)


def _tags(paths: dict[str, Any]) -> list[dict[str, str]]:
    used = {
        tag
        for item in paths.values()
        for operation in item.values()
        for tag in operation.get("tags", [])
    }
    known = [{"name": tag, "description": names.TAGS[tag]} for tag in names.TAGS if tag in used]
    return known + [{"name": tag} for tag in sorted(used - names.TAGS.keys())]


def _security_schemes(frame: Frame) -> dict[str, Any]:
    schemes: dict[str, Any] = {
        "oauth2": {
            "type": "oauth2",
            "description": "A client's id and secret, exchanged for a token when needed.",
            "flows": {
                "clientCredentials": {
                    "tokenUrl": f"{frame.base_url}/auth/token",
                    "scopes": SCOPE_DESCRIPTIONS,
                }
            },
        },
        "bearer": {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "JWT",
            "description": "An access token that you already have.",
        },
    }
    return schemes | ({"openIdConnect": frame.sign_in} if frame.sign_in else {})


def _without_unused(document: dict[str, Any]) -> dict[str, Any]:
    """Return the document without components that are not referenced, directly or indirectly."""
    components = document["components"]
    while True:
        used = set(_references(document))
        unused = [
            (kind, name)
            for kind in ("schemas", "parameters", "responses")
            for name in components[kind]
            if f"#/components/{kind}/{name}" not in used
        ]
        if not unused:
            return document
        for kind, name in unused:
            del components[kind][name]


def _references(node: Any) -> list[str]:
    if isinstance(node, dict):
        found = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return found + [one for value in node.values() for one in _references(value)]
    if isinstance(node, list):
        return [one for value in node for one in _references(value)]
    return []
