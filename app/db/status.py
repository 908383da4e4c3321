"""Status of the database: engine and its limitations, series, aggregates, jobs."""

from typing import Any

import psycopg
from psycopg.rows import dict_row

from app.db.schema import DATABASE_VERSION, program_version

# Functions of TimescaleDB that plain PostgreSQL lacks, and their replacements.
LACKS = {
    "postgres": (
        "no columnstore: history is not compressed",
        "no background refresh: each write updates the aggregates before it commits",
        "retention and new partitions need `flows db maintain` (the timer of `flows up` runs it)",
    ),
    "timescale": (),
}

SERIES = {
    "postgres": """
        select r.series, r.keep::text, null as columnstore_after,
            coalesce(sum(pg_total_relation_size(child.oid)), pg_total_relation_size(parent.oid))
                as bytes,
            coalesce(
                sum(greatest(child.reltuples, 0)) filter (where child.oid is not null),
                greatest(parent.reltuples, 0)
            )::bigint as rows_estimated,
            count(child.oid) as parts,
            0 as parts_in_columnstore
        from flows.retention as r
        join pg_class as parent
            on parent.oid = format('flows.%I', flows.stored_name(r.series))::regclass
        left join pg_inherits as i on i.inhparent = parent.oid
        left join pg_class as child on child.oid = i.inhrelid
        group by r.series, parent.oid, parent.reltuples
        order by r.series
    """,
    "timescale": """
        select r.series, r.keep::text, r.columnstore_after::text,
            hypertable_size(t.kept) as bytes,
            approximate_row_count(t.kept) as rows_estimated,
            count(c.chunk_name) as parts,
            count(c.chunk_name) filter (where c.is_compressed) as parts_in_columnstore
        from flows.retention as r
        left join timescaledb_information.continuous_aggregates as a
            on a.view_schema = 'flows' and a.view_name = flows.stored_name(r.series)
        cross join lateral (select format(
            '%I.%I',
            coalesce(a.materialization_hypertable_schema, 'flows'),
            coalesce(a.materialization_hypertable_name, r.series)
        )::regclass as kept) as t
        left join timescaledb_information.chunks as c
            on format('%I.%I', c.hypertable_schema, c.hypertable_name)::regclass = t.kept
        group by r.series, t.kept
        order by r.series
    """,
}
JOBS = """
    select j.job_id, j.proc_name as job, coalesce(j.hypertable_name, '') as series,
        s.last_run_status, nullif(s.last_successful_finish, '-infinity') as last_successful_finish,
        s.total_failures, nullif(s.next_start, '-infinity') as next_start
    from timescaledb_information.jobs as j
    join timescaledb_information.job_stats as s using (job_id)
    where j.proc_schema <> '_timescaledb_functions' or j.hypertable_name is not null
    order by j.job_id
"""
PENDING = """
    select count(*) as pending, extract(epoch from now() - min(changed_at)) as oldest_seconds
    from flows.change where followed_at is null
"""


def database_status(admin_url: str) -> dict[str, Any]:
    """Return engine, versions, series (bytes, rows), jobs, pending changes; sizes in bytes."""
    with psycopg.connect(admin_url, autocommit=True, row_factory=dict_row) as connection:
        engine = _one(connection, "select flows.engine() as engine")["engine"]
        return {
            "engine": engine,
            "lacks": list(LACKS[engine]),
            "server": _one(connection, "show server_version")["server_version"],
            "timescaledb": _extension(connection),
            "schema": {
                "database": _one(connection, DATABASE_VERSION)["version"],
                "program": program_version(),
            },
            "database_bytes": _one(
                connection, "select pg_database_size(current_database()) as bytes"
            )["bytes"],
            "changes": _one(connection, PENDING),
            "series": connection.execute(SERIES[engine]).fetchall(),
            "jobs": connection.execute(JOBS).fetchall() if engine == "timescale" else [],
        }


def _one(connection: psycopg.Connection[dict[str, Any]], query: str) -> dict[str, Any]:
    row = connection.execute(query.encode()).fetchone()
    return row or {}


def _extension(connection: psycopg.Connection[dict[str, Any]]) -> str | None:
    query = "select extversion from pg_extension where extname = 'timescaledb'"
    version: str | None = _one(connection, query).get("extversion")
    return version
