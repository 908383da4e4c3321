set local role flows_owner;
comment on table flows.retention
is 'Retention of each time series and aggregate, and the age at which it moves to the columnstore.';
comment on column flows.retention.series is 'Table of the series.';
comment on column flows.retention.keep is 'Age up to which rows are kept; empty to keep them forever.';
comment on column flows.retention.columnstore_after
is 'Age at which rows move to the columnstore (TimescaleDB only); empty for never.';
alter table flows.retention enable row level security;
alter table flows.retention force row level security;
create policy "administrators manage retention" on flows.retention
to flows_owner, tsdbadmin using (current_user in ('flows_owner', 'tsdbadmin'));
grant select, update on flows.retention to tsdbadmin;

reset role;
