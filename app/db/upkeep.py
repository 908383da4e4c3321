"""Upkeep of tables and indexes while the database serves, and their sizes."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from app.db.maintain import maintain

# Takes the table at work, the number of tables done, and of all.
UpkeepProgress = Callable[[str, int, int], None]

# Tables whose statements reach their partitions and chunks.
TABLES = """
    select n.nspname as schema, c.relname as name, c.oid
    from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
    where n.nspname in ('flows', 'gateway') and c.relkind in ('r', 'p') and not c.relispartition
    order by 1, 2
"""
# Tables that hold rows themselves, with partitions and chunks, smallest indexes first. A chunk in
# the columnstore has its rows in another table, which is listed as well. Hypertables themselves are
# left out: they are empty, and REINDEX refuses them.
LEAVES = """
    with recursive tree (oid, root) as (
        select c.oid, c.oid from pg_class as c
        where c.relnamespace = any(array['flows', 'gateway']::regnamespace[])
            and c.relkind in ('r', 'p') and not c.relispartition
        union all
        select c.oid, c.oid from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
        where n.nspname = '_timescaledb_internal' and c.relkind = 'r'
            and c.relname ~ '^_(materialized|compressed)_hypertable_'
        union all
        select i.inhrelid, t.root from tree as t join pg_inherits as i on i.inhparent = t.oid
    )
    select n.nspname as schema, c.relname as name, c.oid
    from tree as t join pg_class as c on c.oid = t.oid
    join pg_namespace as n on n.oid = c.relnamespace
    where c.relkind = 'r' and exists (select from pg_index as i where i.indrelid = c.oid)
        and c.relname !~ '^_materialized_hypertable_\\d+$|^_compressed_hypertable_\\d+$'
        and format('%%I.%%I', n.nspname, c.relname) <> all(%s)
    order by pg_indexes_size(c.oid)
"""
HYPERTABLES = """
    select format('%I.%I', hypertable_schema, hypertable_name)
    from timescaledb_information.hypertables
"""
# Indexes that an interrupted REINDEX CONCURRENTLY leaves behind.
UNFINISHED = """
    select n.nspname as schema, c.relname as name
    from pg_index as i join pg_class as c on c.oid = i.indexrelid
    join pg_namespace as n on n.oid = c.relnamespace
    where not i.indisvalid and c.relname ~ '_cc(new|old)\\d*$' and c.relkind = 'i'
        and n.nspname in ('flows', 'gateway', '_timescaledb_internal')
"""
# Rows that nothing needs any more: an expired token is refused without them.
EXPIRED = {
    "revocations of expired tokens": "delete from gateway.revoked_token"
    " where expires_at < now() - interval '5 minutes'",
    "usage of days more than 25 months ago": "delete from gateway.usage"
    " where day < now() - interval '25 months'",
}
# Chunks that TimescaleDB's policies drop once a day.
OLD_CHUNKS = """
    select 'dropped chunks of ' || r.series, count(*)
    from flows.retention as r
    cross join lateral public.drop_chunks(
        format('flows.%I', flows.stored_name(r.series))::regclass, older_than => now() - r.keep
    )
    where r.keep is not null
    group by 1 order by 1
"""
SIZES = """
    with recursive tree (oid, root) as (
        select c.oid, c.oid from pg_class as c
        where c.relnamespace = any(array['flows', 'gateway']::regnamespace[])
            and c.relkind in ('r', 'p') and not c.relispartition
        union all
        select i.inhrelid, t.root from tree as t join pg_inherits as i on i.inhparent = t.oid
    )
    select t.root::regclass::text as "table",
        sum(pg_table_size(t.oid))::bigint as table_bytes,
        sum(pg_indexes_size(t.oid))::bigint as index_bytes,
        coalesce(sum(s.n_live_tup), 0)::bigint as live_rows,
        coalesce(sum(s.n_dead_tup), 0)::bigint as dead_rows,
        max(greatest(s.last_vacuum, s.last_autovacuum)) as vacuumed_at,
        max(greatest(s.last_analyze, s.last_autoanalyze)) as analyzed_at
    from tree as t left join pg_stat_all_tables as s on s.relid = t.oid
    group by t.root order by sum(pg_total_relation_size(t.oid)) desc, 1
