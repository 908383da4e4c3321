-- The aggregates: continuous ones, over the hypertable of half-hours.
set local role flows_owner;

create function flows.joined_sets(one uuid[], other uuid[]) returns uuid[]
language sql immutable parallel safe set search_path = ''
return case
    when one @> other then one
    else array(select distinct member from unnest(one || other) as member order by member)
end;
create aggregate flows.union_of(uuid[]) (
    sfunc = flows.joined_sets, stype = uuid[], initcond = '{}', combinefunc = flows.joined_sets, parallel = safe
);

select public.create_hypertable(
    'flows.register_interval_hh', public.by_range('timestamp', interval '7 days'), create_default_indexes => false
);
alter table flows.register_interval_hh set (
    timescaledb.enable_columnstore, timescaledb.segmentby = 'register_id', timescaledb.orderby = '"timestamp" desc'
);

create materialized view flows.circuit_interval_hh
with (timescaledb.continuous, timescaledb.materialized_only = false) as
select
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
        and reading."timestamp" >= mapping.start_time
        and (reading."timestamp" < mapping.end_time or mapping.end_time is null)
inner join flows.meter_registers as register on reading.register_id = register.register_id
group by 1, 2
with no data;

create materialized view flows.circuit_interval_daily
with (timescaledb.continuous, timescaledb.materialized_only = false) as
select
    circuit_id,
    public.time_bucket('1 day', "timestamp") as day,
    sum(total_import_kwh) as total_import_kwh,
    sum(total_export_kwh) as total_export_kwh,
    sum(register_intervals) as register_intervals,
    count(*) as present_intervals,
    flows.union_of(meters) as meters,
    max(updated_at) as updated_at
from flows.circuit_interval_hh
group by 1, 2
with no data;

create materialized view flows.circuit_interval_monthly
with (timescaledb.continuous, timescaledb.materialized_only = false) as
select
    circuit_id,
    public.time_bucket('1 month', day) as month,
    sum(total_import_kwh) as total_import_kwh,
    sum(total_export_kwh) as total_export_kwh,
    sum(register_intervals) as register_intervals,
    sum(present_intervals) as present_intervals,
    flows.union_of(meters) as meters,
    max(updated_at) as updated_at
from flows.circuit_interval_daily
group by 1, 2
with no data;

create materialized view flows.circuit_interval_daily_london
with (timescaledb.continuous, timescaledb.materialized_only = false) as
select
    circuit_id,
    public.time_bucket('1 day', "timestamp", 'Europe/London') as day,
    sum(total_import_kwh) as total_import_kwh,
    sum(total_export_kwh) as total_export_kwh,
    sum(register_intervals) as register_intervals,
    count(*) as present_intervals,
    flows.union_of(meters) as meters,
    max(updated_at) as updated_at
from flows.circuit_interval_hh
group by 1, 2
with no data;

-- The policies move the line between what is kept and what is summed when it is asked for; flows.follow
-- brings what changed behind that line.
select
    public.add_continuous_aggregate_policy(
        'flows.circuit_interval_hh',
        start_offset => null, end_offset => interval '1 hour', schedule_interval => interval '30 minutes'
    ),
    public.add_continuous_aggregate_policy(
        'flows.circuit_interval_daily',
        start_offset => null, end_offset => interval '1 day', schedule_interval => interval '1 hour'
    ),
    public.add_continuous_aggregate_policy(
        'flows.circuit_interval_daily_london',
        start_offset => null, end_offset => interval '1 day', schedule_interval => interval '1 hour'
    ),
    public.add_continuous_aggregate_policy(
        'flows.circuit_interval_monthly',
        start_offset => null, end_offset => interval '1 month', schedule_interval => interval '1 day'
    );

alter materialized view flows.circuit_interval_hh
set (timescaledb.enable_columnstore, timescaledb.segmentby = 'circuit_id', timescaledb.orderby = '"timestamp" desc');

reset role;
