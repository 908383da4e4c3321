set local role flows_owner;

create index on flows.circuit_interval_hh (esco, "timestamp" desc);
create index on flows.circuit_interval_daily (esco, day desc);
create index on flows.circuit_interval_daily_london (esco, day desc);
create index on flows.circuit_interval_monthly (esco, month desc);

reset role;
