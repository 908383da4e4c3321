-- migrate:up
set local role flows_owner;

create materialized view flows.circuit_interval_hh
with (timescaledb.continuous, timescaledb.materialized_only = false) as
select
    mapping.circuit as circuit_id,
    public.time_bucket('30 minutes', reading."timestamp") as "timestamp",
    sum(reading.import_kwh) as total_import_kwh,
    sum(reading.export_kwh) as total_export_kwh,
    count(*) as register_intervals
from flows.register_interval_hh as reading
inner join flows.circuit_register as mapping
    on
        reading.register_id = mapping.register
        and reading."timestamp" >= mapping.start_time
        and (reading."timestamp" < mapping.end_time or mapping.end_time is null)
group by 1, 2
with no data;

create materialized view flows.circuit_interval_daily
with (timescaledb.continuous, timescaledb.materialized_only = false) as
select
    circuit_id,
    public.time_bucket('1 day', "timestamp") as day,
    sum(total_import_kwh) as total_import_kwh,
    sum(total_export_kwh) as total_export_kwh,
    sum(register_intervals) as register_intervals
from flows.circuit_interval_hh
group by 1, 2
with no data;

select
    public.add_continuous_aggregate_policy(
        'flows.circuit_interval_hh',
        start_offset => null, end_offset => interval '1 hour', schedule_interval => interval '10 minutes'
    ),
    public.add_continuous_aggregate_policy(
        'flows.circuit_interval_daily',
        start_offset => null, end_offset => interval '1 day', schedule_interval => interval '1 hour'
    );

reset role;

-- migrate:down
