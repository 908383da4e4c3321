"""Advice for a filter without its operator, which PostgREST refuses without showing one."""

import re
from urllib.parse import parse_qsl

# The parameters of PostgREST that are no filters, also those of an embedded relation.
NO_FILTERS = re.compile(
    r"(.+\.)?(select|order|limit|offset|and|or|not\.and|not\.or)|columns|on_conflict"
)
FILTER_OPERATOR = re.compile(
    r"(not\.)?(eq|neq|gte?|lte?|like|ilike|i?match|in|is|isdistinct|cs|cd|ov|s[lr]|nx[lr]|adj"
    r"|(pl|ph|w)?fts)(\(\w+\))?\."
)
MOST_CHARACTERS = 80


def filter_hint(query: bytes) -> str | None:
    """Return how the first filter without an operator should be written; None if all have one."""
    for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        if not NO_FILTERS.fullmatch(name) and not FILTER_OPERATOR.match(value):
            written = f"{name}=eq.{value}"
            if len(written) > MOST_CHARACTERS:
                written = f"{written[:MOST_CHARACTERS]}…"
            return f"A filter begins with its operator: {written}"
    return None
