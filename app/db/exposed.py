"""Further schemas that PostgREST exposes: those whose relations all decide who sees a row."""

from typing import Any

import psycopg
from psycopg import sql

UNGUARDED = "select schema, relation, reason from gateway.unguarded_relations(%s)"
SCHEMA_CHECK_SECONDS = 5


class SchemaRefused(Exception):  # noqa: N818  (a schema was refused)
    """A schema cannot be exposed; the message is for the user."""


def expose_schemas(connection: psycopg.Connection[Any], schemas: tuple[str, ...]) -> None:
    """Let PostgREST expose these schemas and no others; SchemaRefused names what is unguarded."""
    if reason := _unguarded(connection, schemas):
        raise SchemaRefused(reason)
    database = connection.info.dbname
    connection.execute(
        sql.SQL("alter database {} set flows.exposed_schemas = {}").format(
            sql.Identifier(database), sql.Literal(", ".join(schemas))
        )
    )


def check_exposed(url: str, schemas: tuple[str, ...]) -> str | None:
    """Return the reason why a gateway cannot serve these schemas, or None if it can.

    It is None also if the database does not answer: it may start later, and PostgREST then exposes
    only those that are guarded.
    """
    if not schemas:
        return None
    try:
        with psycopg.connect(url, connect_timeout=SCHEMA_CHECK_SECONDS) as connection:
            return _unguarded(connection, schemas)
    except psycopg.OperationalError:
        return None


def _unguarded(connection: psycopg.Connection[Any], schemas: tuple[str, ...]) -> str | None:
    found = connection.execute(UNGUARDED, (list(schemas),)).fetchall()
    if not found:
        return None
    lines = [f"{schema}.{relation}: {reason}" if relation else f"{schema}: {reason}"
             for schema, relation, reason in found]  # fmt: skip
    return "FLOWS_POSTGREST_SCHEMAS names what cannot be exposed:\n  " + "\n  ".join(lines)
