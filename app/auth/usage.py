"""Usage of the API: calls, rows and bytes of each client and day.

A gateway counts in memory and adds its counts to the database's every few seconds, so that a crash
loses no more than those of a few seconds and no request waits for them.
"""

import asyncio
import logging
import time
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta

import psycopg
from psycopg.rows import DictRow
from psycopg_pool import PoolTimeout

from app.auth.clients import Actor
from app.db.principal import Principal
from app.db.session import Connection, Pool
from app.errors import Unprocessable

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 5.0
DAY_SECONDS = 86_400
# Days of a list where none are asked for, and the most by its rows.
USUAL_DAYS = 30
MOST_DAYS = {"client": 800, "day": 92}

# In one order, so that gateways that add at the same time do not wait for each other in a circle.
ADD = """
    insert into gateway.usage as known (day, client, esco, calls, rows, bytes, received)
    select * from unnest(
        %s::date[], %s::text[], %s::uuid[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[]
    ) as added (day, client, esco, calls, rows, bytes, received)
    order by added.day, added.client, added.esco
    on conflict (day, client, esco) do update set
        calls = known.calls + excluded.calls,
        rows = known.rows + excluded.rows,
        bytes = known.bytes + excluded.bytes,
        received = known.received + excluded.received
"""
# A client, a token of a job, or an app in a browser, whose people are counted together.
USAGE = """
    select {day} as day, used.client as client_id, coalesce(client.name, token.name, app.name)
        as name, used.esco, esco.code as esco_code, sum(used.calls)::bigint as calls,
        sum(used.rows)::bigint as rows, sum(used.bytes)::bigint as bytes,
        sum(used.received)::bigint as received
    from gateway.usage as used
    left join gateway.escos() as esco on esco.id = used.esco
    left join gateway.client as client on client.id = used.client
    left join gateway.token as token on 'token:' || token.jti = used.client
    left join gateway.app as app on app.id = used.client
    where used.day >= %(first)s and used.day < %(stop)s
        and (%(esco)s::uuid is null or used.esco = %(esco)s)
        and (%(client)s::text is null or used.client = %(client)s)
    group by 1, 2, 3, 4, 5 order by 1 desc, bytes desc, calls desc, 2, 5
"""

# Client, ESCO as text (empty for none), and day since 1970.
_Key = tuple[str, str, int]


class UsageCounts:
    """The counts of one gateway process; `open` it to have them added to the database."""

    def __init__(self) -> None:
        self._counts: dict[_Key, list[int]] = {}
        self._pool: Pool | None = None
        self._task: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    def add(self, caller: Principal, rows: int, size: int, received: int) -> None:
        """Count a request with a body of `received` bytes that returned `rows` in one of `size`."""
        key = (caller.client_id, caller.tenant, int(time.time() // DAY_SECONDS))
        counts = self._counts.get(key)
        if counts is None:
            self._counts[key] = [1, rows, size, received]
        else:
            counts[0] += 1
            counts[1] += rows
            counts[2] += size
            counts[3] += received

    def open(self, pool: Pool) -> None:
        """Begin to add the counts to the database."""
        self._pool = pool
        self._task = asyncio.create_task(self._flush_repeatedly())

    async def close(self) -> None:
        """Add the last counts, if the database takes them at once."""
        self._closing.set()
        if self._task:
            await self._task

    async def flush(self) -> None:
        """Add the counts to the database's; keep them if that fails."""
        counts, self._counts = self._counts, {}
        if not counts or self._pool is None:
            return
        try:
            async with asyncio.timeout(FLUSH_SECONDS), self._pool.connection() as connection:
                await connection.execute(ADD, _columns(counts))
        except (psycopg.Error, PoolTimeout, TimeoutError) as error:
            self._keep(counts)
            logger.warning("usage is not recorded yet: %s", str(error).strip() or "no answer")

    def _keep(self, counts: dict[_Key, list[int]]) -> None:
        for key, lost in counts.items():
            own = self._counts.setdefault(key, [0, 0, 0, 0])
            own[:] = [one + other for one, other in zip(own, lost, strict=True)]

    async def _flush_repeatedly(self) -> None:
        while not self._closing.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_SECONDS):
                    await self._closing.wait()
            await self.flush()


async def list_usage(
    connection: Connection,
    actor: Actor,
    *,
    first: date,
    stop: date,
    by_day: bool = False,
    client: str | None = None,
) -> list[DictRow]:
    """Return calls, rows and bytes of the clients that the actor may see, from `first` to `stop`.

    Days are those of UTC, `stop` is exclusive; `day` is null in sums of all days.
    """
    statement = USAGE.format(day="used.day" if by_day else "null::date")
    period = {"first": first, "stop": stop, "esco": actor.esco, "client": client}
    return await (await connection.execute(statement.encode(), period)).fetchall()


def choose_days(first: date | None, stop: date | None, by: str) -> tuple[date, date]:
    """Return the first day and the day after the last, where either may be left out.

    Unprocessable for a period that is empty or longer than lists by client or by day may be.
    """
    stop = stop or datetime.now(UTC).date() + timedelta(days=1)
    most = MOST_DAYS[by]
    if first is None:
        first = date.fromordinal(max(1, stop.toordinal() - USUAL_DAYS))
    if not 0 < (stop - first).days <= most:
        raise Unprocessable(f"day_to: must be 1 to {most} days after day_from")
    return first, stop


def _columns(counts: dict[_Key, list[int]]) -> list[list[object]]:
    """Return the columns of the table, as lists."""
    epoch = date(1970, 1, 1)
    rows = [
        (epoch + timedelta(days=day), client, esco or None, *counted)
        for (client, esco, day), counted in counts.items()
    ]
    return [list(column) for column in zip(*rows, strict=True)]
