"""Bounds of what a query may cost: patterns, nested conditions, casts, and what is embedded.

A pattern without a repeated group or a back-reference is matched in time that grows with the text
alone, and an answer in which no relation is within itself does not multiply its rows with each
level; what else is slow ends at the statement timeout of the caller's role.
"""

import re
from collections import Counter
from functools import lru_cache
from urllib.parse import unquote_plus

from app.errors import CostlyFilterError
from app.postgrest.select import embedded_relation, words

MOST_DEPTH = 8  # of and() and or() in one another
MOST_WILDCARDS = 8
MOST_PATTERN = 200  # characters
MOST_PATTERNS = 20
MOST_REPEATS = 100
MOST_EMBEDDED = 30
MOST_SELECTED = 300  # columns, also of what is embedded
MOST_TIMES = 3  # that a column of a relation is selected, and a relation embedded
# Types that write a value in about as many characters as it is read from. Eight of a text are a
# `numeric` of 131,072 digits, and a few more a `jsonb` of many such numbers.
CASTS = frozenset({
    "text", "varchar", "character varying", "char", "character", "bpchar", "name", "boolean",
    "bool", "smallint", "int2", "integer", "int", "int4", "bigint", "int8", "real", "float4",
    "float", "double precision", "float8", "date", "time", "time without time zone", "timetz",
    "time with time zone", "timestamp", "timestamp without time zone", "timestamptz",
    "timestamp with time zone", "interval", "uuid", "json", "inet", "cidr",
})  # fmt: skip

# PostgREST reads what follows them otherwise than app/postgrest/select.py, and no name has them.
UNREADABLE = re.compile(r"[\\\x00-\x1f]")

# Each `operator.value` of a query, also within and(), or() and with any() or all().
REGEX = re.compile(r"\b(?:i?match)(?:\((?:any|all)\))?\.(.*?)(?=,[\w.>-]+\.\w|$)", re.DOTALL)
LIKE = re.compile(r"\b(?:i?like)(?:\((?:any|all)\))?\.(.*?)(?=,[\w.>-]+\.\w|$)", re.DOTALL)
REPEATED_GROUP = re.compile(r"\)\s*[*+?{]")
BACK_REFERENCE = re.compile(r"\\[1-9]")
QUANTIFIER = re.compile(r"\{(\d*)(?:,(\d*))?\}")
GROUPING = re.compile(rb"\b(?:and|or)(?:=|%3d)?\(|match|like|%6d|%4d", re.IGNORECASE)


def check_cost(query: bytes, relation: str = "") -> None:
    """Raise CostlyFilterError for a query of a relation that may cost more than its rows."""
    if _is_plain(query):
        return
    patterns = 0
    for pair in re.split(rb"[&;]", query):
        name, _, value = (unquote_plus(part.decode("latin-1")) for part in pair.partition(b"="))
        if name == "select":
            _check_select(value, relation)
        if name.rpartition(".")[2] in ("and", "or"):
            _check_depth(value)
        for found in REGEX.findall(value):
            _check_regex(found)
            patterns += 1
        for found in LIKE.findall(value):
            if len(re.findall(r"[%*]+", found)) > MOST_WILDCARDS:
                raise CostlyFilterError(f"A pattern has more than {MOST_WILDCARDS} wildcards")
            patterns += 1
    if patterns > MOST_PATTERNS:
        raise CostlyFilterError(f"There are more than {MOST_PATTERNS} patterns")


@lru_cache(maxsize=256)  # of clients that ask the same again and again
def _is_plain(query: bytes) -> bool:
    """Return whether the query has nothing in it that may cost much."""
    return (
        not GROUPING.search(query)
        and b"%" not in query
        and b"(" not in query
        and _names_columns_once(query)
    )


def _names_columns_once(query: bytes) -> bool:
    """Return whether the select, if there is one, is a short list of columns without aliases."""
    _, found, rest = query.partition(b"select=")
    names = re.split(rb"[&;]", rest, maxsplit=1)[0].split(b",")
    once = len(set(names)) == len(names) < MOST_SELECTED and not any(b":" in one for one in names)
    return not found or (once and b"select=" not in rest)


def _check_depth(value: str) -> None:
    depth = 0
    for char in value:
        depth += (char == "(") - (char == ")")
        if depth > MOST_DEPTH:
            raise CostlyFilterError(f"and() and or() are nested more than {MOST_DEPTH} deep")


def _check_select(select: str, relation: str) -> None:
    """Refuse a relation within itself, `relation(alias:relation!hint(…))`, and very much."""
    if select.count(",") >= MOST_SELECTED:
        raise CostlyFilterError(f"More than {MOST_SELECTED} columns are selected")
    if UNREADABLE.search(select):
        raise CostlyFilterError("The select has a backslash or a control character")
    relations = 0
    times: Counter[object] = Counter()
    for path, word, opens in words(select):
        if opens:
            relations += 1
            if relations > MOST_EMBEDDED:
                raise CostlyFilterError(f"More than {MOST_EMBEDDED} relations are embedded")
            named = embedded_relation(word).relation
            if named in (relation, *(step.relation for step in path)):
                raise CostlyFilterError(f"{named} is embedded within itself")
            selected: object = named
        else:
            # Of `alias:column->>member::type`.
            column, _, cast = word.partition("::")
            if cast and cast.strip().lower() not in CASTS:
                raise CostlyFilterError(f"A column is cast to {cast.strip()[:40]}")
            named = column.rpartition(":")[2].partition("->")[0].strip(' "')
            selected = (path, named)
        times[selected] += 1
        if times[selected] > MOST_TIMES:
            raise CostlyFilterError(f"{named} is selected more than {MOST_TIMES} times")


def _check_regex(pattern: str) -> None:
    if len(pattern) > MOST_PATTERN:
        raise CostlyFilterError(f"A pattern has more than {MOST_PATTERN} characters")
    if REPEATED_GROUP.search(pattern):
        raise CostlyFilterError("A pattern repeats a group")
    if BACK_REFERENCE.search(pattern):
        raise CostlyFilterError("A pattern refers back to a group")
    for bounds in QUANTIFIER.findall(pattern):
        if any(bound and int(bound) > MOST_REPEATS for bound in bounds):
            raise CostlyFilterError(f"A pattern repeats more than {MOST_REPEATS} times")
