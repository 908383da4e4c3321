"""Copying the rows of an existing Flows database into a newly migrated one."""

from collections.abc import Callable

import psycopg
from psycopg import sql

# Configuration tables, in an order that foreign keys allow; they are copied before the series.
CONFIGURATION = (
    "regions", "escos", "sites_new", "properties", "feeder_registry", "service_head_registry",
    "meter_registry", "meter_shadows", "meter_registers", "meter_tophat_registry", "circuits",
    "meter_metrics", "meter_event_log_type", "ev_chargers", "service_head_meter",
    "properties_service_head", "circuit_register",
)  # fmt: skip
# Half-hours come before counter reads, from which half-hours would be derived otherwise.
SERIES = """
    select name from flows.series() where key <> 'circuit_id'
    order by name <> 'register_interval_hh', key desc, name
"""
# Faster than information_schema.columns, which takes ten times as long for the same columns.
COLUMNS = """
    select c.relname, a.attname
    from pg_catalog.pg_attribute as a
    join pg_catalog.pg_class as c on c.oid = a.attrelid
    where c.relnamespace = to_regnamespace('flows') and c.relname = any(%s)
        and c.relkind in ('r', 'p', 'v', 'f')
        and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
        and (
            pg_has_role(c.relowner, 'usage')
            or has_column_privilege(c.oid, a.attnum, 'select, insert, update, references')
        )
"""
COPY_BUFFER_BYTES = 65_536


def copied_tables(target: psycopg.Connection) -> list[str]:
    """Return the tables of schema flows to copy, in order; the series are read from `target`."""
    return [*CONFIGURATION, *(row[0] for row in target.execute(SERIES))]


def copy_database(
    source_url: str, target_url: str, progress: Callable[[str, int], None]
) -> dict[str, int]:
    """Stream every table of schema flows from one server to the other; return rows per table.

    It reads one snapshot and writes one transaction, so it copies all or nothing. Columns that
    either side lacks are left out. `progress` is called with a table and its rows so far.
    """
    copied: dict[str, int] = {}
    with psycopg.connect(source_url) as source, psycopg.connect(target_url) as target:
        source.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        source.read_only = True
        tables = copied_tables(target)
        there, here = _columns(source, tables), _columns(target, tables)
        for table in tables:
            if columns := there[table] & here[table]:
                copied[table] = _copy(source, target, table, sorted(columns), progress)
    return copied


def _columns(connection: psycopg.Connection, tables: list[str]) -> dict[str, set[str]]:
    """Return table → columns that store values and that the user has rights on."""
    rows = connection.execute(COLUMNS, (tables,))
    columns: dict[str, set[str]] = {table: set() for table in tables}
    for table, column in rows:
        columns[table].add(column)
    return columns


def _copy(
    source: psycopg.Connection,
    target: psycopg.Connection,
    table: str,
    columns: list[str],
    progress: Callable[[str, int], None],
) -> int:
    listed = sql.SQL(", ").join(map(sql.Identifier, columns))
    names = {"columns": listed, "table": sql.Identifier("flows", table)}
    # COPY of a query, not of the table, because a hypertable's rows are in its chunks.
    read = sql.SQL("copy (select {columns} from {table}) to stdout").format(**names)
    write = sql.SQL("copy {table} ({columns}) from stdin").format(**names)
    rows = 0
    # Each block of COPY is one row, so collect them in a buffer.
    buffer = bytearray()

    def hand_on(into: psycopg.Copy) -> None:
        nonlocal rows
        into.write(bytes(buffer))
        rows += buffer.count(b"\n")
        buffer.clear()
        progress(table, rows)

    with source.cursor().copy(read) as out, target.cursor() as cursor:
        with cursor.copy(write) as into:
            for block in out:
                buffer += block
                if len(buffer) >= COPY_BUFFER_BYTES:
                    hand_on(into)
            if buffer:
                hand_on(into)
        return cursor.rowcount
