-- migrate:up
set local role flows_owner;

-- An empty table becomes a range-partitioned one of the same name, columns, keys and comments.
create function flows.make_time_series(series regclass) returns void
language plpgsql set search_path = ''
as $$
declare
    title text := (select relname from pg_catalog.pg_class where oid = series);
    foreign_keys text[];
    clause text;
begin
    foreign_keys := array(
        select pg_catalog.pg_get_constraintdef(oid)
        from pg_catalog.pg_constraint where conrelid = series and contype = 'f'
    );
    execute format('alter table flows.%I rename to %I', title, title || '_template');
    execute format(
        'create table flows.%I (like flows.%I including all) partition by range ("timestamp")',
        title, title || '_template'
    );
    execute format('drop table flows.%I', title || '_template');
    foreach clause in array foreign_keys loop
        execute format('alter table flows.%I add %s', title, clause);
    end loop;
    -- A partition a year, from before the first smart meters to well ahead: an old reading that
    -- arrives late is as welcome as a new one, and the planner prunes by year.
    for year in 2000..2049 loop
        execute format(
            'create table flows.%I partition of flows.%I for values from (%L) to (%L)',
            title || '_' || year, title, year || '-01-01 00:00Z', (year + 1) || '-01-01 00:00Z'
        );
    end loop;
end $$;
comment on function flows.make_time_series(regclass) is 'Turns an empty table into a time series.';

select
    flows.make_time_series('flows.register_import'),
    flows.make_time_series('flows.register_export'),
    flows.make_time_series('flows.register_interval_hh');

reset role;

-- migrate:down
