set local role flows_owner;

create or replace function flows.add_partition(series text, year integer) returns void
language plpgsql set search_path = ''
as $$
begin
    -- To grant again what is granted would change the catalogue while a migration may.
    if to_regclass(format('flows.%I', series || '_' || year)) is not null then
        return;
    end if;
    execute format(
        'create table flows.%I partition of flows.%I for values from (%L) to (%L)',
        series || '_' || year, series, year || '-01-01 00:00Z', (year + 1) || '-01-01 00:00Z'
    );
    execute format('grant select on flows.%I to grafanareader', series || '_' || year);
end $$;
comment on function flows.add_partition(text, integer) is 'Creates the partition of one year, unless there is one.';

-- Replaces an empty table by a range-partitioned one with the same name, columns, constraints and indexes.
create or replace function flows.make_time_series(series text) returns void
language plpgsql set search_path = ''
as $$
declare
    template regclass := format('flows.%I', series);
    -- Keys before the constraints that reference them; a key's index is created with it.
    parts text[] := array(
        select format('alter table flows.%I add constraint %I %s', series, k.conname, pg_catalog.pg_get_constraintdef(k.oid))
        from pg_catalog.pg_constraint as k where k.conrelid = template and k.contype in ('p', 'u', 'f')
        order by k.contype = 'f', k.conname
    ) || array(
        select pg_catalog.pg_get_indexdef(i.indexrelid)
        from pg_catalog.pg_index as i
        where i.indrelid = template
            and not exists (select from pg_catalog.pg_constraint as k where k.conindid = i.indexrelid)
        order by i.indexrelid
    );
    part text;
    filled boolean;
begin
    execute format('select exists (select from flows.%I)', series) into filled;
    if filled then
        raise exception 'flows.% has rows: a series can only be created from an empty table', series;
    end if;
    execute format('alter table flows.%I rename to template', series);
    execute format(
        'create table flows.%I (like flows.template including all excluding indexes) partition by range ("timestamp")',
        series
    );
    drop table flows.template;
    foreach part in array parts loop
        execute part;
    end loop;
    -- A partition per year, from before the first smart meters to well into the future, so that late
    -- readings of any age find one, and the planner prunes by year.
    for year in 2000..extract(year from now())::integer + 5 loop
        perform flows.add_partition(series, year);
    end loop;
end $$;
comment on function flows.make_time_series(text) is 'Turns an empty table into a time series.';

select flows.make_time_series(flows.stored_name(s.name))
from flows.series() as s
inner join pg_catalog.pg_class as c
    on flows.stored_name(s.name) = c.relname and c.relnamespace = 'flows'::regnamespace
where s.label = 'timestamp' and c.relkind = 'r';

-- Events of meters with a lost clock; its name ends in a year as those of the others do.
create table if not exists flows.meter_event_log_1999 partition of flows.meter_event_log
for values from (minvalue) to ('2000-01-01 00:00Z');

reset role;
