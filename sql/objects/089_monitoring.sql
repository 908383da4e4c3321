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
