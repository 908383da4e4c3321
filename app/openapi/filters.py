"""Query parameters and `Prefer` header of a relation, with examples that work as they are."""

from typing import Any

from app.openapi import examples
from app.openapi.types import JsonSchema

Parameter = dict[str, Any]

# Names of query parameters that PostgREST does not read as columns.
RESERVED = frozenset(("select", "order", "limit", "offset", "columns", "on_conflict"))
LOGICAL = frozenset(("and", "or", "not.and", "not.or"))

# A value without its operator is refused; the documentation page adds `eq.` to one.
FILTER_PATTERN = (
    r"^(not\.)?(eq|neq|gte?|lte?|like|ilike|i?match|in|is|isdistinct|cs|cd|ov|s[lr]|nx[lr]|adj"
    r"|(pl|ph|w)?fts)(\([a-z_]+\))?\."
)

COMPARE = ("eq", "neq", "gt", "gte", "lt", "lte")


def filter_parameter(
    column: str, schema: JsonSchema, *, not_null: bool, meaning: str = ""
) -> Parameter:
    """Return the filter parameter of a column, with its meaning and an example per operator.

    `schema` is the schema of the column's values. Filters on numbers and times are lists, because
    they may be given twice (`gte.` and `lt.`).
    """
    tried = trials(column, schema, not_null=not_null)
    told = " · ".join(f"`{trial}` {finds}" for trial, finds in tried)
    text: JsonSchema = {
        "type": "string",
        "pattern": FILTER_PATTERN,
        "examples": [trial for trial, _ in tried],
    }
    parameter: Parameter = {
        "name": column,
        "in": "query",
        "description": f"{meaning}\n\n{told}".strip(),
        "schema": text,
    }
    if "gte" in operators(schema):
        parameter |= {"schema": {"type": "array", "items": text}, "explode": True, "style": "form"}
        parameter["description"] += " · if given twice, both must hold"
    return parameter


def operators(schema: JsonSchema) -> tuple[str, ...]:
    """Return the operators that make sense for a column's values."""
    kind = schema.get("type")
    if kind == "boolean":
        return ("is",)
    if kind == "array":
        return ("cs", "cd", "ov")
    if "pattern" in schema:
        return ("cs", "ov", "sl", "sr")
    if kind in ("integer", "number") or schema.get("format") in ("date-time", "date"):
        return (*COMPARE, "in")
    if kind is None:
        return ("cs",)
    if "enum" in schema or "format" in schema:
        return ("eq", "neq", "in")
    return ("eq", "neq", "like", "ilike", "in")


def trials(column: str, schema: JsonSchema, *, not_null: bool) -> list[tuple[str, str]]:
    """Return (example value, explanation) for each operator of the column."""
    value = examples.value(column, schema)
    text = str(value).lower() if isinstance(value, bool) else str(value)
    several = ",".join(str(one) for one in schema.get("enum", [value])[:2])
    inner = ",".join(str(one) for one in value) if isinstance(value, list) else ""
    meanings = {
        "eq": (f"eq.{text}", "equal"),
        "neq": (f"neq.{text}", "not equal"),
        "gt": (f"gt.{text}", "greater"),
        "gte": (f"gte.{text}", "greater or equal"),
        "lt": (f"lt.{text}", "less"),
        "lte": (f"lte.{text}", "less or equal"),
        "like": (f"like.{text[:3]}*", "matches the pattern (* is any text)"),
        "ilike": (f"ilike.*{text[:3].lower()}*", "matches the pattern in upper or lower case"),
        "in": (f"in.({several})", "one of"),
        "is": ("is.true", "or `is.false`"),
        "cs": (f"cs.{{{inner}}}", "contains"),
        "cd": (f"cd.{{{inner}}}", "is contained in"),
        "ov": (f"ov.{{{inner}}}", "overlaps"),
        "sl": ("sl.empty", "strictly left of"),
        "sr": ("sr.empty", "strictly right of"),
    }
    if "pattern" in schema:
        meanings |= {"cs": ("cs.empty", "contains"), "ov": ("ov.empty", "overlaps")}
    found = [meanings[operator] for operator in operators(schema)]
    return found if not_null else [*found, ("is.null", "has no value")]


def select(columns: list[str], embeddable: list[str]) -> Parameter:
    """Return the parameter `select`: columns, and rows of related relations."""
    return _choices(
        "select",
        "Columns to return, separated by commas; all by default. `relation(*)` adds related rows, "
        "`relation(column,…)` some of their columns; `alias:column` renames, `column->key` reads "
        "a key of JSON.",
        ["*", *columns, *(f"{relation}(*)" for relation in embeddable)],
    )


def order(columns: list[str]) -> Parameter:
    """Return the parameter `order`: columns with their direction."""
    return _choices(
        "order",
        "Columns to sort by, separated by commas. Nulls come last in `asc` and first in `desc`, "
        "unless `.nullsfirst` or `.nullslast` follows.",
        [f"{column}.{way}" for column in columns for way in ("asc", "desc")],
    )


def on_conflict(columns: list[str]) -> Parameter:
    """Return the parameter `on_conflict`: the unique key by which duplicates are recognized."""
    return _choices(
        "on_conflict",
        "With `Prefer: resolution=…`: the columns, separated by commas, of the unique key by which "
        "duplicates are recognized; the primary key by default.",
        columns,
    )


def _choices(name: str, description: str, choices: list[str]) -> Parameter:
    """Return a parameter for a comma-separated list; the documentation page offers the choices.

    Its type is string: for an array, generated clients would repeat the parameter, of which
    PostgREST reads only the first.
    """
    schema = {"type": "string", "examples": choices}
    return {"name": name, "in": "query", "description": description, "schema": schema}


def prefer(*choices: str) -> Parameter:
    """Return the `Prefer` header (RFC 7240) with the given preferences."""
    single = dict.fromkeys(part for choice in choices for part in choice.split(","))
    return {
        "name": "Prefer",
        "in": "header",
        "description": " · ".join(f"`{one}` {PREFERENCES[one]}" for one in single),
        "schema": {"type": "string", "enum": list(choices)},
    }


PREFERENCES = {
    "count=exact": "returns the number of rows in `Content-Range`",
    "return=representation": "returns the rows",
    "return=minimal": "returns no body (the default)",
    "return=headers-only": "returns only the `Location` header",
    "resolution=merge-duplicates": "updates existing rows (upsert)",
    "resolution=ignore-duplicates": "leaves existing rows unchanged",
    "missing=default": "sets columns that are left out to their defaults",
}

LIMIT_PARAMETER: Parameter = {
    "name": "limit",
    "in": "query",
    "description": "Greatest number of rows to return.",
    "schema": {"type": "integer", "minimum": 0, "examples": [20]},
}
OFFSET_PARAMETER: Parameter = {
    "name": "offset",
    "in": "query",
    "description": "Number of rows to skip; give `order` as well, or pages may overlap.",
    "schema": {"type": "integer", "minimum": 0, "examples": [0]},
}
