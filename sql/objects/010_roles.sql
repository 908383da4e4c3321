grant flows, public_backend, resident, grafanareader to authenticator, flows_gateway;
grant flows_owner to tsdbadmin;
-- A role may cancel queries of roles that it is a member of: here those of callers who disconnected.
grant authenticator to flows_owner;

-- Limits costly queries of a tenant, before they affect others.
alter role flows set statement_timeout = '30s';
alter role public_backend set statement_timeout = '30s';
alter role resident set statement_timeout = '30s';
-- A prepared statement's plan without its values knows neither how many keys nor how much time a filter leaves, and
-- would read the rows of other ESCOs. PostgREST prepares none (postgrest.conf), unless it is told to.
alter role authenticator set plan_cache_mode = 'force_custom_plan';
-- Of solid-state disks and of what is in memory, a page here and there costs little more than the next one: some
-- keys are looked up rather than all rows of a time read.
alter role authenticator set random_page_cost = 1.1;

-- The gateway counts an ESCO's requests: each takes one core, not all that the planner finds free.
alter role authenticator set max_parallel_workers_per_gather = 0;

-- A session of SQL as one of these roles could keep these from others or leave them behind, whatever its rows are:
-- temporary tables, which hide ours from statements that name no schema, large objects, locks by number, which follow
-- mappings and migrations, and messages in the write-ahead log. The door makes the tables of an import before it becomes
-- the caller. Only the owner of the database and superusers may take these rights away, limit files, and keep errors out
-- of the log.
do $$
declare
    found record;
begin
    if exists (
        select from pg_catalog.pg_database as d
        where d.datname = current_database() and pg_catalog.pg_has_role(d.datdba, 'usage')
    ) then
        execute format('revoke temporary on database %I from public', current_database());
        execute format(
            'grant temporary on database %I to flows_owner, tsdbadmin, flows_gateway', current_database()
        );
    end if;
    if exists (select from pg_catalog.pg_roles where rolname = current_user and rolsuper) then
        for found in
            select p.oid::regprocedure as routine from pg_catalog.pg_proc as p
            where p.pronamespace = 'pg_catalog'::regnamespace
                and p.proname ~ '^(lo_.*|loread|lowrite|pg_(try_)?advisory_.*lock.*|pg_logical_emit_message)$'
                -- Drivers end a session with it, and it only gives back.
                and p.proname <> 'pg_advisory_unlock_all'
        loop
            execute format('revoke execute on function %s from public', found.routine);
            execute format('grant execute on function %s to flows_owner, tsdbadmin', found.routine);
        end loop;
        -- A caller chooses by what its rows are sorted, beyond memory in files: they end before the disk does, on which
        -- everybody's writes are.
        alter role authenticator set temp_file_limit = '1GB';
        -- An error of a caller's statement quotes the caller's values, as long as they are: the caller gets it, and the
        -- gateway logs the code of those that are the server's. The server's log keeps what is above errors.
        alter role authenticator set log_min_messages = 'log';
        alter role flows_gateway set log_min_messages = 'log';
    end if;
end $$;
