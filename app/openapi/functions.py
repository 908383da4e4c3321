"""Operations for functions of /rest/v1/rpc: arguments from Swagger, results from the catalogue."""

from typing import Any

from app.openapi import examples, names, responses
from app.openapi.facts import Facts, FunctionFacts
from app.openapi.types import JsonSchema, json_schema, nullable

ERRORS = ("400", "401", "403", "404", "406", "422", "500", "504")


def functions(swagger: dict[str, Any], facts: Facts) -> dict[str, Any]:
    """Return path → path item for each function that PostgREST serves and the role may call."""
    items = {}
    for path in sorted(swagger["paths"]):
        name = path.removeprefix("/rpc/")
        if path.startswith("/rpc/") and name in facts.functions:
            known = facts.relations.keys() & swagger["definitions"].keys()
            items[path] = _path_item(name, swagger["paths"][path], facts.functions[name], known)
    return items


def _path_item(
    name: str, swagger: dict[str, Any], facts: FunctionFacts, relations: set[str]
) -> dict[str, Any]:
    body: dict[str, Any] = next(
        (p["schema"] for p in swagger["post"].get("parameters", []) if p.get("in") == "body"), {}
    )
    arguments = {
        argument: _argument(argument, described, facts.arguments[argument])
        for argument, described in body.get("properties", {}).items()
    }
    required = list(body.get("required", []))
    call = _operation("call", name, swagger, facts, relations)
    schema: JsonSchema = {"type": "object", "properties": arguments, "additionalProperties": False}
    example = {argument: one["examples"][0] for argument, one in arguments.items()}
    call["requestBody"] = {
        "required": bool(required),
        "content": {
            responses.JSON: {
                "schema": schema | ({"required": required} if required else {}),
                "example": example,
            }
        },
    }
    if facts.volatile:
        return {"post": call}
    read = _operation("get", name, swagger, facts, relations)
    read["parameters"] = [
        {"name": argument, "in": "query", "required": argument in required, "schema": one}
        for argument, one in arguments.items()
    ]
    return {"get": read, "post": call}


def _operation(
    verb: str, name: str, swagger: dict[str, Any], facts: FunctionFacts, relations: set[str]
) -> dict[str, Any]:
    described = swagger["post"]
    scope = "write" if facts.volatile else "read"
    operation: dict[str, Any] = {
        # Do not repeat the verb of a function that is named get_….
        "operationId": names.operation_id(verb, name.removeprefix(f"{verb}_")),
        "tags": [names.tag(facts.relation or name)],
        "summary": described.get("summary") or f"Call {name}",
        "security": [{"oauth2": [scope]}, {"bearer": []}],
    }
    if about := described.get("description"):
        operation["description"] = about
    answers: dict[str, responses.Response]
    if facts.type == "void":
        answers = {"204": {"description": "Done."}}
    else:
        content = {responses.JSON: {"schema": _result(facts, relations)}}
        answers = {"200": {"description": "The result.", "content": content}}
    if verb == "call":
        refusals = responses.rest(*ERRORS, "415", body=True)
    else:
        refusals = responses.rest(*ERRORS, body=False)
    return operation | {"responses": answers | refusals}


def _argument(name: str, swagger: dict[str, Any], kind: str) -> JsonSchema:
    schema = json_schema(kind)
    if about := swagger.get("description"):
        schema["description"] = about
    return schema | {"examples": [examples.value(name, schema)]}


def _shown(name: str, kind: str) -> JsonSchema:
    """Return the schema of a value of a result, which may be null, with an example."""
    schema = json_schema(kind)
    return nullable(schema) | {"examples": [examples.value(name, schema)]}


def _result(facts: FunctionFacts, relations: set[str]) -> JsonSchema:
    if facts.relation and facts.relation in relations:
        row: JsonSchema = {"$ref": f"#/components/schemas/{names.pascal(facts.relation)}"}
    elif facts.columns:
        columns = {column: _shown(column, kind) for column, kind in facts.columns.items()}
        row = {"type": "object", "properties": columns, "required": list(columns)}
    else:
        row = _shown("", facts.type)
    return {"type": "array", "items": row} if facts.returns_set else row
