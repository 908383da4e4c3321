-- migrate:up
set local role flows_owner;

-- How long each series is kept: settings of the deployment, changed by UPDATE; the engine follows.
create table flows.retention (
    series text primary key,
    keep interval check (keep > interval '0'),
    columnstore_after interval check (columnstore_after > interval '0')
);
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

-- Half-hours and what is summed from them are the community's books and are kept.
insert into flows.retention (series, keep, columnstore_after) values
('register_import', '2 years', '7 days'),
('register_export', '2 years', '7 days'),
('register_interval_hh', null, '7 days'),
('meter_voltage', '2 years', '7 days'),
('meter_3p_voltage', '2 years', '7 days'),
('meter_csq', '2 years', '7 days'),
('meter_health_history', '2 years', '7 days'),
('meter_prepay_balance', '2 years', '7 days'),
('meter_event_log', '90 days', '7 days'),
('circuit_interval_hh', null, '40 days'),
('circuit_interval_daily', null, null),
('circuit_interval_daily_london', null, null),
('circuit_interval_monthly', null, null);

-- Changes that were followed an hour ago are put together, a row for each ESCO, kind and week. Their
-- number and the last of them stay, so no answer's tag moves.
create function flows.compact_changes() returns bigint
language sql set search_path = ''
begin atomic
    with old as (
        select c.*, date_trunc('week', lower(c.period), 'UTC') as week
        from flows.change as c
        where c.followed_at < now() - interval '1 hour'
    ), together as (
        select
            max(o.id) as id, o.esco, o.kind, range_merge(range_agg(o.period)) as period,
            sum(o.changes) as changes, max(o.changed_at) as changed_at, max(o.followed_at) as followed_at
        from old as o
        group by o.esco, o.kind, o.week
        having count(*) > 1
    ), kept as (
        update flows.change as c set
            period = t.period, changes = t.changes, changed_at = t.changed_at, followed_at = t.followed_at
        from together as t where c.id = t.id
    ), gone as (
        delete from flows.change as c using old as o, together as t
        where c.id = o.id and c.id <> t.id and o.kind = t.kind and o.esco is not distinct from t.esco
            and o.week is not distinct from date_trunc('week', lower(t.period), 'UTC')
        returning c.id
    )
    select count(*) from gone;
end;
comment on function flows.compact_changes() is 'Puts old changes together; returns how many rows went.';

reset role;

-- migrate:down