"""
HEALTH = """
    select pg_database_size(current_database()) as database_bytes,
        round(100.0 * sum(blks_hit) / nullif(sum(blks_hit + blks_read), 0), 2)::float
            as cache_hit_percent,
        (select count(*) from pg_stat_activity where datname = current_database()) as connections,
        (select extract(epoch from max(now() - xact_start))::float from pg_stat_activity
            where datname = current_database() and pid <> pg_backend_pid())
            as oldest_transaction_seconds,
        (select max(age(datfrozenxid)) from pg_database where datname = current_database())
            as transaction_id_age
    from pg_stat_database where datname = current_database()
"""


@dataclass(frozen=True, slots=True)
class Upkeep:
    """A finished step: the table, its seconds, and its bytes with indexes before and after."""

    table: str
    seconds: float
    bytes_before: int
    bytes_after: int


def analyze(admin_url: str, progress: UpkeepProgress) -> list[Upkeep]:
    """Collect the planner's statistics of each table; readers and writers go on."""
    return _each_table(admin_url, "analyze {}", progress)


def vacuum(admin_url: str, progress: UpkeepProgress) -> list[Upkeep]:
    """Free the space of deleted rows of each table, and analyze it; readers and writers go on."""
    return _each_table(admin_url, "vacuum (analyze) {}", progress)


def reindex(admin_url: str, progress: UpkeepProgress) -> list[Upkeep]:
    """Build the indexes of each table, partition and chunk again, beside the ones in use.

    Indexes that an interrupted run left behind are dropped first.
    """
    with psycopg.connect(admin_url, autocommit=True, row_factory=dict_row) as connection:
        for left in connection.execute(UNFINISHED).fetchall():
            name = sql.Identifier(left["schema"], left["name"])
            connection.execute(sql.SQL("drop index concurrently if exists {}").format(name))
        installed = connection.execute(
            "select from pg_extension where extname = 'timescaledb'"
        ).fetchone()
        found = connection.execute(HYPERTABLES).fetchall() if installed is not None else []
        tables = connection.execute(LEAVES.encode(), ([row["format"] for row in found],)).fetchall()
        return list(_steps(connection, "reindex table concurrently {}", tables, progress))


def prune_rows(admin_url: str) -> list[tuple[str, int]]:
    """Remove rows past their retention and expired revocations; return (task, count)."""
    done = maintain(admin_url)
    with psycopg.connect(admin_url) as connection:
        connection.execute("set role flows_owner")
        if connection.execute("select flows.engine()").fetchone() == ("timescale",):
            done += connection.execute(OLD_CHUNKS).fetchall()
        for task, statement in EXPIRED.items():
            done.append((task, connection.execute(statement.encode()).rowcount))
    return done


def sizes(admin_url: str) -> dict[str, Any]:
    """Return the database's health, and of each table its bytes, rows and last upkeep."""
    with psycopg.connect(admin_url, autocommit=True, row_factory=dict_row) as connection:
        health = connection.execute(HEALTH).fetchone() or {}
        return health | {"tables": connection.execute(SIZES).fetchall()}


def _each_table(admin_url: str, statement: str, progress: UpkeepProgress) -> list[Upkeep]:
    with psycopg.connect(admin_url, autocommit=True, row_factory=dict_row) as connection:
        tables = connection.execute(TABLES).fetchall()
        return list(_steps(connection, statement, tables, progress))


def _steps(
    connection: psycopg.Connection[dict[str, Any]],
    statement: str,
    tables: list[dict[str, Any]],
    progress: UpkeepProgress,
) -> Iterator[Upkeep]:
    for done, table in enumerate(tables):
        name = f"{table['schema']}.{table['name']}"
        progress(name, done, len(tables))
        before, started = _bytes(connection, table["oid"]), time.monotonic()
        identifier = sql.Identifier(table["schema"], table["name"])
        try:
            connection.execute(sql.SQL(statement).format(identifier))
        except psycopg.errors.UndefinedTable:
            continue  # retention dropped it meanwhile
        seconds = round(time.monotonic() - started, 3)
        yield Upkeep(name, seconds, before, _bytes(connection, table["oid"]))


def _bytes(connection: psycopg.Connection[dict[str, Any]], oid: int) -> int:
    """Return the bytes of a table with its indexes and partitions; 0 if it is gone."""
    row = connection.execute(
        "select coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint as bytes from pg_class as c"
        " where c.oid = %(oid)s or c.oid in"
        " (select inhrelid from pg_inherits where inhparent = %(oid)s)",
        {"oid": oid},
    ).fetchone()
    return int((row or {"bytes": 0})["bytes"])
