set local role flows_owner;

-- Monitoring and dashboards read SQL: every relation of flows, of every ESCO, and write nothing. The same role with a
-- token sees through the gateway what it sees here.
do $$
declare
    relation regclass;
begin
    for relation in
        select c.oid from pg_catalog.pg_class as c
        where c.relnamespace = 'flows'::regnamespace and c.relkind in ('r', 'p', 'v')
            and c.relowner = 'flows_owner'::regrole
    loop
        execute format('grant select on %s to grafanareader', relation);
    end loop;
end $$;

reset role;

-- Of this database alone: a role's own settings would apply to its tokens, too.
do $$
declare
    monitoring text;
begin
    foreach monitoring in array array['grafanareader', 'tsdbadmin'] loop
        execute format(
            'alter role %I in database %I set search_path = flows, api, public', monitoring, current_database()
        );
    end loop;
end $$;
grant usage on schema public to grafanareader, tsdbadmin;

-- Of its direct sessions alone, too, unless an operator has set otherwise: a query that is never finished, or a
-- transaction that is left open, costs every tenant.
do $$
declare
    found record;
begin
    for found in
        select * from (
            values ('statement_timeout', '10min'), ('idle_in_transaction_session_timeout', '10min')
        ) as s (name, value)
        where not exists (
            select from pg_catalog.pg_db_role_setting as kept
            cross join lateral unnest(kept.setconfig) as setting
            where kept.setrole = 'grafanareader'::regrole and setting like s.name || '=%'
                and kept.setdatabase in (
                    0, (select d.oid from pg_catalog.pg_database as d where d.datname = current_database())
                )
        )
    loop
        execute format(
            'alter role grafanareader in database %I set %I = %L', current_database(), found.name, found.value
        );
    end loop;
end $$;

-- Where the server has preloaded it.
do $$
begin
    if current_setting('shared_preload_libraries') ~ 'pg_stat_statements' then
        create extension if not exists pg_stat_statements with schema public;
    end if;
exception
    when insufficient_privilege or undefined_file then
        raise notice 'pg_stat_statements is not created: %', sqlerrm;
end $$;
