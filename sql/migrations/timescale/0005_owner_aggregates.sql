-- The owner in every row, second part: aggregates by owner, filled beside those that are read, and what fills
-- the series: a chunk in each transaction, so that others wait for no more than that.
set local role flows_owner;

create materialized view flows.owned_interval_hh
with (timescaledb.continuous, timescaledb.materialized_only = false) as
select
    reading.esco,
    mapping.circuit as circuit_id,
    public.time_bucket('30 minutes', reading."timestamp") as "timestamp",
    sum(reading.import_kwh) as total_import_kwh,
    sum(reading.export_kwh) as total_export_kwh,
    count(*) as register_intervals,
    array_agg(distinct register.meter_id) as meters,
    max(greatest(reading.updated_at, mapping.updated_at)) as updated_at
from flows.register_interval_hh as reading
inner join flows.circuit_register as mapping
    on
        reading.register_id = mapping.register
        and reading.esco is not distinct from mapping.esco
        and reading."timestamp" >= mapping.start_time
        and (reading."timestamp" < mapping.end_time or mapping.end_time is null)
inner join flows.meter_registers as register on reading.register_id = register.register_id
group by 1, 2, 3
with no data;

create materialized view flows.owned_interval_daily
with (timescaledb.continuous, timescaledb.materialized_only = false) as
select
    esco,
    circuit_id,
    public.time_bucket('1 day', "timestamp") as day,
    sum(total_import_kwh) as total_import_kwh,
    sum(total_export_kwh) as total_export_kwh,
    sum(register_intervals) as register_intervals,
    count(*) as present_intervals,
    flows.union_of(meters) as meters,
    max(updated_at) as updated_at
from flows.owned_interval_hh
group by 1, 2, 3
with no data;

create materialized view flows.owned_interval_monthly
with (timescaledb.continuous, timescaledb.materialized_only = false) as
select
    esco,
    circuit_id,
    public.time_bucket('1 month', day) as month,
    sum(total_import_kwh) as total_import_kwh,
    sum(total_export_kwh) as total_export_kwh,
    sum(register_intervals) as register_intervals,
    sum(present_intervals) as present_intervals,
    flows.union_of(meters) as meters,
    max(updated_at) as updated_at
from flows.owned_interval_daily
group by 1, 2, 3
with no data;

create materialized view flows.owned_interval_daily_london
with (timescaledb.continuous, timescaledb.materialized_only = false) as
select
    esco,
    circuit_id,
    public.time_bucket('1 day', "timestamp", 'Europe/London') as day,
    sum(total_import_kwh) as total_import_kwh,
    sum(total_export_kwh) as total_export_kwh,
    sum(register_intervals) as register_intervals,
    count(*) as present_intervals,
    flows.union_of(meters) as meters,
    max(updated_at) as updated_at
from flows.owned_interval_hh
group by 1, 2, 3
with no data;

alter materialized view flows.owned_interval_hh set (
    timescaledb.enable_columnstore, timescaledb.segmentby = 'esco, circuit_id', timescaledb.orderby = '"timestamp" desc'
);

-- Chunks that are in the columnstore already keep their layout until they are filled.
do $$
declare
    series record;
begin
    for series in
        select h.hypertable_name as name, k.column_name as key
        from timescaledb_information.hypertables as h
        inner join information_schema.columns as k
            on h.hypertable_schema = k.table_schema and h.hypertable_name = k.table_name
        where h.hypertable_schema = 'flows' and k.column_name in ('register_id', 'meter_id')
    loop
        execute format(
            'alter table flows.%I set (timescaledb.segmentby = %L)', series.name, 'esco, ' || series.key
        );
    end loop;
end $$;

create or replace function flows.kept_until(aggregate text) returns timestamptz
language sql stable set search_path = ''
begin atomic
    select _timescaledb_functions.to_timestamp(_timescaledb_functions.cagg_watermark(kept.id))
    from timescaledb_information.continuous_aggregates as a
    inner join _timescaledb_catalog.hypertable as kept
        on a.materialization_hypertable_schema = kept.schema_name
        and a.materialization_hypertable_name = kept.table_name
    where a.view_schema = 'flows' and a.view_name = aggregate;
end;

create table flows.owner_filling (started_at timestamptz not null, sums_kept boolean not null default false);
insert into flows.owner_filling (started_at) values (clock_timestamp());

create procedure flows.fill_series()
language plpgsql
as $$
declare
    chunk record;
    level record;
    starts timestamptz;
    ends timestamptz;
    oldest timestamptz;
    kept regclass;
    old regclass;
