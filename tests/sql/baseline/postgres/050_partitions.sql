-- migrate:up
set local role flows_owner;

create function flows.add_partition(series text, year integer) returns void
language plpgsql set search_path = '' set client_min_messages = 'warning'
as $$
begin
    execute format(
        'create table if not exists flows.%I partition of flows.%I for values from (%L) to (%L)',
        series || '_' || year, series, year || '-01-01 00:00Z', (year + 1) || '-01-01 00:00Z'
    );
end $$;
comment on function flows.add_partition(text, integer) is 'Makes the partition of one year.';

-- An empty table becomes a range-partitioned one of the same name, columns, keys and comments.
create function flows.make_time_series(series text) returns void
language plpgsql set search_path = ''
as $$
declare
    template regclass := format('flows.%I', series);
    foreign_keys text[] := array(
        select pg_catalog.pg_get_constraintdef(oid)
        from pg_catalog.pg_constraint where conrelid = template and contype = 'f'
    );
    description text := pg_catalog.obj_description(template, 'pg_class');
    clause text;
begin
    execute format('alter table flows.%I rename to template', series);
    execute format(
        'create table flows.%I (like flows.template including all) partition by range ("timestamp")', series
    );
    drop table flows.template;
    execute format(
        'alter table flows.%1$I rename constraint %2$I to %3$I', series,
        (
            select conname from pg_catalog.pg_constraint
            where conrelid = format('flows.%I', series)::regclass and contype = 'p'
        ),
        series || '_pkey'
    );
    execute format('comment on table flows.%I is %L', series, description);
    foreach clause in array foreign_keys loop
        execute format('alter table flows.%I add %s', series, clause);
    end loop;
    -- A partition a year, from before the first smart meters to well ahead: an old reading that
    -- arrives late is as welcome as a new one, and the planner prunes by year.
    for year in 2000..extract(year from now())::integer + 5 loop
        perform flows.add_partition(series, year);
    end loop;
end $$;
comment on function flows.make_time_series(text) is 'Turns an empty table into a time series.';

select flows.make_time_series(series)
from unnest(array[
    'register_import', 'register_export', 'register_interval_hh', 'meter_voltage', 'meter_3p_voltage',
    'meter_csq', 'meter_health_history', 'meter_prepay_balance', 'meter_event_log'
]) as series;

reset role;

-- migrate:down
