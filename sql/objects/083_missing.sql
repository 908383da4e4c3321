set local role flows_owner;

-- Days that are over, from a register's first half-hour to its last day; a day without any counts too. They are an
-- array: of a series a thousand are expected, so that a limit would seem to need so few registers that those of all
-- ESCOs were read until some of the caller's have come.
create view flows.register_interval_hh_missing as
select
    register.esco,
    register.register_id,
    (day at time zone 'UTC')::date as "date",
    48 as expected_count,
    counted.record_count as actual_count,
    counted.record_count,
    48 - counted.record_count as missing_count
from flows.meter_registers as register
cross join lateral (
    select
        date_trunc('day', min(r."timestamp"), 'UTC') as first,
        least(
            date_trunc('day', now(), 'UTC'), date_trunc('day', register.end_time, 'UTC')
        ) - interval '1 day' as last
    from flows.register_interval_hh as r
    where r.register_id = register.register_id and r.esco is not distinct from register.esco
) as known
cross join lateral unnest(array(select generate_series(known.first, known.last, interval '1 day'))) as day
cross join lateral (
    select count(*)::integer as record_count
    from flows.register_interval_hh as r
    where r.register_id = register.register_id and r.esco is not distinct from register.esco
        and r."timestamp" >= day and r."timestamp" < day + interval '1 day'
) as counted
where counted.record_count < 48;
comment on view flows.register_interval_hh_missing is 'Days (UTC) on which a register has fewer than 48 half-hours.';
comment on column flows.register_interval_hh_missing.register_id is 'The register.';
comment on column flows.register_interval_hh_missing."date" is 'The day, UTC.';
comment on column flows.register_interval_hh_missing.record_count is 'Half-hours that are there.';
comment on column flows.register_interval_hh_missing.missing_count is 'Half-hours that are missing.';
call flows.show_as_owned(
    'register_interval_hh_missing',
    residents => flows.own_rows('register_id', '("date"::timestamp at time zone ''UTC'')', interval '1 day', 'UTC')
);

comment on column flows.register_interval_hh_missing.expected_count is 'Half-hours of a day.';
comment on column flows.register_interval_hh_missing.actual_count is 'Half-hours that are there, as record_count.';

-- Counters are read once a day at least.
do $$
declare
    direction text;
begin
    foreach direction in array array['import', 'export'] loop
        execute format(
            $view$
                create view flows.register_%1$s_missing as
                select
                    register.esco, register.register_id, (day at time zone 'UTC')::date as "date",
                    1 as expected_count, 0 as actual_count, 1 as missing_count
                from flows.meter_registers as register
                cross join lateral (
                    select
                        date_trunc('day', min(r."timestamp"), 'UTC') as first,
                        array_agg(distinct date_trunc('day', r."timestamp", 'UTC')) as days
                    from flows.register_%1$s as r
                    where r.register_id = register.register_id and r.esco is not distinct from register.esco
                        and r."timestamp" >= date_trunc('day', now(), 'UTC') - interval '1 year'
                        and r.read is not null
                ) as known
                cross join lateral unnest(array(select generate_series(
                    known.first,
                    least(date_trunc('day', now(), 'UTC'), date_trunc('day', register.end_time, 'UTC'))
                    - interval '1 day',
                    interval '1 day'
                ))) as day
                where day <> all(known.days)
            $view$, direction
        );
        execute format(
            $comments$
                comment on view flows.register_%1$s_missing
                is 'Days (UTC) of the last year on which a register''s %1$s counter was not read.';
                comment on column flows.register_%1$s_missing.register_id is 'The register.';
                comment on column flows.register_%1$s_missing."date" is 'The day, UTC.';
                comment on column flows.register_%1$s_missing.expected_count is 'Reads of a day.';
                comment on column flows.register_%1$s_missing.actual_count is 'Reads that are there.';
                comment on column flows.register_%1$s_missing.missing_count is 'Reads that are missing.';
            $comments$, direction
        );
        call flows.show_as_owned(
            format('register_%s_missing', direction),
            residents => flows.own_rows('register_id', '("date"::timestamp at time zone ''UTC'')', interval '1 day', 'UTC')
        );
    end loop;
end $$;

-- Programs that have no filter say so by null, or by the word.
create or replace function api.get_meters_for_cli(esco_filter text default null, feeder_filter text default null)
returns table (
    id uuid, ip_address text, serial text, name text, single_meter_app boolean, esco text, csq integer, health text,
    hardware text, feeder text
)
language sql stable
begin atomic
    select
        meter.id, host(meter.ip_address), meter.serial, meter.name, meter.single_meter_app, esco.code,
        shadow.csq, shadow.health, meter.hardware, feeder.name
    from flows.meter_registry as meter
    left join flows.escos as esco on meter.esco = esco.id
    left join flows.meter_shadows as shadow on meter.id = shadow.id
    left join flows.service_head_meter as link on meter.id = link.meter
    left join flows.service_head_registry as head on link.service_head = head.id
    left join flows.feeder_registry as feeder on head.feeder = feeder.id
    where meter.mode = 'active'
        and (coalesce(esco_filter, 'null') = 'null' or esco.code = esco_filter)
        and (coalesce(feeder_filter, 'null') = 'null' or feeder.name = feeder_filter)
    order by meter.serial;
end;
comment on function api.get_meters_for_cli(text, text)
is 'Active meters with their address, signal and health; optionally of one ESCO (by code) or feeder (by name).';
grant execute on function api.get_meters_for_cli(text, text) to flows, public_backend, grafanareader, tsdbadmin;

-- The same, where scripts in SQL look for it.
create or replace function flows.get_meters_for_cli(esco_filter text default null, feeder_filter text default null)
returns table (
    id uuid, ip_address text, serial text, name text, single_meter_app boolean, esco text, csq integer, health text,
    hardware text, feeder text
)
language sql stable
begin atomic
    select * from api.get_meters_for_cli(esco_filter, feeder_filter);
end;
comment on function flows.get_meters_for_cli(text, text) is 'The same as api.get_meters_for_cli.';
grant execute on function flows.get_meters_for_cli(text, text) to grafanareader, tsdbadmin;

reset role;
