"""Examination of the database: schema, roles, statistics, indexes, mappings, partitions, jobs."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg.rows import dict_row

from app.db.drift import Drift, compare, read_objects
from app.db.schema import DATABASE_VERSION, NO_VERSION, mismatch, program_version
from app.doctor.finding import Finding, new_fault, new_warning

CLOCK_DRIFT_SECONDS = 2.0
OLDEST_SERVER = 150_000
Admin = psycopg.Connection[dict[str, Any]]

# These read our own tables, as their owner, who sees every ESCO; the others read the catalogue.
OWNED = frozenset(
    ("mappings", "mended mappings", "signing keys", "aggregates", "registers", "key ages")
)
# Each gives rows (text, mend).
FAULTS = {
    "roles": """
        select format('the role %s %s', rolname,
                case when rolsuper then 'is a superuser' else 'bypasses row level security' end)
            as text,
            format('alter role %I nosuperuser nobypassrls', rolname) as mend
        from pg_roles where (rolsuper or rolbypassrls) and rolname in
            ('flows', 'public_backend', 'resident', 'grafanareader', 'flows_gateway',
            'authenticator', 'flows_owner')
    """,
    "indexes": """
        select format('the index %s is not valid: no query uses it', indexrelid::regclass) as text,
            'flows db reindex' as mend
        from pg_index as i join pg_class as c on c.oid = i.indrelid
        where not i.indisvalid
            and c.relnamespace in ('flows'::regnamespace, 'gateway'::regnamespace)
    """,
    "mappings": """
        select format('the register %s meters the circuit %s twice from %s to %s', one.register,
                one.circuit, greatest(one.start_time, two.start_time),
                coalesce(least(one.end_time, two.end_time)::text, 'now')) as text,
            format('set the end_time of the mapping that starts at %s (flows.circuit_register), or '
                'flows db migrate, which sets it to the start of the other', one.start_time) as mend
        from flows.circuit_register as one
        join flows.circuit_register as two on two.register = one.register
            and two.circuit = one.circuit and two.start_time > one.start_time
            and tstzrange(one.start_time, one.end_time) && tstzrange(two.start_time, two.end_time)
        order by 1 limit 20
    """,
    "signing keys": """
        select 'no key that verifies tokens is published' as text, 'flows db migrate' as mend
        where not exists (select from gateway.signing_key
            where verifies_until is null or verifies_until > now())
    """,
    "aggregates": """
        select format('the aggregates lack %s changes, the oldest from %s', count(*),
                min(changed_at)) as text,
            'flows db refresh, and see whether the job or the timer that follows runs' as mend
        from flows.change where followed_at is null
        having min(changed_at) < now() - interval '10 minutes'
    """,
}
WARNINGS = {
    "logins": """
        select format('%s logs in to SQL as %s, where it may name any ESCO', login.rolname,
                tenant.rolname) as text,
            case when login.oid = tenant.oid then format('alter role %I nologin', login.rolname)
                else format('revoke %I from %I', tenant.rolname, login.rolname) end
                || '; a partner reads and writes with a client of its ESCO' as mend
        from pg_roles as login join pg_roles as tenant
            on tenant.rolname in ('flows', 'public_backend', 'resident')
            and pg_has_role(login.oid, tenant.oid, 'member')
        where login.rolcanlogin and not login.rolsuper
            and login.rolname not in ('authenticator', 'flows_gateway')
        order by 1
    """,
    "rights": """
        select 'sessions of tenants'' roles may make temporary tables' as text,
            format('as the owner of the database: revoke temporary on database %I from public',
                current_database()) as mend
        where has_database_privilege('flows', current_database(), 'temporary')
        union all
        select 'sessions of tenants'' roles may make large objects or take advisory locks',
            'flows db migrate, as a superuser'
        where has_function_privilege('flows', 'pg_catalog.lo_create(oid)', 'execute')
            or has_function_privilege('flows', 'pg_catalog.pg_advisory_lock(bigint)', 'execute')
        union all
        select format('the server logs errors of %s, which quote callers'' values', rolname),
            format('as a superuser: alter role %I set log_min_messages = ''log''', rolname)
        from pg_roles where rolname in ('authenticator', 'flows_gateway')
            and 'log_min_messages=log' <> all(coalesce(rolconfig, '{}'))
    """,
    "mended mappings": """
        select format('the mapping of the register %s to the circuit %s from %s overlapped another '
                'of the same two, and was changed: it ended %s, and ends %s', m.register, m.circuit,
                m.start_time, coalesce('at ' || o.ended_at, 'never'),
                coalesce('at ' || o.ends_at, 'never')) as text,
            format('set its end_time if that is wrong, and when it is right: delete from '
                'gateway.mended_overlap where circuit = %L and register = %L and start_time = %L',
                m.circuit, m.register, m.start_time) as mend
        from gateway.mended_overlap as o join flows.circuit_register as m
            on m.circuit = o.circuit and m.register = o.register and m.start_time = o.start_time
            and m.end_time is not distinct from o.ends_at
        order by 1 limit 20
    """,
    "registers": """
        select format('the enabled register %s of meter %s belongs to no circuit, so no report has '
                'its energy', r.register_id, m.serial) as text,
            'map it in circuit_register, or set its status to replaced' as mend
        from flows.meter_registers as r join flows.meter_registry as m on m.id = r.meter_id
        where r.status = 'enabled' and not exists (
            select from flows.circuit_register as c where c.register = r.register_id
                and (c.end_time is null or c.end_time > now())
        )
        order by 1 limit 20
    """,
    "statistics": """
        select format('%s changed by %s rows since it was analyzed (%s)', relid::regclass,
                n_mod_since_analyze, coalesce(greatest(last_analyze, last_autoanalyze)::text,
                'never')) as text, 'flows db analyze' as mend
        from pg_stat_user_tables
        where schemaname in ('flows', 'gateway', '_timescaledb_internal') and (
            n_mod_since_analyze > 10000 + 0.3 * n_live_tup
            or (n_live_tup > 10000 and last_analyze is null and last_autoanalyze is null))
        order by n_mod_since_analyze desc limit 20
    """,
    "unused indexes": """
        select format('no query has used the index %s (%s) since %s', s.indexrelid::regclass,
                pg_size_pretty(pg_relation_size(s.indexrelid)), began.at::date) as text,
            'leave it, or drop it if it is your own' as mend
        from pg_stat_user_indexes as s join pg_index as i using (indexrelid)
        -- The database's own is null until somebody resets it; the server's is never.
        cross join (
            select greatest(d.stats_reset, b.stats_reset) as at
            from pg_stat_database as d cross join pg_stat_bgwriter as b
            where d.datname = current_database()
        ) as began
        where s.idx_scan = 0 and not i.indisunique and pg_relation_size(s.indexrelid) > 100 * 2^20
            and s.schemaname in ('flows', 'gateway') and began.at < now() - interval '30 days'
        order by pg_relation_size(s.indexrelid) desc limit 20
    """,
    "missing indexes": """
        select format('%s was read whole %s times, %s rows each time', relid::regclass, seq_scan,
                seq_tup_read / seq_scan) as text,
            'find the filter in flows_statement_seconds_total (/metrics) or pg_stat_statements, and'
                ' create index concurrently for it, or flows db analyze' as mend
        from pg_stat_user_tables
        where schemaname in ('flows', 'gateway', '_timescaledb_internal')
            and seq_scan > 100 and seq_tup_read / seq_scan > 100000
        union all
        select format('no index begins with %s of %s, which references %s: each deletion there '
                'reads it whole', a.attname, k.conrelid::regclass, k.confrelid::regclass),
            format('create index concurrently on %s (%I)', k.conrelid::regclass, a.attname)
        from pg_constraint as k
        join pg_attribute as a on a.attrelid = k.conrelid and a.attnum = k.conkey[1]
        where k.contype = 'f' and k.conparentid = 0
            and k.connamespace in ('flows'::regnamespace, 'gateway'::regnamespace)
            and not exists (select from pg_index as i
                where i.indrelid = k.conrelid and i.indkey[0] = any(k.conkey))
    """,
    "transactions": """
        select format('a transaction of %s has been open for %s (process %s), so deleted rows stay',
                usename, date_trunc('second', now() - xact_start), pid) as text,
            format('select pg_terminate_backend(%s)', pid) as mend
        from pg_stat_activity where datname = current_database() and backend_type = 'client backend'
            and xact_start < now() - interval '1 hour'
        union all
        select format('transaction ids are %s old: at 2,000 million the server stops writing',
                age(datfrozenxid)), 'flows db vacuum'
        from pg_database where datname = current_database() and age(datfrozenxid) > 1000000000
    """,
    "key ages": """
        select format('the newest signing key is %s days old',
                now()::date - max(created_at)::date) as text, 'flows keys rotate' as mend
        from gateway.signing_key having max(created_at) < now() - interval '400 days'
    """,
    "extensions": """
        select format('%s is installed as %s, the server has %s', name, installed_version,
                default_version) as text, format('alter extension %I update', name) as mend
        from pg_available_extensions where installed_version <> default_version
            and name in ('timescaledb', 'pg_stat_statements')
        union all
        select 'the server does not load pg_stat_statements, so slow queries cannot be told',
            'add it to shared_preload_libraries and restart the server'
        where current_setting('shared_preload_libraries') !~ 'pg_stat_statements'
    """,
}
OF_ENGINE = {
    "postgres": {
        "partitions": """
            select format('flows.%s has no partition for %s', s.name, years.year) as text,
                'flows db maintain (daily, if nothing runs `flows up`)' as mend
            from flows.series() as s
            join pg_class as c on c.relname = s.name and c.relnamespace = 'flows'::regnamespace
                and c.relkind = 'p'
            cross join generate_series(extract(year from now())::int,
                extract(year from now())::int + 1) as years (year)
            where to_regclass(format('flows.%I', s.name || '_' || years.year)) is null
        """,
        "retention": """
            select format('flows.%s has rows from %s, kept for %s', r.series,
                    right(child.relname, 4), r.keep) as text,
                'flows db prune (daily, if nothing runs `flows up`)' as mend
            from flows.retention as r
            join pg_class as parent on parent.relname = flows.stored_name(r.series)
                and parent.relnamespace = 'flows'::regnamespace
            join pg_inherits as i on i.inhparent = parent.oid
            join pg_class as child on child.oid = i.inhrelid
            where right(child.relname, 4)::int
                    < extract(year from (now() - r.keep - interval '7 days') at time zone 'UTC')
                and pg_relation_size(child.oid) > 0
            order by 1
        """,
    },
    "timescale": {
        "jobs": """
            -- One that lost a lock or was shut down is tried again by itself.
            select format('the job %s %s fails: %s times up to now', j.proc_name,
                    j.hypertable_name, s.total_failures) as text,
                format('call run_job(%s), which shows the reason', j.job_id) as mend
            from timescaledb_information.jobs as j
            join timescaledb_information.job_stats as s using (job_id)
            where s.last_run_status = 'Failed' and s.total_failures >= 3
                and s.last_successful_finish < now() - 2 * j.schedule_interval
        """,
        "retention": """
            select format('flows.%s has rows from %s, kept for %s', r.series, min(c.range_start),
                    r.keep) as text, 'flows db status tells whether its job fails' as mend
            from flows.retention as r join timescaledb_information.chunks as c
                on c.hypertable_schema = 'flows' and c.hypertable_name = r.series
            where c.range_end < now() - r.keep - interval '7 days'
            group by r.series, r.keep
        """,
    },
}


def examine_database(url: str) -> Iterator[Finding]:
    """Yield what is wrong in the database; one fault if it does not answer or has no schema."""
    try:
        with psycopg.connect(
            url, autocommit=True, row_factory=dict_row, connect_timeout=5
        ) as admin:
            yield from examine_schema(admin)
    except psycopg.OperationalError as error:
        yield new_fault(
            "database",
            f"does not answer: {str(error).strip().splitlines()[-1]}",
            "start it, or mend FLOWS_DATABASE_ADMIN_URL",
        )


def examine_schema(admin: Admin) -> Iterator[Finding]:
    """Yield what is wrong in a database that answers, read on an administrator's connection."""
    if admin.info.server_version < OLDEST_SERVER:
        yield new_fault(
            "versions",
            f"PostgreSQL {admin.info.server_version // 10000} is too old",
            "upgrade the server to PostgreSQL 15 or newer",
        )
    now = datetime.now(UTC)
    row = admin.execute("select clock_timestamp() as at").fetchone()
    if row and (ahead := (row["at"] - now).total_seconds()) and abs(ahead) > CLOCK_DRIFT_SECONDS:
        yield new_fault(
            "clocks",
            f"the database's clock is {ahead:+.0f} s from this machine's",
            "synchronise both clocks by NTP",
        )
    try:
        version = admin.execute(DATABASE_VERSION).fetchone() or {}
    except NO_VERSION:
        version = {"version": 0, "oldest_gateway": 0}
    if reason := mismatch(version["version"], version["oldest_gateway"], program_version()):
        yield new_fault("versions", reason, "flows db migrate, or install the other program")
        return
    with admin.transaction(force_rollback=True):
        admin.execute("set local role flows_owner")
        kept = admin.execute("select recorded from gateway.schema_objects").fetchone()
    if kept:
        yield from map(_drifted, compare(kept["recorded"], read_objects(admin)))
    installed = admin.execute("select from pg_extension where extname = 'timescaledb'").fetchone()
    engine = "postgres" if installed is None else "timescale"
    for checks, make in ((FAULTS | OF_ENGINE[engine], new_fault), (WARNINGS, new_warning)):
        for check, statement in checks.items():
            with admin.transaction(force_rollback=True):
                if check in OWNED:
                    admin.execute("set local role flows_owner")
                admin.execute("set local statement_timeout = '30s'")
                for found in admin.execute(statement.encode()).fetchall():
                    yield make(check, found["text"], found["mend"])


def _drifted(drift: Drift) -> Finding:
    text = f"the {drift.kind} {drift.name} is {drift.change}"
    if drift.change == "added":
        text = f"the {drift.kind} {drift.name} was added by hand"
    mend = "flows db migrate"
    if drift.kind == "row security":
        mend = f"alter table {drift.name} {drift.definition}"
    elif drift.kind == "index":
        mend = str(drift.definition)
    elif drift.kind == "constraint":
        name, _, table = drift.name.rpartition(" on ")
        mend = f"alter table {table} add constraint {name} {drift.definition}"
    return new_fault(drift.kind, text, mend)
