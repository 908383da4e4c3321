select create_hypertable(format('flows.%I', series), 'timestamp', chunk_time_interval => interval '7 days')
from unnest(array[
    'register_interval_hh', 'register_import', 'register_export', 'meter_csq', 'meter_voltage', 'meter_3p_voltage',
    'meter_health_history', 'meter_prepay_balance', 'meter_event_log'
]) as series;
create materialized view flows.circuit_interval_hh with (timescaledb.continuous) as
select m.circuit as circuit_id, time_bucket('30 minutes', r."timestamp") as "timestamp", sum(r.kwh) as kwh
from flows.register_interval_hh as r
inner join flows.circuit_register as m on r.register_id = m.register
group by 1, 2 with no data;
create materialized view flows.circuit_interval_daily with (timescaledb.continuous) as
select circuit_id, time_bucket('1 day', "timestamp") as day, sum(kwh) as kwh
from flows.circuit_interval_hh group by 1, 2 with no data;
create materialized view flows.circuit_interval_monthly with (timescaledb.continuous) as
select circuit_id, time_bucket('1 month', day) as month, sum(kwh) as kwh
from flows.circuit_interval_daily group by 1, 2 with no data;
