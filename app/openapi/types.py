"""Conversion of PostgreSQL types to JSON Schema, as PostgREST sends and accepts their values."""

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
    "timestamp without time zone": {
        "type": "string",
        "format": "timestamp",
        "examples": ["2026-11-01T00:00:00"],
    },
    "interval": {"type": "string", "format": "interval", "examples": ["02:00:00"]},
    "inet": {"type": "string", "format": "inet", "examples": ["10.20.0.7"]},
    "text": {"type": "string"},
    "character varying": {"type": "string"},
    "character": {"type": "string"},
    "json": {},
    "jsonb": {},
}
RANGES = frozenset({"int4range", "int8range", "numrange", "tsrange", "tstzrange", "daterange"})
# An empty range, or two bounds, each of which may be left out; a bound with a comma is quoted.
RANGE_PATTERN = r'^(empty|[\[(]("[^"]*"|[^,"]*),("[^"]*"|[^,"]*)[\])])$'


def json_schema(postgres_type: str) -> JsonSchema:
    """Return the schema of a value of this type, null excluded.

    A type without a counterpart in JSON Schema is a string whose `format` is the type's name.
    """
    name = re.sub(r"\(\d+(,\s*\d+)?\)", "", postgres_type)
    if name.endswith("[]"):
        # PostgreSQL does not fix the number of dimensions, and any element may be null.
        return {"type": "array", "items": nullable(json_schema(name[:-2]))}
    if name in RANGES:
        return {"type": "string", "pattern": RANGE_PATTERN}
    return dict(TYPES.get(name, {"type": "string", "format": name}))


def nullable(schema: JsonSchema) -> JsonSchema:
    """Return the schema extended by null."""
    if "type" not in schema:
        return schema  # accepts anything already
    allowed = schema | {"type": [schema["type"], "null"]}
    return allowed | {"enum": [*schema["enum"], None]} if "enum" in schema else allowed
