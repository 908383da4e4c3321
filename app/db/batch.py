"""Batches: several statements sent to PostgreSQL together, in one round trip.

Psycopg's own pipeline waits for the socket with each statement; a batch waits for its answers once.
"""

import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import psycopg
from psycopg import AsyncConnection, pq
from psycopg.adapt import PyFormat, Transformer
from psycopg.errors import error_from_result
from psycopg.waiting import READY_R, WAIT_R, WAIT_RW

PARAMETER = re.compile(r"%\((\w+)\)s")
NO_PARAMETERS: Mapping[str, Any] = {}
# Statements that a connection prepares; those beyond are planned each time.
MOST_PREPARED = 100
ROWS_AT_A_TIME = 1000


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """A statement with parameters `%(name)s`, in which `%%` is one %.

    `keep` prepares it, so that its plan may be kept.
    """

    sql: str
    parameters: Mapping[str, Any] = field(default_factory=lambda: NO_PARAMETERS)
    keep: bool = True

    @property
    def key(self) -> tuple[str, str]:
        """The text of the statement and of its parameters."""
        return self.sql, repr(self.parameters)


class QueryRows:
    """The rows that a statement returned."""

    def __init__(self, connection: AsyncConnection[Any], result: pq.abc.PGresult) -> None:
        self._transformer = Transformer(connection)
        self.result = result

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        """Yield the rows as tuples, which are made some at a time."""
        self._transformer.set_pgresult(self.result)
        count = self.result.ntuples
        for first in range(0, count, ROWS_AT_A_TIME):
            yield from self._transformer.load_rows(first, min(first + ROWS_AT_A_TIME, count), tuple)

    def tuples(self) -> list[tuple[Any, ...]]:
        """Return the rows as tuples."""
        return list(self)

    def dicts(self) -> list[dict[str, Any]]:
        """Return the rows as dictionaries: column → value."""
        names = [
            (self.result.fname(number) or b"").decode() for number in range(self.result.nfields)
        ]
        return [dict(zip(names, row, strict=True)) for row in self]


class EarlyRows:
    """The rows of queries that were sent with the beginning of a transaction.

    In its snapshot a query has the same rows later, so that it need not be sent again. Rows are
    kept until they are asked for.
    """

    def __init__(self, queries: Sequence[Query] = (), rows: Sequence[QueryRows] = ()) -> None:
        self._rows = {query.key: found for query, found in zip(queries, rows, strict=True)}

    async def rows(
        self, connection: AsyncConnection[Any], queries: Sequence[Query]
    ) -> list[QueryRows]:
        """Return the rows of queries; those that are not here are sent in one round trip."""
        missing = [query for query in queries if query.key not in self._rows]
        if missing:
            found = await run_batch(connection, missing)
            self._rows |= {query.key: rows for query, rows in zip(missing, found, strict=True)}
        asked = [self._rows[query.key] for query in queries]
        for query in queries:  # one may be asked for twice
            self._rows.pop(query.key, None)
        return asked


@lru_cache(2048)
def _numbered(sql: str) -> tuple[bytes, tuple[str, ...]]:
    """Return the statement with its parameters as $1, $2, …, and their names in that order."""
    names = tuple(dict.fromkeys(PARAMETER.findall(sql)))
    number = {name: f"${index}" for index, name in enumerate(names, 1)}
    return PARAMETER.sub(lambda found: number[found[1]], sql).replace("%%", "%").encode(), names


_numbers = count()
# Statement and types of its parameters → its name, for each connection.
_prepared: WeakKeyDictionary[AsyncConnection[Any], dict[tuple[bytes, tuple[int, ...]], bytes]] = (
    WeakKeyDictionary()
)

# Behind a PgBouncer the next transaction may be on another server, which knows no statement.
_unprepared: WeakSet[AsyncConnection[Any]] = WeakSet()


async def never_prepare(connection: AsyncConnection[Any]) -> None:
    """Prepare none of a connection's statements."""
    _unprepared.add(connection)


