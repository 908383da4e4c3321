set local role flows_owner;
comment on table flows.retention
is 'How long each time series and aggregate is kept, and when it moves to the columnstore.';
comment on column flows.retention.series is 'Table of the series.';
comment on column flows.retention.keep is 'How long rows are kept; empty for ever.';
comment on column flows.retention.columnstore_after
is 'When rows move to the columnstore (TimescaleDB only); empty for never.';
alter table flows.retention enable row level security;
alter table flows.retention force row level security;
create policy "administrators manage retention" on flows.retention
to flows_owner, tsdbadmin using (current_user in ('flows_owner', 'tsdbadmin'));
grant select, update on flows.retention to tsdbadmin;

reset role;
