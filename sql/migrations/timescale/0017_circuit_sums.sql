-- Views with kwh take the place of the aggregates, which are kept under other names (sql/objects/079_energy.sql).
set local role flows_owner;

alter materialized view flows.circuit_interval_hh rename to circuit_sums_hh;
alter materialized view flows.circuit_interval_daily rename to circuit_sums_daily;
alter materialized view flows.circuit_interval_daily_london rename to circuit_sums_daily_london;
alter materialized view flows.circuit_interval_monthly rename to circuit_sums_monthly;

drop procedure flows.fill_kwh();

reset role;
