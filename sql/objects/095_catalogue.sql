set local role flows_owner;

-- Facts that PostgREST's Swagger lacks or has wrong, for the OpenAPI document: the rights of a role, and
-- the properties that the columns of a view have in their base tables. It runs as its caller and covers
-- only objects in schema api that the caller's role may use.
create or replace function gateway.describe_api() returns jsonb
language sql stable set search_path = ''
as $$
    with computed (view, base) as (
        -- A view of api is named after the table in flows whose columns it shows. The views that are not
        -- are declared here, with the table whose columns they show under the same names.
        values
            ('circuit_register_extent', 'circuit_register'),
            ('meter_csq_latest', 'meter_csq'),
            ('meter_shadows_tariffs', 'meter_registry'),
            ('meters_clock_drift', 'meter_registry'),
            ('meters_low_balance', 'meter_registry'),
            ('meters_offline_all', 'meter_registry'),
            ('meters_offline_recently', 'meter_registry'),
            ('register_export_missing', 'register_export'),
            ('register_import_missing', 'register_import'),
            ('register_interval_hh_latest', 'register_interval_hh'),
            ('register_interval_hh_missing', 'register_interval_hh')
    ),
    exposed as (
        select
            c.oid, c.relname, c.relkind,
            pg_catalog.pg_relation_is_updatable(c.oid, true) as verbs
        from pg_catalog.pg_class as c
        where c.relnamespace = 'api'::regnamespace and c.relkind in ('r', 'v', 'm', 'f', 'p')
            and pg_catalog.has_table_privilege(c.oid, 'select')
    ),
    bases as (
        select
            e.oid, a.attname, a.attnotnull as not_null,
            a.atthasdef or a.attidentity <> '' as has_default,
            a.attgenerated <> '' or a.attidentity = 'a' as generated,
            (
                select pg_catalog.jsonb_agg(pg_catalog.pg_get_constraintdef(k.oid) order by k.conname)
                from pg_catalog.pg_constraint as k
                where k.conrelid = t.oid and k.contype = 'c' and k.conkey = array[a.attnum]
            ) as checks
        from exposed as e
        left join computed as c on e.relname = c.view
        inner join pg_catalog.pg_class as t
            on t.relname = coalesce(c.base, e.relname) and t.relnamespace = 'flows'::regnamespace
            and t.relkind in ('r', 'p')
        inner join pg_catalog.pg_attribute as a
            on t.oid = a.attrelid and a.attnum > 0 and not a.attisdropped
    ),
    columns as (
        select
            e.oid,
            pg_catalog.jsonb_object_agg(a.attname, pg_catalog.jsonb_build_object(
                -- The keys of a continuous aggregate are never null, though TimescaleDB does not say so.
                'not_null', coalesce(b.not_null, false) or (
                    e.relname like 'circuit\_interval\_%'
                    and a.attname in ('circuit_id', 'timestamp', 'day', 'month', 'register_intervals')
                ),
                'has_default', coalesce(b.has_default, false) or a.atthasdef,
                'insert', e.verbs & 8 > 0 and not coalesce(b.generated, false)
                and pg_catalog.pg_column_is_updatable(e.oid, a.attnum, true)
                and pg_catalog.has_column_privilege(e.oid, a.attnum, 'insert'),
                'update', e.verbs & 4 > 0 and not coalesce(b.generated, false)
                and pg_catalog.pg_column_is_updatable(e.oid, a.attnum, true)
                and pg_catalog.has_column_privilege(e.oid, a.attnum, 'update'),
                'checks', coalesce(b.checks, '[]')
            )) as facts,
            -- Not PostgREST's formats: since 14.8 those of integers are no types of PostgreSQL.
            pg_catalog.jsonb_object_agg(
                a.attname, pg_catalog.format_type(coalesce(nullif(t.typbasetype, 0), t.oid), null)
            ) as types
        from exposed as e
        inner join pg_catalog.pg_attribute as a on a.attrelid = e.oid
        inner join pg_catalog.pg_type as t on a.atttypid = t.oid
        left join bases as b on b.oid = e.oid and b.attname = a.attname
        where a.attnum > 0 and not a.attisdropped
            and pg_catalog.has_column_privilege(e.oid, a.attnum, 'select')
        group by e.oid
    )
    select pg_catalog.jsonb_build_object(
        'relations', coalesce((
            select pg_catalog.jsonb_object_agg(e.relname, pg_catalog.jsonb_build_object(
                'insert', e.verbs & 8 > 0 and pg_catalog.has_any_column_privilege(e.oid, 'insert'),
                'update', e.verbs & 4 > 0 and pg_catalog.has_any_column_privilege(e.oid, 'update'),
                'delete', e.verbs & 16 > 0 and pg_catalog.has_table_privilege(e.oid, 'delete'),
                'columns', c.facts,
                'types', c.types
            ))
            from exposed as e inner join columns as c on e.oid = c.oid
        ), '{}'),
        'functions', coalesce((
            select pg_catalog.jsonb_object_agg(p.proname, pg_catalog.jsonb_build_object(
                'volatile', p.provolatile = 'v',
                'set', p.proretset,
                'relation', r.relname,
                'type', pg_catalog.format_type(p.prorettype, null),
                'arguments', (
                    select pg_catalog.jsonb_object_agg(
                        p.proargnames[n],
                        pg_catalog.format_type(coalesce(p.proallargtypes[n], p.proargtypes[n - 1]), null)
                    )
                    from pg_catalog.generate_subscripts(p.proargnames, 1) as n
                    where coalesce(p.proargmodes[n], 'i') in ('i', 'b', 'v') and p.proargnames[n] <> ''
                ),
                'columns', (
                    select pg_catalog.jsonb_object_agg(
                        p.proargnames[n], pg_catalog.format_type(p.proallargtypes[n], null)
                    )
                    from pg_catalog.generate_subscripts(p.proargmodes, 1) as n
                    where p.proargmodes[n] in ('t', 'o')
                )
            ))
            from pg_catalog.pg_proc as p
            inner join pg_catalog.pg_type as t on p.prorettype = t.oid
            left join pg_catalog.pg_class as r
                on t.typrelid = r.oid and r.relnamespace = 'api'::regnamespace
            where p.pronamespace = 'api'::regnamespace and p.prokind = 'f'
                and t.typname <> 'trigger'
                -- The gateway's own, for requests of the relations.
                and p.proname not like 'newest\_%'
                and pg_catalog.has_function_privilege(p.oid, 'execute')
        ), '{}')
    )
