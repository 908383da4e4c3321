"""Query parameters and `Prefer` of a relation, as choices that work when they are tried."""

from typing import Any

from app.openapi import examples
from app.openapi.types import JsonSchema

Parameter = dict[str, Any]

# Names that PostgREST reads as something other than a column.
RESERVED = frozenset(("select", "order", "limit", "offset", "columns", "on_conflict"))
LOGICAL = frozenset(("and", "or", "not.and", "not.or"))

COMPARE = ("eq", "neq", "gt", "gte", "lt", "lte")


def filter_parameter(
    column: str, schema: JsonSchema, *, not_null: bool, meaning: str = ""
) -> Parameter:
    """Return the filter of one column: what it holds, its operators; `schema` is of its values.

    Numbers and times may be given twice (`gte.` and `lt.`): they are lists. Values are free text,
    since the documentation page turns one without operator into `eq.`.
    """
    tried = trials(column, schema, not_null=not_null)
    told = " · ".join(f"`{trial}` {finds}" for trial, finds in tried)
    text: JsonSchema = {"type": "string", "examples": [trial for trial, _ in tried]}
    parameter: Parameter = {
        "name": column,
        "in": "query",
        "description": f"{meaning}\n\n{told}".strip(),
        "schema": text,
    }
    if "gte" in operators(schema):
        parameter |= {"schema": {"type": "array", "items": text}, "explode": True, "style": "form"}
        parameter["description"] += " · with two values both must hold"
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
    """Return (value to type, what it finds) for each operator of the column."""
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
        "like": (f"like.{text[:3]}*", "matches (* is anything)"),
        "ilike": (f"ilike.*{text[:3].lower()}*", "matches in any case"),
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
    """Return `select`: columns, everything, or the rows of a related relation."""
    return _choices(
        "select",
        "Columns to return, by comma; all by default. `relation(*)` adds the related rows, "
        "`relation(column,…)` some of their columns; `alias:column` renames, `column->key` looks "
        "into JSON.",
        ["*", *columns, *(f"{relation}(*)" for relation in embeddable)],
    )


def order(columns: list[str]) -> Parameter:
    """Return `order`: columns with their direction."""
    return _choices(
        "order",
        "Sort by these, by comma. Nulls come last in `asc` and first in `desc`, unless "
        "`.nullsfirst` or `.nullslast` follows.",
        [f"{column}.{way}" for column in columns for way in ("asc", "desc")],
    )


def on_conflict(columns: list[str]) -> Parameter:
    """Return `on_conflict`: the columns of the unique key that decides what a duplicate is."""
    return _choices(
        "on_conflict",
        "With `Prefer: resolution=…`: the columns, by comma, of the unique key that tells a "
        "duplicate; the primary key by default.",
        columns,
    )


def _choices(name: str, description: str, choices: list[str]) -> Parameter:
    """Return a parameter that lists choices by comma; the documentation page lets one tick them.

    It is a string: generated clients repeat the parameter of a list, and PostgREST reads the first.
    """
    schema = {"type": "string", "examples": choices}
    return {"name": name, "in": "query", "description": description, "schema": schema}


def prefer(*choices: str) -> Parameter:
    """Return the `Prefer` header (RFC 7240) with the preferences that apply here."""
    single = dict.fromkeys(part for choice in choices for part in choice.split(","))
    return {
        "name": "Prefer",
        "in": "header",
        "description": " · ".join(f"`{one}` {PREFERENCES[one]}" for one in single),
        "schema": {"type": "string", "enum": list(choices)},
    }


PREFERENCES = {
    "count=exact": "says in `Content-Range` how many rows there are",
    "return=representation": "answers with the rows",
    "return=minimal": "answers with nothing (as without it)",
    "return=headers-only": "answers with `Location` only",
    "resolution=merge-duplicates": "updates rows that exist (upsert)",
    "resolution=ignore-duplicates": "leaves rows that exist",
    "missing=default": "gives left out columns their default",
}

LIMIT_PARAMETER: Parameter = {
    "name": "limit",
    "in": "query",
    "description": "At most so many rows.",
    "schema": {"type": "integer", "minimum": 0, "examples": [20]},
}
OFFSET_PARAMETER: Parameter = {
    "name": "offset",
    "in": "query",
    "description": "Skip so many rows; give `order` too, or pages may overlap.",
    "schema": {"type": "integer", "minimum": 0, "examples": [0]},
}
