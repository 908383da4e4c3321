"""Requests for the newest rows of a series, asked of the function that finds those alone.

A view that hides other ESCOs' rows takes no ORDER BY … LIMIT from outside: PostgreSQL would read
all rows of the ESCO and sort them. The functions are in sql/objects/084_newest.sql.
"""

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote

LABELS = frozenset({"timestamp", "day", "month"})
SERIES = re.compile("/(?:register|meter|circuit)_[a-z0-9_]+")
# Parameters that leave out no row.
SHAPING = frozenset({"select", "order", "limit", "offset"})
MOST_NEWEST = 10_000
NUMBER_OF_ROWS = re.compile("[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class Newest:
    """A request for newest rows: the `target` that finds them, and the client's own."""

    target: str
    asked: str

    @property
    def content_location(self) -> bytes:
        """The Content-Location of the answer, as PostgREST gives that of a relation."""
        path, _, query = self.asked.partition("?")
        pairs = sorted(parse_qsl(query, keep_blank_values=True), key=lambda pair: pair[0])
        return (
            f"{path}?{'&'.join(f'{quote(name)}={quote(value)}' for name, value in pairs)}".encode()
        )


def newest_asked(
    method: str, target: str, headers: dict[str, str], *, resident: bool = False
) -> Newest | None:
    """Return how the newest rows are found that a request asks for; None for any other request."""
    path, _, query = target.partition("?")
    if method not in ("GET", "HEAD") or ".desc" not in query or "limit=" not in query:
        return None
    if not SERIES.fullmatch(path) or headers.get("accept-profile", "api") != "api":
        return None
    if "range" in headers or "count=" in headers.get("prefer", ""):
        return None  # the number of all rows would be that of the newest
    pairs = parse_qsl(query, keep_blank_values=True)
    asked = dict(pairs)
    # A resource that is embedded may leave out rows, and a function sums them.
    if len(asked) < len(pairs) or not asked.keys() <= SHAPING or "(" in asked.get("select", ""):
        return None
    first, *others = asked.get("order", "").split(",")
    label, *how = first.split(".")
    numbers = asked.get("limit", ""), asked.get("offset", "0")
    if (
        label not in LABELS
        or how[:1] != ["desc"]
        or not all(map(NUMBER_OF_ROWS.fullmatch, numbers))
    ):
        return None
    rows = sum(map(int, numbers))
    if not 0 < rows <= MOST_NEWEST:
        return None
    # Any of the rows of one time will do, unless there is an order among them or another page.
    ties = "true" if others or asked.get("offset", "0") != "0" else "false"
    found = f"newest_own_{path[1:]}" if resident else f"newest_{path[1:]}"
    return Newest(f"/rpc/{found}?rows={rows}&with_ties={ties}&{query}", target)
