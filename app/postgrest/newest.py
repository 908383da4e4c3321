"""Requests for the newest rows of a series, which get the time those begin at as a filter.

A view that hides other ESCOs' rows takes no ORDER BY … LIMIT from outside: PostgreSQL would read
all rows of the ESCO and sort them. An index finds the time of its hundredth newest row at once.
"""

import logging
from dataclasses import dataclass
from datetime import UTC
from urllib.parse import parse_qsl

import psycopg
from psycopg_pool import PoolTimeout

from app.db.principal import Principal
from app.db.session import Pool, caller_session

logger = logging.getLogger(__name__)

LABELS = frozenset({"timestamp", "day", "month"})
# Parameters that leave out no row.
SHAPING = frozenset({"select", "order", "limit", "offset"})
MOST_NEWEST = 10_000
# A busy pool must not delay what PostgREST can answer without it.
WAIT_SECONDS = 0.2
SINCE = "select flows.newest_since(%s, %s) as since"


@dataclass(frozen=True, slots=True)
class Newest:
    """The newest `rows` of a relation by `label`, its column of time."""

    relation: str
    label: str
    rows: int


def newest_asked(method: str, target: str, headers: dict[str, str]) -> Newest | None:
    """Return the newest rows that a request asks for, with those it skips; None for any other."""
    path, _, query = target.partition("?")
    if method not in ("GET", "HEAD") or ".desc" not in query or "limit=" not in query:
        return None
    if "range" in headers or "count=" in headers.get("prefer", ""):
        return None  # the number of all rows would be that of the newest
    pairs = parse_qsl(query, keep_blank_values=True)
    asked = dict(pairs)
    # A resource that is embedded may leave out rows, and a function sums them.
    if len(asked) < len(pairs) or not asked.keys() <= SHAPING or "(" in asked.get("select", ""):
        return None
    label, *how = asked.get("order", "").split(",")[0].split(".")
    numbers = asked.get("limit", ""), asked.get("offset", "0")
    if label not in LABELS or how[:1] != ["desc"] or not all(n.isdecimal() for n in numbers):
        return None
    rows = sum(map(int, numbers))
    return Newest(path.strip("/"), label, rows) if 0 < rows <= MOST_NEWEST else None


async def bounded(
    pool: Pool, caller: Principal, method: str, target: str, headers: dict[str, str]
) -> str:
    """Return the target with a filter on time, if it asks for newest rows of the caller's ESCO.

    The filter leaves out none of them, and does not have to be there: without a connection to the
    database the target is returned as it is.
    """
    newest = newest_asked(method, target, headers)
    if newest is None or caller.esco is None:
        return target
    try:
        async with caller_session(pool, caller, WAIT_SECONDS) as connection:
            cursor = await connection.execute(SINCE, (newest.relation, newest.rows))
            row = await cursor.fetchone()
    except (psycopg.Error, PoolTimeout) as error:
        logger.info("the newest rows are asked for without their time: %s", str(error).strip())
        return target
    if row is None or row["since"] is None:
        return target
    since = row["since"].astimezone(UTC).isoformat().replace("+00:00", "Z")
    return f"{target}&{newest.label}=gte.{since}"
