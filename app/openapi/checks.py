"""Conversion of CHECK constraints to JSON Schema: lists of values to `enum`, bounds to limits.

Constraints that JSON Schema cannot express (a remainder, a comparison of columns) are left out; the
database still enforces them.
"""

import re
from typing import Any

LIST = re.compile(
    r"^CHECK \(\(\(?(?P<column>\w+|\"[^\"]+\")\)?(?:::text)? = ANY \(\(?ARRAY\[(?P<values>.*)\]"
)
LITERAL = re.compile(r"'((?:[^']|'')*)'")
BOUND = re.compile(
    r"\(\(?(?P<column>\w+|\"[^\"]+\")\)?(?:::\w+)? (?P<operator>>=|<=|>|<) "
    r"\(?'?(?P<number>-?\d+(?:\.\d+)?)'?\)?(?:::\w+)?\)"
)
KEYWORDS = {
    ">=": "minimum",
    ">": "exclusiveMinimum",
    "<=": "maximum",
    "<": "exclusiveMaximum",
}  # fmt: skip


def keywords(column: str, checks: tuple[str, ...]) -> dict[str, Any]:
    """Return the JSON Schema keywords that follow from a column's constraints."""
    found: dict[str, Any] = {}
    for check in checks:
        if (listed := LIST.match(check)) and _named(listed, column):
            values = LITERAL.findall(listed["values"])
            found["enum"] = [value.replace("''", "'") for value in values]
        # A bound that is one part of an OR is not a bound by itself.
        elif " OR " not in check and "NOT " not in check:
            for bound in BOUND.finditer(check):
                if _named(bound, column):
                    number = float(bound["number"])
                    keyword = KEYWORDS[bound["operator"]]
                    found[keyword] = int(number) if number.is_integer() else number
    return found


def _named(match: re.Match[str], column: str) -> bool:
    return match["column"].strip('"') == column
