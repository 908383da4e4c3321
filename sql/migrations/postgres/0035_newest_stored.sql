-- The newest rows stand at the end of an index, and no circuit of them is named any more (084_newest.sql). Without the
-- circuit, the index keeps the rows of a time together in a tenth of the space, and a new one comes to the end.
set local role flows_owner;

create index on flows.circuit_sums_hh (esco, "timestamp" desc);
create index on flows.circuit_sums_daily (esco, day desc);
create index on flows.circuit_sums_daily_london (esco, day desc);
create index on flows.circuit_sums_monthly (esco, month desc);
drop index flows.circuit_sums_hh_esco_timestamp_circuit_id_idx;
drop index flows.circuit_sums_daily_esco_day_circuit_id_idx;
drop index flows.circuit_sums_daily_london_esco_day_circuit_id_idx;
drop index flows.circuit_sums_monthly_esco_month_circuit_id_idx;

reset role;
