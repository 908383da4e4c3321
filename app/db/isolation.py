"""The relations that callers see, and the ways of one caller into another's rows.

The tests' matrix and `flows prove` are both driven by this list, which is the catalogue's.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

CALLER_ROLES = ("flows", "public_backend")
# Everybody reads the same rows of these.
SHARED_RELATIONS = frozenset(("regions", "meter_metrics", "meter_event_log_type"))
# A view's check option is tested after the key: a caller who uses the key of another's row learns
# that the key is taken, but nothing is written.
REFUSED = (
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.WithCheckOptionViolation,
    psycopg.errors.UniqueViolation,
)
EXPOSED = """
    select relname from pg_catalog.pg_class
    where relnamespace = 'api'::regnamespace and relkind = 'v' order by relname collate "C"
"""
COLUMNS = """
    select attname from pg_catalog.pg_attribute
    where attrelid = %s::regclass and attnum > 0 and not attisdropped order by attnum
"""
KEY = """
    select a.attname from pg_catalog.pg_index as i
    join pg_catalog.pg_attribute as a on a.attrelid = i.indrelid and a.attnum = any(i.indkey)
    where i.indrelid = to_regclass(%s) and i.indisprimary
"""


@dataclass(frozen=True)
class ExposedRelation:
    """A relation of schema api, with the key of its base table (none for read-only views)."""

    name: str
    columns: list[str]
    key: list[str]

    @property
    def identifier(self) -> sql.Identifier:
        """The relation as a SQL identifier."""
        return sql.Identifier("api", self.name)

    @property
    def columns_sql(self) -> sql.Composed:
        """All columns, separated by commas."""
        return sql.SQL(", ").join(map(sql.Identifier, self.columns))


def exposed(connection: psycopg.Connection[Any]) -> list[str]:
    """Return all relations in the schema that PostgREST serves, sorted."""
    with connection.cursor(row_factory=tuple_row) as cursor:
        return [row[0] for row in cursor.execute(EXPOSED)]


def exposed_relations(connection: psycopg.Connection[Any]) -> Iterator[ExposedRelation]:
    """Yield all exposed relations."""
    for name in exposed(connection):
        with connection.cursor(row_factory=tuple_row) as cursor:
            columns = cursor.execute(COLUMNS, (f"api.{name}",)).fetchall()
            key = cursor.execute(KEY, (f"flows.{name}",)).fetchall()
        yield ExposedRelation(name, [row[0] for row in columns], [row[0] for row in key])


def become(
    connection: psycopg.Connection[Any], role: str, esco: str | None, member: str | None = None
) -> None:
    """Take a caller's role and ESCO, and a resident's person, for the rest of the transaction.

    What is a resident's own is found now, as gateway.authorize() does.
    """
    connection.execute(
        "select set_config('role', 'none', true), set_config('app.current_esco', %s, true)",
        (esco or "",),
    )
    connection.execute(
        "select flows.enter_as_resident(%s, %s::uuid), set_config('role', %s, true)",
        (member, esco or None, role),
    )


def may(
    connection: psycopg.Connection[Any], role: str, relation: ExposedRelation, verb: str
) -> bool:
    """Return True if a role is granted a verb at all."""
    with connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(
            "select has_table_privilege(%s, %s, %s)", (role, f"api.{relation.name}", verb)
        )
        return bool((cursor.fetchone() or (False,))[0])


def insertion(relation: ExposedRelation, *, upsert: bool) -> sql.Composed:
    """Return the INSERT of a JSON row as PostgREST writes it, with ON CONFLICT for an upsert."""
    statement = sql.SQL(
        "insert into {relation} ({columns}) select {columns}"
        " from jsonb_populate_record(null::{relation}, %s)"
    ).format(relation=relation.identifier, columns=relation.columns_sql)
    if not upsert:
        return statement
    return statement + sql.SQL(" on conflict ({}) do update set {}").format(
        sql.SQL(", ").join(map(sql.Identifier, relation.key)),
        sql.SQL(", ").join(
            sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name)) for name in relation.columns
        ),
    )


def rolled_back(
    connection: psycopg.Connection[Any], statement: sql.Composed, *args: object
) -> int | None:
    """Run a statement and roll it back; return the number of rows, or None if it was refused."""
    try:
        with connection.transaction(force_rollback=True):
            return connection.execute(statement, args).rowcount
    except REFUSED:
        return None
