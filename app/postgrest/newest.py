"""Requests for the newest rows of a series, which get the time those begin at as a filter.

A view that hides other ESCOs' rows takes no ORDER BY … LIMIT from outside: PostgreSQL would read
all rows of the ESCO and sort them. An index finds the time of its hundredth newest row at once.
In a large ESCO thousands of rows have that time; where any of them will do, a few are named.
"""

import logging
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import parse_qsl
from uuid import UUID

import psycopg
from psycopg_pool import PoolTimeout

from app.db.principal import Principal
from app.db.session import Pool, caller_session

logger = logging.getLogger(__name__)

LABELS = frozenset({"timestamp", "day", "month"})
# Parameters that leave out no row.
SHAPING = frozenset({"select", "order", "limit", "offset"})
MOST_NEWEST = 10_000
NUMBER_OF_ROWS = re.compile("[0-9]{1,9}")
# A busy pool must not delay what PostgREST can answer without it.
WAIT_SECONDS = 0.2
# With each key the target grows by 37 characters.
MOST_KEYS = 200
NEWEST_ROWS = "select since, key, keys from flows.newest_rows(%s, %s, %s)"


@dataclass(frozen=True, slots=True)
class Newest:
    """The newest `rows` of a relation by `label`, its column of time.

    With `ties`, any of the rows of one time will do.
    """

    relation: str
    label: str
    rows: int
    ties: bool


def newest_asked(method: str, target: str, headers: dict[str, str]) -> Newest | None:
    """Return the newest rows that a request asks for, with those it skips; None for any other."""
    path, _, query = target.partition("?")
    if method not in ("GET", "HEAD") or ".desc" not in query or "limit=" not in query:
        return None
    if headers.get("accept-profile", "api") != "api":
        return None  # a relation of another schema, which may have the same name
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
    return Newest(path.strip("/"), label, rows, ties=not others and rows <= MOST_KEYS)


async def bounded(
    pool: Pool, caller: Principal, method: str, target: str, headers: dict[str, str]
) -> str:
    """Return the target with a filter, if it asks for newest rows of the caller's ESCO.

    The filter is on time, and on keys where thousands of rows have the same time and any of them
    will do. It leaves out no row that has to be there, and is not needed itself: without a
    connection to the database the target is returned as it is.
    """
    newest = newest_asked(method, target, headers)
    if newest is None or caller.esco is None:
        return target
    try:
        async with caller_session(pool, caller, WAIT_SECONDS) as connection:
            cursor = await connection.execute(
                NEWEST_ROWS, (newest.relation, newest.rows, newest.ties)
            )
            row = await cursor.fetchone()
    except (psycopg.Error, PoolTimeout) as error:
        logger.info("the newest rows are asked for without their time: %s", str(error).strip())
        return target
    if row is None or row["since"] is None:
        return target
    return narrowed(target, newest.label, row["since"], row["key"], row["keys"])


def narrowed(target: str, label: str, since: datetime, key: str, keys: list[UUID] | None) -> str:
    """Return a target with a filter on its time, and on the keys if there are any."""
    target += f"&{label}=gte.{since.astimezone(UTC).isoformat().replace('+00:00', 'Z')}"
    return f"{target}&{key}=in.({','.join(map(str, keys))})" if keys else target
