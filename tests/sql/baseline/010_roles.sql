-- migrate:up
-- Roles are the cluster's, not the database's, and a managed server may have some of them already.
do $$
declare
    wanted text;
begin
    foreach wanted in array array['flows_owner', 'flows_lookup', 'tsdbadmin', 'flows', 'public_backend', 'grafanareader']
    loop
        if not exists (select from pg_catalog.pg_roles where rolname = wanted) then
            execute format('create role %I nologin', wanted);
        end if;
    end loop;
    -- The two doors log in without any right of their own: a forgotten SET ROLE fails closed.
    foreach wanted in array array['authenticator', 'flows_gateway']
    loop
        if not exists (select from pg_catalog.pg_roles where rolname = wanted) then
            execute format('create role %I login noinherit', wanted);
        end if;
    end loop;
    -- TimescaleDB runs its jobs only for owners that may log in; a connection limit of 0 keeps
    -- every client out (background workers are exempt), and there is no password.
    if exists (select from pg_catalog.pg_extension where extname = 'timescaledb') then
        alter role flows_owner login password null connection limit 0;
    end if;
end $$;

grant flows, public_backend, grafanareader to authenticator, flows_gateway;
grant flows_owner to tsdbadmin;
-- A role may cancel what its own members run: the queries of callers who left, nobody else's.
grant authenticator to flows_owner;

-- A tenant's costly query ends before it hurts the others.
alter role flows set statement_timeout = '30s';
alter role public_backend set statement_timeout = '30s';

-- migrate:down
