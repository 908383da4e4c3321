-- Objects that the files of this folder create are dropped first, so that those removed from them vanish from
-- the database: triggers, policies, views, comments and the grants of our roles. Functions stay, as
-- aggregates and constraints may need them: the files replace them, and `flows db migrate` drops those
-- that no file made.
do $$
begin
    if exists (select from pg_catalog.pg_roles where rolname = current_user and rolsuper) then
        drop event trigger if exists api_changes_are_announced;
        drop event trigger if exists api_drops_are_announced;
    end if;
end $$;

set local role flows_owner;

-- Every caller's transaction begins with gateway.authorize(), which reads this table. Those that run end
-- first, new ones wait here holding no other lock, and everything below is free at once. Without it, callers
-- that never pause would keep a part of the locks from us for ever.
lock table gateway.revoked_token in access exclusive mode;

do $$
declare
    schemas constant regnamespace[] := array['flows', 'api', 'gateway']::regnamespace[];
    callers constant text := 'public, flows, public_backend, resident, grafanareader, tsdbadmin, flows_gateway, authenticator';
    -- A continuous aggregate is a view to PostgreSQL, and keeps data.
    aggregates text[] := '{}';
    found record;
begin
    if exists (select from pg_catalog.pg_extension where extname = 'timescaledb') then
        execute $query$
            select array_agg(a.view_name::text) from timescaledb_information.continuous_aggregates as a
            where a.view_schema = 'flows'
        $query$ into aggregates;
    end if;

    -- A trigger of a partition goes with its parent's; the engine's own stay.
    for found in
        select t.tgname as name, t.tgrelid::regclass as relation
        from pg_catalog.pg_trigger as t
        inner join pg_catalog.pg_class as c on t.tgrelid = c.oid
        inner join pg_catalog.pg_proc as p on t.tgfoid = p.oid
        where c.relnamespace = any(schemas) and p.pronamespace = any(schemas)
            and not t.tgisinternal and t.tgparentid = 0
    loop
        execute format('drop trigger %I on %s', found.name, found.relation);
    end loop;

    for found in
        select p.polname as name, p.polrelid::regclass as relation
        from pg_catalog.pg_policy as p
        inner join pg_catalog.pg_class as c on p.polrelid = c.oid
        where c.relnamespace = any(schemas)
    loop
        execute format('drop policy %I on %s', found.name, found.relation);
    end loop;

    for found in
        select format('%I.%I', c.relnamespace::regnamespace, c.relname) as relation
        from pg_catalog.pg_class as c
        where c.relnamespace = any(schemas) and c.relkind = 'v'
            and not (c.relnamespace = 'flows'::regnamespace and c.relname = any(aggregates))
    loop
        execute format('drop view if exists %s cascade', found.relation);
    end loop;

    for found in
        select d.objsubid, c.oid::regclass as relation, c.relkind, a.attname as name
        from pg_catalog.pg_description as d
        inner join pg_catalog.pg_class as c on d.classoid = 'pg_catalog.pg_class'::regclass and d.objoid = c.oid
        left join pg_catalog.pg_attribute as a on d.objoid = a.attrelid and d.objsubid = a.attnum
        where c.relnamespace = any(schemas) and c.relkind in ('r', 'p', 'v') and not c.relispartition
    loop
        if found.objsubid > 0 then
            execute format('comment on column %s.%I is null', found.relation, found.name);
        else
            execute format(
                'comment on %s %s is null', case found.relkind when 'v' then 'view' else 'table' end, found.relation
            );
        end if;
    end loop;

    for found in
        select c.oid::regclass as relation
        from pg_catalog.pg_class as c
        where c.relnamespace = any(schemas) and c.relkind in ('r', 'p', 'v') and not c.relispartition
            and (
                c.relacl is not null
                or exists (
                    select from pg_catalog.pg_attribute as a where a.attrelid = c.oid and a.attacl is not null
                )
            )
    loop
        execute format('revoke all on %s from %s', found.relation, callers);
    end loop;
    for found in
        select p.oid::regprocedure as routine
        from pg_catalog.pg_proc as p
        where p.pronamespace = any(schemas) and p.proacl is not null and p.proowner = 'flows_owner'::regrole
    loop
        execute format('revoke all on routine %s from %s', found.routine, callers);
    end loop;
    revoke all on schema flows, api, gateway
    from public, flows, public_backend, resident, grafanareader, tsdbadmin, flows_gateway, authenticator;
end $$;

reset role;
