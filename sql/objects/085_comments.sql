set local role flows_owner;

-- Series and aggregates: the descriptions in flows.series(), and those of the columns they share. The
-- aggregates have the same columns on both engines and at each level.
do $$
declare
    series record;
    "column" record;
begin
    for series in
        select
            s.*,
            case s.label when 'timestamp' then 'half-hour' else s.label end as span,
            case when c.relkind = 'v' then 'view' else 'table' end as kind
        from flows.series() as s
        inner join pg_catalog.pg_class as c on s.name = c.relname and c.relnamespace = 'flows'::regnamespace
    loop
        execute format('comment on %s flows.%I is %L', series.kind, series.name, series.description);
        for "column" in
            select a.attname as name, coalesce(series.columns ->> a.attname, shared.description) as description
            from pg_catalog.pg_attribute as a
            left join (values
                ('meter_id', 'meter_id', 'Meter that was measured.'),
                ('meter_id', 'timestamp', 'Time of the measurement, UTC.'),
                ('circuit_id', 'circuit_id', 'The circuit.'),
                ('circuit_id', 'timestamp', 'Start of the half-hour, UTC.'),
                ('circuit_id', 'day', 'Start of the day, UTC.'),
                ('circuit_id', 'month', 'Start of the month, UTC.'),
                ('circuit_id', 'total_import_kwh', 'Energy imported in the %s, kWh; empty where unknown.'),
                ('circuit_id', 'total_export_kwh', 'Energy exported in the %s, kWh; empty where unknown.'),
                ('circuit_id', 'kwh',
                    'Energy of the %s as one figure, the sum of both, kWh; kept for compatibility.'),
                ('circuit_id', 'register_intervals', 'Half-hours in the %s over all registers.'),
                ('circuit_id', 'present_intervals', 'Half-hours of the %s for which any register reported.'),
                ('circuit_id', 'meters', 'Meters that reported in the %s.'),
                ('circuit_id', 'updated_at', 'Time at which the figures last changed, UTC.')
            ) as shared (key, name, description) on series.key = shared.key and a.attname = shared.name
            where a.attrelid = format('flows.%I', series.name)::regclass and a.attnum > 0 and not a.attisdropped
        loop
            execute format(
                'comment on column flows.%I.%I is %L',
                series.name, "column".name, replace("column".description, '%s', series.span)
            );
        end loop;
    end loop;
end $$;

-- The relation that stores an aggregate has the descriptions of the view that shows it.
do $$
declare
    told record;
begin
    for told in
        select
            stored.oid::regclass as relation, case stored.relkind when 'v' then 'view' else 'table' end as kind,
            pg_catalog.obj_description(shown.oid, 'pg_class') as description,
            (
                select string_agg(format(
                    'comment on column %s.%I is %L', stored.oid::regclass, s.attname,
                    pg_catalog.col_description(shown.oid, v.attnum)
                ), '; ')
                from pg_catalog.pg_attribute as s
                inner join pg_catalog.pg_attribute as v on shown.oid = v.attrelid and s.attname = v.attname
                where s.attrelid = stored.oid and s.attnum > 0 and not s.attisdropped
            ) as columns
        from flows.series() as series
        inner join pg_catalog.pg_class as shown
            on series.name = shown.relname and shown.relnamespace = 'flows'::regnamespace
        inner join pg_catalog.pg_class as stored
            on flows.stored_name(series.name) = stored.relname and stored.relnamespace = 'flows'::regnamespace
        where stored.oid <> shown.oid
    loop
        execute format('comment on %s %s is %L', told.kind, told.relation, told.description);
        execute told.columns;
    end loop;
end $$;

-- The views of newest rows take the descriptions of their series.
do $$
declare
    told record;
begin
    for told in
        select
            latest.oid::regclass as relation, shown.attname as name,
            pg_catalog.col_description(series.oid, kept.attnum) as description
        from pg_catalog.pg_class as latest
        inner join pg_catalog.pg_class as series
            on latest.relname = series.relname || '_latest' and latest.relnamespace = series.relnamespace
        inner join pg_catalog.pg_attribute as shown on latest.oid = shown.attrelid
        inner join pg_catalog.pg_attribute as kept
            on series.oid = kept.attrelid and shown.attname = kept.attname
        where latest.relnamespace = 'flows'::regnamespace and shown.attnum > 0
    loop
        execute format('comment on column %s.%I is %L', told.relation, told.name, told.description);
    end loop;
end $$;

-- Columns that many tables have.
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
                'id', 'esco', 'created_at', 'updated_at', 'serial', 'name', 'clock_time_diff_seconds',
                'clock_time_diff_synced_at'
            )
    loop
        execute format(
            'comment on column %s.%I is %L', "column".relation, "column".name,
            case "column".name
                when 'id' then 'Id of the row.'
                when 'esco' then 'ESCO the row belongs to.'
                when 'created_at' then 'Time at which the row was created, UTC.'
                when 'updated_at' then 'Time at which the row last changed, UTC.'
                when 'serial' then 'Serial number on the meter.'
                when 'name' then 'Name of the meter.'
                when 'clock_time_diff_seconds' then 'Difference of the meter''s clock from the true time, s.'
                else 'Time at which the clock was last compared.'
            end
        );
    end loop;
end $$;

-- A view in api takes the comment of the relation with the same name in flows; it documents the API. An
-- ORDER BY … LIMIT is not pushed down into a barrier view, so a series adds how to get its newest rows.
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
                        ' The newest rows are in %s_latest. With a filter that is not on time, a limit reads the '
                        'whole history.', api.relname
                    )
                else ' Filter by time: a limit reads the whole history, but for the newest rows.'
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
            inner join pg_catalog.pg_attribute as shown on shown.attrelid = pair.shown and told.attname = shown.attname
            where told.attrelid = pair.told and told.attnum > 0 and not told.attisdropped
        ), '');
    end loop;
end $$;

reset role;
