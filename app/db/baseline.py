"""The schema of 0.1, the baseline of every upgrade, and its comparison with a database."""

from typing import Any

import psycopg

from app.db.schema import SQL

BASELINE = 2  # the last migration of 0.1

# Columns, constraints and indexes of tables, partitioned tables, composite types and aggregates.
# Partitions and chunks are left out, as they inherit theirs. NOT NULL is part of the column.
PARTS = """
    with relation as (
        select c.oid, format('%I.%I', n.nspname, c.relname) as name
        from pg_catalog.pg_class as c
        inner join pg_catalog.pg_namespace as n on c.relnamespace = n.oid
        where n.nspname in ('flows', 'gateway') and c.relkind in ('r', 'p', 'c', 'v')
            and not c.relispartition
    )
    select
        'column ' || r.name || '.' || quote_ident(a.attname) || ': '
        || format_type(a.atttypid, a.atttypmod)
        || case when a.attnotnull then ' not null' else '' end
        || coalesce(' default ' || pg_get_expr(d.adbin, d.adrelid), '')
        || case a.attidentity when '' then '' else ' identity' end as part
    from relation as r
    inner join pg_catalog.pg_attribute as a
        on r.oid = a.attrelid and a.attnum > 0 and not a.attisdropped
    left join pg_catalog.pg_attrdef as d on a.attrelid = d.adrelid and a.attnum = d.adnum
    union all
    select 'constraint ' || k.conname || ' on ' || r.name || ': ' || pg_get_constraintdef(k.oid)
    from relation as r
    inner join pg_catalog.pg_constraint as k on r.oid = k.conrelid and k.contype <> 'n'
    union all
    select 'index ' || i.indexrelid::regclass || ': ' || pg_get_indexdef(i.indexrelid)
    from relation as r inner join pg_catalog.pg_index as i on r.oid = i.indrelid
    order by 1
"""


def parts(connection: psycopg.Connection[Any]) -> list[str]:
    """Return the columns, constraints and indexes of a database, one per line, sorted."""
    with connection.transaction():
        connection.execute("set local search_path = ''")
        return [row[0] for row in connection.execute(PARTS.encode()).fetchall()]


def missing_from(connection: psycopg.Connection[Any], engine: str) -> list[str]:
    """Return the lines of the baseline that a database lacks."""
    found = set(parts(connection))
    baseline = (SQL / "migrations" / "baseline" / f"{engine}.txt").read_text().splitlines()
    return [line for line in baseline if line not in found]