$$;
comment on function gateway.describe_api()
is 'Rights of the current role in schema api, and properties of the views'' columns in their base tables.';
grant execute on function gateway.describe_api() to flows, public_backend, resident, grafanareader;

reset role;

-- PostgREST, and with it the OpenAPI document, follows changes of schema api automatically.
create or replace function gateway.announce_schema() returns event_trigger
language plpgsql set search_path = ''
as $$
declare
    -- As the database has it now: sessions keep the setting that they began with.
    exposed text[] := (
        select string_to_array(split_part(entry, '=', 2), ', ')
        from pg_catalog.pg_db_role_setting as s
        inner join pg_catalog.pg_database as d on s.setdatabase = d.oid
        cross join unnest(s.setconfig) as entry
        where d.datname = current_database() and s.setrole = 0 and entry like 'flows.exposed\_schemas=%'
    );
begin
    -- A further schema may come to show too much, or no longer: which are exposed is decided again.
    if tg_event = 'ddl_command_end' and cardinality(exposed) > 0 then
        if exists (
            select from pg_catalog.pg_event_trigger_ddl_commands() as o where o.schema_name = any(exposed)
        ) then
            perform pg_catalog.pg_notify('pgrst', 'reload config');
            perform pg_catalog.pg_notify('pgrst', 'reload schema');
            return;
        end if;
    end if;
    if tg_event = 'sql_drop' then
        if not exists (
            select from pg_catalog.pg_event_trigger_dropped_objects() as o where o.schema_name = 'api'
        ) then
            return;
        end if;
    elsif not exists (
        select from pg_catalog.pg_event_trigger_ddl_commands() as o
        where o.schema_name = 'api' or o.object_identity like 'api.%' or o.command_tag in ('GRANT', 'REVOKE')
    ) then
        return;
    end if;
    perform pg_catalog.pg_notify('pgrst', 'reload schema');
end $$;
revoke execute on function gateway.announce_schema() from public;
comment on function gateway.announce_schema()
is 'Notifies PostgREST of changes of schema api, so that it needs no restart.';
-- Only superusers can create event triggers; other administrators can run `notify pgrst` by hand.
do $$
begin
    if exists (select from pg_catalog.pg_roles where rolname = current_user and rolsuper) then
        create event trigger api_changes_are_announced on ddl_command_end
        execute function gateway.announce_schema();
        create event trigger api_drops_are_announced on sql_drop
        execute function gateway.announce_schema();
    end if;
end $$;
