"""Conversion of columns to JSON Schema properties, from PostgREST's Swagger and the catalogue."""

import re
from typing import Any

from app.openapi import examples
from app.openapi.checks import keywords
from app.openapi.facts import ColumnFacts, RelationFacts
from app.openapi.types import JsonSchema, json_schema, nullable

# The marks that PostgREST writes into the description of a key column.
PRIMARY_KEY = "<pk/>"
FOREIGN_KEY = re.compile(r"<fk table='(?P<table>[^']+)' column='(?P<column>[^']+)'/>")
NOTE = re.compile(r"\s*Note:\n.*", re.DOTALL)


def value_schema(
    relation: str, name: str, swagger: dict[str, Any], facts: ColumnFacts
) -> JsonSchema:
    """Return the schema of the column's values, null excluded, with an example."""
    schema = json_schema(facts.type)
    if allowed := swagger.get("enum"):
        schema["enum"] = allowed
    if longest := swagger.get("maxLength"):
        schema["maxLength"] = longest
    for keyword, limit in keywords(name, facts.checks).items():
        opposite = {"exclusiveMinimum": "minimum", "exclusiveMaximum": "maximum"}.get(keyword)
        if opposite:
            schema.pop(opposite, None)
        schema[keyword] = limit
    return schema | {"examples": [examples.value(name, schema, relation)]}


def property_schema(
    relation: str,
    name: str,
    swagger: dict[str, Any],
    facts: ColumnFacts,
    *,
    read_only: bool = False,
) -> JsonSchema:
    """Return the column of a relation as a property of a row."""
    value = value_schema(relation, name, swagger, facts)
    schema = value if facts.not_null else nullable(value)
    if text := description(swagger):
        schema["description"] = text
    if read_only:
        schema["readOnly"] = True
    return schema


def meaning(swagger: dict[str, Any]) -> str:
    """Return the column's comment, which gives its meaning and unit."""
    return NOTE.sub("", str(swagger.get("description", ""))).strip()


def description(swagger: dict[str, Any]) -> str:
    """Return the column's comment and the keys it belongs to, as sentences."""
    text = str(swagger.get("description", ""))
    sentences = [meaning(swagger)]
    if PRIMARY_KEY in text:
        sentences.append("Part of the primary key.")
    if refers := FOREIGN_KEY.search(text):
        sentences.append(f"Refers to `{refers['table']}.{refers['column']}`.")
    return " ".join(sentence for sentence in sentences if sentence)


def is_key(swagger: dict[str, Any]) -> bool:
    """Return whether the column is the primary key or part of it."""
    return PRIMARY_KEY in str(swagger.get("description", ""))


def refers_to(swagger: dict[str, Any]) -> str | None:
    """Return the relation that the column's foreign key references, or None."""
    found = FOREIGN_KEY.search(str(swagger.get("description", "")))
    return found["table"] if found else None


def row_schemas(name: str, swagger: dict[str, Any], facts: RelationFacts) -> dict[str, JsonSchema]:
    """Return the schemas of a row, by suffix: complete, "Selection", "Insert" and "Update".

    In a complete row all columns are required and may be null; with `select` only the selected
    columns are present. An insert requires the columns that are neither nullable nor defaulted.
    """
    columns = {
        column: (described, facts.columns[column])
        for column, described in swagger.get("properties", {}).items()
        if column in facts.columns
    }
    read = {
        column: property_schema(
            name,
            column,
            described,
            fact,
            read_only=facts.writable and not (fact.insert or fact.update),
        )
        for column, (described, fact) in columns.items()
    }
    about = _first_line(str(swagger.get("description", ""))) or f"A row of `{name}`."
    schemas = {
        "": _object(about, read, list(read)),
        "Selection": _object(f"The columns of `{name}` that `select` names.", read, []),
    }
    written = {
        column: property_schema(name, column, described, fact)
        for column, (described, fact) in columns.items()
    }
    if facts.insert:
        inserted = {column: written[column] for column, (_, fact) in columns.items() if fact.insert}
        needed = [
            column
            for column in inserted
            if facts.columns[column].not_null and not facts.columns[column].has_default
        ]
        schemas["Insert"] = _object(f"A new row of `{name}`.", inserted, needed, closed=True)
    if facts.update:
        updated = {column: written[column] for column, (_, fact) in columns.items() if fact.update}
        schemas["Update"] = _object(f"Changes to rows of `{name}`.", updated, [], closed=True)
    return schemas


def _object(
    description: str,
    properties: dict[str, JsonSchema],
    required: list[str],
    *,
    closed: bool = False,
) -> JsonSchema:
    schema: JsonSchema = {"type": "object", "description": description, "properties": properties}
    if required:
        schema["required"] = required
    if closed:
        schema["additionalProperties"] = False
    return schema


def _first_line(comment: str) -> str:
    return comment.strip().split("\n", 1)[0]
