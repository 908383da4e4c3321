set local role flows_owner;

-- Facts that PostgREST's Swagger lacks or has wrong, for the OpenAPI document: the rights of a role, and
-- the properties that the columns of a view have in their base tables. It runs as its caller and covers
-- only objects in schema api that the caller's role may use.
create or replace function gateway.describe_api() returns jsonb
language sql stable set search_path = ''
as $$
    with recursive targets as (
        -- The rule of a view records the origin of each column that is a plain column of another
        -- relation. Sub-queries precede the view's own target list, so the last match counts.
        select
            rule.ev_class as view, found.entry[2]::smallint as attnum, found.position,
            found.entry[4]::oid as origin, found.entry[5]::smallint as origin_attnum,
            found.entry[1] ~ ':varnullingrels \(b [0-9]' as nulled
        from pg_catalog.pg_rewrite as rule
        cross join lateral pg_catalog.regexp_matches(
            rule.ev_action::text,
            '{TARGETENTRY :expr {VAR ([^{}]*)} :resno (\d+) :resname (\S+) :ressortgroupref \d+'
            ' :resorigtbl (\d+) :resorigcol (\d+) :resjunk false',
            'g'
        ) with ordinality as found (entry, position)
        inner join pg_catalog.pg_attribute as attribute
            on attribute.attrelid = rule.ev_class and attribute.attnum = found.entry[2]::smallint
            and attribute.attname = found.entry[3]
        where rule.ev_class in (
            select c.oid from pg_catalog.pg_class as c
            where c.relkind = 'v' and c.relnamespace in (
                select n.oid from pg_catalog.pg_namespace as n where n.nspname in ('api', 'flows')
            )
        )
    ),
    origins as (
        select distinct on (t.view, t.attnum) t.view, t.attnum, t.origin, t.origin_attnum, t.nulled
        from targets as t
        order by t.view, t.attnum, t.position desc
    ),
    exposed as (
        select
            c.oid, c.relname, c.relkind,
            pg_catalog.pg_relation_is_updatable(c.oid, true) as verbs
        from pg_catalog.pg_class as c
        where c.relnamespace = 'api'::regnamespace and c.relkind in ('r', 'v', 'm', 'f', 'p')
            and pg_catalog.has_table_privilege(c.oid, 'select')
    ),
    -- Leads from each exposed column to the table's column that it shows.
    lineage as (
        select e.oid, a.attnum, e.oid as origin, a.attnum as origin_attnum, false as nulled
        from exposed as e
        inner join pg_catalog.pg_attribute as a on a.attrelid = e.oid
        where a.attnum > 0 and not a.attisdropped
        union
        select l.oid, l.attnum, o.origin, o.origin_attnum, l.nulled or o.nulled
        from lineage as l
        inner join origins as o on o.view = l.origin and o.attnum = l.origin_attnum
    ),
    bases as (
        select
            l.oid, l.attnum, b.attnotnull and not l.nulled as not_null,
            b.atthasdef or b.attidentity <> '' as has_default,
            b.attgenerated <> '' or b.attidentity = 'a' as generated,
            (
                select pg_catalog.jsonb_agg(pg_catalog.pg_get_constraintdef(k.oid) order by k.conname)
                from pg_catalog.pg_constraint as k
                where k.conrelid = l.origin and k.contype = 'c' and k.conkey = array[l.origin_attnum]
            ) as checks
        from lineage as l
        inner join pg_catalog.pg_class as c on l.origin = c.oid and c.relkind in ('r', 'p', 'f')
        inner join pg_catalog.pg_attribute as b
            on l.origin = b.attrelid and l.origin_attnum = b.attnum
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
            )) as facts
        from exposed as e
        inner join pg_catalog.pg_attribute as a on a.attrelid = e.oid
        left join bases as b on b.oid = e.oid and b.attnum = a.attnum
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
                'columns', c.facts
            ))
            from exposed as e inner join columns as c on e.oid = c.oid
        ), '{}'),
        'functions', coalesce((
            select pg_catalog.jsonb_object_agg(p.proname, pg_catalog.jsonb_build_object(
                'volatile', p.provolatile = 'v',
                'set', p.proretset,
                'relation', r.relname,
                'type', pg_catalog.format_type(p.prorettype, null),
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
                and pg_catalog.has_function_privilege(p.oid, 'execute')
        ), '{}')
    )
$$;
comment on function gateway.describe_api()
is 'Rights of the current role in schema api, and properties of the views'' columns in their base tables.';
grant execute on function gateway.describe_api() to flows, public_backend, grafanareader;

reset role;

-- PostgREST, and with it the OpenAPI document, follows changes of schema api automatically.
create or replace function gateway.announce_schema() returns event_trigger
language plpgsql set search_path = ''
as $$
begin
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