async def run_batch(connection: AsyncConnection[Any], queries: Sequence[Query]) -> list[QueryRows]:
    """Run statements in order and return the rows of each; the first error ends the batch.

    The statements alone decide whether they belong to one transaction.
    """
    was_idle = connection.pgconn.transaction_status == pq.TransactionStatus.IDLE
    try:
        return await _run(connection, queries)
    except psycopg.errors.InvalidSqlStatementName:
        # After some rollbacks Psycopg deallocates all statements, also these.
        _prepared.pop(connection, None)
        is_idle = connection.pgconn.transaction_status == pq.TransactionStatus.IDLE
        if not (was_idle and is_idle):
            raise
        return await _run(connection, queries)


async def fetch_rows(
    connection: AsyncConnection[Any], sql: str, **parameters: Any
) -> list[dict[str, Any]]:
    """Return the rows of one statement, in one round trip also if it is a transaction of its own.

    Psycopg takes two more, to begin and to end that transaction.
    """
    (rows,) = await run_batch(connection, [Query(sql, parameters)])
    return rows.dicts()


async def _run(connection: AsyncConnection[Any], queries: Sequence[Query]) -> list[QueryRows]:
    async with connection.lock:
        pgconn = connection.pgconn
        known = _prepared.setdefault(connection, {})
        added: list[tuple[bytes, tuple[int, ...]]] = []
        pgconn.enter_pipeline_mode()
        try:
            preparing = [_send(connection, query, known, added) for query in queries]
            pgconn.pipeline_sync()
            results = await connection.wait(_exchange(pgconn))
        except BaseException:
            for key in added:
                known.pop(key, None)
            raise
        finally:
            try:
                pgconn.exit_pipeline_mode()
            except psycopg.Error:
                pgconn.finish()  # answers are left unread: nobody may use the connection again
    answers = iter(results)
    found = []
    for is_preparing in preparing:
        if is_preparing:
            next(answers)
        found.append(QueryRows(connection, next(answers)))
    return found


def _send(
    connection: AsyncConnection[Any],
    query: Query,
    known: dict[tuple[bytes, tuple[int, ...]], bytes],
    added: list[tuple[bytes, tuple[int, ...]]],
) -> bool:
    """Send a statement; return whether it is prepared before, which has an answer of its own."""
    pgconn = connection.pgconn
    sql, names = _numbered(query.sql)
    transformer = Transformer(connection)
    given = [query.parameters[name] for name in names]
    values = transformer.dump_sequence(given, [PyFormat.TEXT] * len(given))
    types = tuple(transformer.types or ())
    key = (sql, types)
    name = known.get(key)
    keeps = query.keep and connection not in _unprepared and len(known) < MOST_PREPARED
    if name is None and not keeps:
        pgconn.send_query_params(sql, values, param_types=types)
        return False
    is_preparing = name is None
    if name is None:
        name = known[key] = b"flows_%d" % next(_numbers)
        added.append(key)
        pgconn.send_prepare(name, sql, param_types=types)
    pgconn.send_query_prepared(name, values)
    return is_preparing


def _exchange(pgconn: pq.abc.PGconn) -> Generator[Any, Any, list[pq.abc.PGresult]]:
    """Send what is waiting and return the answers up to the end of the batch."""
    while pgconn.flush():
        if (yield WAIT_RW) & READY_R:
            pgconn.consume_input()
    results: list[pq.abc.PGresult] = []
    error: pq.abc.PGresult | None = None
    while True:
        while pgconn.is_busy():
            if (yield WAIT_R):
                pgconn.consume_input()
        result = pgconn.get_result()
        if result is None:
            if pgconn.status == pq.ConnStatus.BAD:
                raise psycopg.OperationalError("the connection is lost")
            continue  # the end of one statement's answers
        if result.status == pq.ExecStatus.PIPELINE_SYNC:
            break
        if result.status == pq.ExecStatus.FATAL_ERROR:
            error = error or result
        results.append(result)
    if error is not None:
        raise error_from_result(error)
    return results
