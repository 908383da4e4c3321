-- With the circuit in the index, a few circuits' rows of a time at which thousands have one are found without
-- reading the others.
set local role flows_owner;

create index on flows.circuit_interval_hh (esco, "timestamp" desc, circuit_id);
create index on flows.circuit_interval_daily (esco, day desc, circuit_id);
create index on flows.circuit_interval_daily_london (esco, day desc, circuit_id);
create index on flows.circuit_interval_monthly (esco, month desc, circuit_id);
drop index flows.circuit_interval_hh_esco_timestamp_idx;
drop index flows.circuit_interval_daily_esco_day_idx;
drop index flows.circuit_interval_daily_london_esco_day_idx;
drop index flows.circuit_interval_monthly_esco_month_idx;

reset role;
