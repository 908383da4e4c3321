"""PostgreSQL types as JSON Schema: what PostgREST sends and takes for a value of each."""

import re
from typing import Any

JsonSchema = dict[str, Any]

TYPES: dict[str, JsonSchema] = {
    "boolean": {"type": "boolean"},
    "smallint": {"type": "integer", "format": "int32", "minimum": -(2**15), "maximum": 2**15 - 1},
    "integer": {"type": "integer", "format": "int32", "minimum": -(2**31), "maximum": 2**31 - 1},
    "bigint": {"type": "integer", "format": "int64"},
    "numeric": {"type": "number"},
    "real": {"type": "number", "format": "float"},
    "double precision": {"type": "number", "format": "double"},
    "uuid": {"type": "string", "format": "uuid"},
    "date": {"type": "string", "format": "date"},
    "timestamp with time zone": {"type": "string", "format": "date-time"},
    "interval": {"type": "string", "format": "interval", "examples": ["02:00:00"]},
    "inet": {"type": "string", "format": "inet", "examples": ["10.20.0.7"]},
    "text": {"type": "string"},
    "character varying": {"type": "string"},
    "character": {"type": "string"},
    "json": {},
    "jsonb": {},
}
RANGES = frozenset({"int4range", "int8range", "numrange", "tsrange", "tstzrange", "daterange"})
# An empty range, or bounds of which either may be left out; a bound with a comma is quoted.
RANGE_PATTERN = r'^(empty|[\[(]("[^"]*"|[^,"]*),("[^"]*"|[^,"]*)[\])])$'


def json_schema(postgres_type: str) -> JsonSchema:
    """Return the schema of a value of that type, null not included.

    A type that JSON Schema has no word for is a string whose `format` is the type's name.
    """
    name = re.sub(r"\(\d+(,\s*\d+)?\)", "", postgres_type)
    if name.endswith("[]"):
        # PostgreSQL keeps no number of dimensions and lets any element be null.
        return {"type": "array", "items": nullable(json_schema(name[:-2]))}
    if name in RANGES:
        return {"type": "string", "pattern": RANGE_PATTERN}
    return dict(TYPES.get(name, {"type": "string", "format": name}))


def nullable(schema: JsonSchema) -> JsonSchema:
    """Return a schema that takes null too."""
    if "type" not in schema:
        return schema  # takes anything already
    allowed = schema | {"type": [schema["type"], "null"]}
    return allowed | {"enum": [*schema["enum"], None]} if "enum" in schema else allowed
