-- migrate:up
set local role flows_owner;

-- What every table has.
do $$
declare
    "column" record;
begin
    for "column" in
        select c.oid::regclass as relation, a.attname as name
        from pg_catalog.pg_class as c
        inner join pg_catalog.pg_attribute as a on c.oid = a.attrelid and a.attnum > 0 and not a.attisdropped
        where c.relnamespace = 'flows'::regnamespace and c.relkind in ('r', 'p', 'v') and not c.relispartition
            and pg_catalog.col_description(c.oid, a.attnum) is null
            and a.attname in (
                'id', 'created_at', 'updated_at', 'serial', 'name', 'clock_time_diff_seconds',
                'clock_time_diff_synced_at'
            )
    loop
        execute format(
            'comment on column %s.%I is %L', "column".relation, "column".name,
            case "column".name
                when 'id' then 'Id of the row.'
                when 'created_at' then 'When the row was made, UTC.'
                when 'updated_at' then 'When the row last changed, UTC.'
                when 'serial' then 'Serial number on the meter.'
                when 'name' then 'Name of the meter.'
                when 'clock_time_diff_seconds' then 'How far the meter''s clock is off, s.'
                else 'When the clock was last compared.'
            end
        );
    end loop;
end $$;

-- The aggregates have the same columns on both engines, and at each level.
do $$
declare
    level record;
    "column" record;
begin
    for level in
        select * from (values
            ('circuit_interval_hh', 'Energy of each half-hour, by circuit.', 'half-hour'),
            ('circuit_interval_daily', 'Energy of each UTC day, by circuit.', 'day'),
            ('circuit_interval_daily_london', 'Energy of each day of Europe/London, by circuit.', 'day'),
            ('circuit_interval_monthly', 'Energy of each UTC month, by circuit.', 'month')
        ) as l (name, description, span)
    loop
        execute format(
            'comment on %s flows.%I is %L',
            case flows.engine() when 'timescale' then 'view' else 'table' end, level.name, level.description
        );
        for "column" in
            select * from (values
                ('circuit_id', 'The circuit.'),
                ('timestamp', 'Start of the half-hour, UTC.'),
                ('day', 'Start of the day, UTC.'),
                ('month', 'Start of the month, UTC.'),
                ('total_import_kwh', 'Energy imported in the %s, kWh; empty where unknown.'),
                ('total_export_kwh', 'Energy exported in the %s, kWh; empty where unknown.'),
                ('register_intervals', 'Half-hours that registers delivered for the %s.'),
                ('present_intervals', 'Half-hours of the %s for which any register delivered.'),
                ('meters', 'Meters that reported in the %s.'),
                ('updated_at', 'When the figures last changed, UTC.')
            ) as c (name, description)
            inner join pg_catalog.pg_attribute as a
                on a.attrelid = format('flows.%I', level.name)::regclass and c.name = a.attname
        loop
            execute format(
                'comment on column flows.%I.%I is %L',
                level.name, "column".name, format("column".description, level.span)
            );
        end loop;
    end loop;
end $$;

-- A view in api says what the relation of the same name in flows says: it is the API's documentation. A
-- barrier view takes no ORDER BY … LIMIT from outside, so a series adds how to ask for what is newest.
do $$
declare
    pair record;
begin
    for pair in
        select
            api.oid as shown, flows.oid as told, flows.relname as name,
            case
                when not coalesce('security_barrier=true' = any(api.reloptions), false)
                    or api.relname ~ '_(latest|missing)$' then ''
                when to_regclass(format('api.%I', api.relname || '_latest')) is not null
                    then format(
                        ' For the newest row of each ask %s_latest; a limit without a window of time reads all of '
                        'the history.', api.relname
                    )
                else ' Name a window of time: a limit alone reads all of the history.'
            end as advice
        from pg_catalog.pg_class as api
        inner join pg_catalog.pg_class as flows on api.relname = flows.relname
        where api.relnamespace = 'api'::regnamespace and flows.relnamespace = 'flows'::regnamespace
    loop
        execute format(
            'comment on view api.%I is %L',
            pair.name, pg_catalog.obj_description(pair.told, 'pg_class') || pair.advice
        );
        execute coalesce((
            select string_agg(format(
                'comment on column api.%I.%I is %L', pair.name, told.attname,
                pg_catalog.col_description(pair.told, told.attnum)
            ), '; ')
            from pg_catalog.pg_attribute as told
            where told.attrelid = pair.told and told.attnum > 0 and not told.attisdropped
        ), '');
    end loop;
end $$;

reset role;

-- migrate:down