begin
    for chunk in
        select
            format('%I.%I', c.chunk_schema, c.chunk_name)::regclass as relation, c.is_compressed,
            case when c.hypertable_name like 'register%' then 'register_id' else 'meter_id' end as key,
            case when c.hypertable_name like 'register%' then 'meter_registers' else 'meter_registry' end as parent,
            case when c.hypertable_name like 'register%' then 'register_id' else 'id' end as parent_key
        from timescaledb_information.chunks as c
        where c.hypertable_schema = 'flows'
            and exists (
                select from information_schema.columns as k
                where k.table_schema = 'flows' and k.table_name = c.hypertable_name and k.column_name = 'esco'
            )
            and not exists (
                select from timescaledb_information.chunk_columnstore_settings as s
                where s.chunk = format('%I.%I', c.chunk_schema, c.chunk_name)::regclass
                    and c.is_compressed and s.segmentby like '%esco%'
            )
        order by c.range_start desc
    loop
        perform pg_catalog.set_config('flows.filling', 'on', true);
        if chunk.is_compressed then
            perform public.decompress_chunk(chunk.relation);
        end if;
        execute format(
            'update %1$s as t set esco = p.esco from flows.%2$I as p '
            'where t.%3$I = p.%4$I and t.esco is null and p.esco is not null',
            chunk.relation, chunk.parent, chunk.key, chunk.parent_key
        );
        if chunk.is_compressed then
            perform public.compress_chunk(chunk.relation);
        end if;
        commit;
    end loop;

    select min(r."timestamp") into oldest from flows.register_interval_hh as r;
    for level in
        select * from (values
            (1, 'interval_hh', 'timestamp', interval '1 month', 'UTC', interval '30 minutes'),
            (2, 'interval_daily', 'day', interval '1 year', 'UTC', interval '1 day'),
            (3, 'interval_daily_london', 'day', interval '1 year', 'Europe/London', interval '1 day'),
            (4, 'interval_monthly', 'month', interval '10 years', 'UTC', interval '1 month')
        ) as l (position, name, label, step, zone, bucket) order by position
    loop
        -- Up to where the old one is kept; what is later is summed when it is asked for.
        ends := flows.kept_until('circuit_' || level.name);
        starts := greatest(
            public.time_bucket(level.bucket, oldest, level.zone), flows.kept_until('owned_' || level.name)
        );
        while starts < ends loop
            call public.refresh_continuous_aggregate(
                format('flows.%I', 'owned_' || level.name)::regclass, starts,
                least(public.time_bucket(level.step, starts + level.step, level.zone), ends)
            );
            starts := least(public.time_bucket(level.step, starts + level.step, level.zone), ends);
        end loop;
    end loop;

    -- Sums of half-hours that are kept no longer are taken over; their circuits say whose they are.
    if not (select f.sums_kept from flows.owner_filling as f) then
        for level in
            select * from (values
                ('interval_hh', 'timestamp', interval '30 minutes', 'UTC'),
                ('interval_daily', 'day', interval '1 day', 'UTC'),
                ('interval_daily_london', 'day', interval '1 day', 'Europe/London'),
                ('interval_monthly', 'month', interval '1 month', 'UTC')
            ) as l (name, label, bucket, zone)
        loop
            select format('%I.%I', a.materialization_hypertable_schema, a.materialization_hypertable_name)::regclass
            into kept from timescaledb_information.continuous_aggregates as a
            where a.view_schema = 'flows' and a.view_name = 'owned_' || level.name;
            select format('%I.%I', a.materialization_hypertable_schema, a.materialization_hypertable_name)::regclass
            into old from timescaledb_information.continuous_aggregates as a
            where a.view_schema = 'flows' and a.view_name = 'circuit_' || level.name;
            perform set_config('timescaledb.skip_cagg_invalidation', 'on', true);
            -- A bucket that the oldest half-hour cuts is whole in the old sums alone.
            execute format(
                'delete from %1$s where %2$I <= $1', kept, level.label
            ) using public.time_bucket(level.bucket, oldest, level.zone);
            execute format(
                'insert into %1$s (esco, %3$s) select c.esco, %4$s from %2$s as o '
                'inner join flows.circuits as c on o.circuit_id = c.id where o.%5$I <= coalesce($1, ''infinity'')',
                kept, old,
                (
                    select string_agg(quote_ident(a.attname), ', ' order by a.attnum) from pg_catalog.pg_attribute as a
                    where a.attrelid = old and a.attnum > 0 and not a.attisdropped
                ),
                (
                    select string_agg('o.' || quote_ident(a.attname), ', ' order by a.attnum)
                    from pg_catalog.pg_attribute as a
                    where a.attrelid = old and a.attnum > 0 and not a.attisdropped
                ),
                level.label
            ) using public.time_bucket(level.bucket, oldest, level.zone);
        end loop;
        update flows.owner_filling set sums_kept = true;
        commit;
    end if;
end $$;

reset role;
