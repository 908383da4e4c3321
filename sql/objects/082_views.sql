set local role flows_owner;

create or replace function flows.amount(tariff jsonb, key text) returns numeric
language sql immutable set search_path = ''
return case when tariff ->> key ~ '^-?[0-9]{1,12}(\.[0-9]{1,12})?$' then (tariff ->> key)::numeric end;
comment on function flows.amount(jsonb, text) is 'A number from a tariff; empty if it has none.';
grant execute on function flows.amount(jsonb, text) to flows, public_backend, resident, grafanareader, tsdbadmin;

create or replace function flows.moment(tariff jsonb, key text) returns timestamp
language sql stable set search_path = '' set timezone = 'UTC'
return case
    when pg_catalog.pg_input_is_valid(tariff ->> key, 'timestamptz')
        then (tariff ->> key)::timestamptz at time zone 'UTC'
end;
comment on function flows.moment(jsonb, text) is 'A time of a tariff, in UTC; empty if it has none.';
grant execute on function flows.moment(jsonb, text) to flows, public_backend, resident, grafanareader, tsdbadmin;

-- Three-phase meters have no tariffs of their own: deployments leave them out.
create view flows.meter_shadows_tariffs with (security_invoker = true) as
select
    shadow.id,
    meter.serial,
    flows.amount(shadow.tariffs_active, 'standing_charge') as active_standing_charge,
    flows.amount(shadow.tariffs_active, 'unit_rate_element_a') as active_unit_rate_a,
    flows.amount(shadow.tariffs_active, 'unit_rate_element_b') as active_unit_rate_b,
    flows.amount(shadow.tariffs_active, 'prepayment_ecredit_availability') as active_ecredit_availability,
    flows.amount(shadow.tariffs_active, 'prepayment_debt_recovery_rate') as active_debt_recovery_rate,
    flows.amount(shadow.tariffs_active, 'prepayment_emergency_credit') as active_emergency_credit,
    flows.amount(shadow.tariffs_future, 'standing_charge') as future_standing_charge,
    flows.amount(shadow.tariffs_future, 'unit_rate_element_a') as future_unit_rate_a,
    flows.amount(shadow.tariffs_future, 'unit_rate_element_b') as future_unit_rate_b,
    flows.amount(shadow.tariffs_future, 'prepayment_ecredit_availability') as future_ecredit_availability,
    flows.amount(shadow.tariffs_future, 'prepayment_debt_recovery_rate') as future_debt_recovery_rate,
    flows.amount(shadow.tariffs_future, 'prepayment_emergency_credit') as future_emergency_credit,
    flows.moment(shadow.tariffs_future, 'activation_datetime') as future_activation_datetime
from flows.meter_shadows as shadow
inner join flows.meter_registry as meter on shadow.id = meter.id
where meter.hardware is distinct from 'P1.ax';
comment on view flows.meter_shadows_tariffs
is 'Present and future tariffs of each single-phase meter, with a column for each part.';
do $$
declare
    which record;
    part record;
begin
    for which in select * from (values ('active', 'in force'), ('future', 'to come')) as w (prefix, meaning) loop
        for part in
            select * from (values
                ('standing_charge', 'Standing charge %s, pounds a day.'),
                ('unit_rate_a', 'Price of energy on element A %s, pounds per kWh.'),
                ('unit_rate_b', 'Price of energy on element B %s, pounds per kWh.'),
                ('ecredit_availability', 'Emergency credit that can be had %s, pounds.'),
                ('debt_recovery_rate', 'Rate at which debt is recovered %s, pounds.'),
                ('emergency_credit', 'Emergency credit %s, pounds.')
            ) as p (name, meaning)
        loop
            execute format(
                'comment on column flows.meter_shadows_tariffs.%I is %L',
                which.prefix || '_' || part.name, format(part.meaning, which.meaning)
            );
        end loop;
    end loop;
end $$;
comment on column flows.meter_shadows_tariffs.id is 'The meter.';
comment on column flows.meter_shadows_tariffs.future_activation_datetime
is 'Time at which the tariff to come takes effect, UTC.';

create view flows.meters_low_balance with (security_invoker = true) as
select meter.id, meter.serial, meter.name, shadow.balance
from flows.meter_shadows as shadow
inner join flows.meter_registry as meter on shadow.id = meter.id
where shadow.balance < 15.00;
comment on view flows.meters_low_balance is 'Meters that need a top-up: less than 15 pounds left.';
comment on column flows.meters_low_balance.balance is 'Credit left, pounds.';

-- A barrier view takes no ORDER BY … LIMIT from outside: asked for the newest row of a series it would read
-- all of it. These find it where the register's extent ends, or from the end.
create view flows.register_interval_hh_latest as
select
    known.esco, known.register_id, newest."timestamp", newest.import_kwh, newest.export_kwh, newest.derived,
    newest.updated_at
from flows.register_extent as known
cross join lateral (
    select r."timestamp", r.import_kwh, r.export_kwh, r.derived, r.updated_at
    from flows.register_interval_hh as r
    where r.register_id = known.register_id
        and r."timestamp" = known.available_to - interval '30 minutes'
        and r.esco is not distinct from known.esco
    limit 1
) as newest;
comment on view flows.register_interval_hh_latest is 'The newest half-hour of each register with half-hours.';
call flows.show_as_owned(
    'register_interval_hh_latest',
    residents => flows.own_rows('register_id', '"timestamp"', interval '30 minutes', 'UTC')
);

-- Times that are not known yet seem to leave so few half-hours that they could all be read and sorted.
create or replace function flows.find_extent_in(
    register uuid, period tstzrange, out available_from timestamptz, out available_to timestamptz
)
language plpgsql stable
set search_path = '' set plan_cache_mode = 'force_generic_plan' set enable_sort = 'off'
as $$
begin
    available_from := (
        select r."timestamp" from flows.register_interval_hh as r
        where r.register_id = register
            and r."timestamp" >= lower(period) and r."timestamp" < coalesce(upper(period), 'infinity')
        order by r."timestamp" limit 1
    );
    available_to := (
        select r."timestamp" + interval '30 minutes' from flows.register_interval_hh as r
        where r.register_id = register
            and r."timestamp" >= lower(period) and r."timestamp" < coalesce(upper(period), 'infinity')
        order by r."timestamp" desc limit 1
    );
end $$;
comment on function flows.find_extent_in(uuid, tstzrange) is 'First and last half-hour of a register in a period.';

-- A definer function sees every ESCO, so whose register it is must be asked in so many words.
create or replace function flows.find_extent(
    register uuid, period tstzrange, out available_from timestamptz, out available_to timestamptz
)
language plpgsql stable security definer set search_path = ''
as $$
begin
    if exists (
        select from flows.meter_registers as its
        where its.register_id = register and its.esco = any(flows.callers_escos())
    ) then
        select e.* into available_from, available_to from flows.find_extent_in(register, period) as e;
    end if;
end $$;
comment on function flows.find_extent(uuid, tstzrange)
is 'First and last half-hour of one of the caller''s registers in a period.';
grant execute on function flows.find_extent(uuid, tstzrange) to flows, public_backend, grafanareader, tsdbadmin;

create or replace function flows.find_own_extent(
    mapping flows.circuit_register, known tstzrange, out available_from timestamptz, out available_to timestamptz
)
language plpgsql stable security definer set search_path = '' set plan_cache_mode = force_generic_plan
as $$
declare
    times constant tstzmultirange := tstzmultirange(tstzrange(mapping.start_time, mapping.end_time))
        * (flows.own_times('register_times'))[array_position(flows.own_ids('registers'), mapping.register)]
        * (flows.own_times('circuit_times'))[array_position(flows.own_ids('circuits'), mapping.circuit)];
    first timestamptz;
    stop timestamptz;
    extent record;
begin
    -- Who has lived there all the time needs no look at the half-hours.
    if times @> known then
        available_from := lower(known);
        available_to := upper(known);
        return;
    end if;
    for first, stop in
        -- The last half-hour ends with the stay.
        select lower(t.span), upper(t.span) - interval '30 minutes' + interval '1 microsecond'
        from unnest(times) as t (span) order by 1
    loop
        continue when stop <= first;
        extent := flows.find_extent_in(mapping.register, tstzrange(first, stop));
        available_from := coalesce(available_from, extent.available_from);
        available_to := coalesce(extent.available_to, available_to);
    end loop;
end $$;
comment on function flows.find_own_extent(flows.circuit_register, tstzrange)
is 'First and last half-hour of a register of the calling resident''s while it is mapped to a circuit, of those known.';
grant execute on function flows.find_own_extent(flows.circuit_register, tstzrange) to resident;

-- The extent of a register's half-hours while it is mapped to a circuit. It is looked up only where the
-- mapping cuts the register's own extent, by a function: sub-selects would be planned over every chunk.
create view flows.circuit_register_extent as
select
    mapping.esco, mapping.circuit, mapping.register, mapping.start_time,
    case
        when flows.is_planned_for_a_resident() then (
            flows.find_own_extent(mapping, tstzrange(known.available_from, known.available_to))
        ).available_from
        when known.available_from >= mapping.start_time then known.available_from
        else (flows.find_extent(mapping.register, tstzrange(mapping.start_time, mapping.end_time))).available_from
    end as available_from,
    case
        when flows.is_planned_for_a_resident() then (
            flows.find_own_extent(mapping, tstzrange(known.available_from, known.available_to))
        ).available_to
        when known.available_to <= mapping.end_time or mapping.end_time is null then known.available_to
        else (flows.find_extent(mapping.register, tstzrange(mapping.start_time, mapping.end_time))).available_to
    end as available_to
from flows.circuit_register as mapping
inner join flows.register_extent as known
    on mapping.register = known.register_id
    and mapping.esco is not distinct from known.esco
    and known.available_to > mapping.start_time
    and (known.available_from < mapping.end_time or mapping.end_time is null);
comment on view flows.circuit_register_extent
is 'First and last half-hour of each register while it is mapped to a circuit.';
comment on column flows.circuit_register_extent.circuit is 'The circuit.';
comment on column flows.circuit_register_extent.register is 'The register.';
comment on column flows.circuit_register_extent.start_time is 'Start of the mapping, UTC.';
comment on column flows.circuit_register_extent.available_from
is 'Start of the first half-hour, UTC; empty where there is none.';
comment on column flows.circuit_register_extent.available_to
is 'End of the last half-hour, UTC; empty if there is none.';
call flows.show_as_owned(
    'circuit_register_extent',
    residents => 'circuit = any((select flows.own_ids(''circuits''))::uuid[]) '
    'and register = any((select flows.own_ids(''registers''))::uuid[]) and available_from is not null'
);

-- No register has a half-hour on a circuit before its first one, nor before it is mapped. So registers are looked at in
-- the order of their first half-hours until no other can have an earlier one on a circuit, which mostly is the first.
-- If ten are not enough, as where all were mapped long after they began, the mappings are put in order.
-- Plans are kept: among many ESCOs PostgreSQL would make them anew each time, which takes longer than to run them.
create or replace function flows.ever_available(out first timestamptz, out last timestamptz)
language plpgsql stable security definer set search_path = '' set plan_cache_mode = 'force_generic_plan'
as $$
declare
    owner constant uuid := flows.current_esco();
    known record;
    mapped record;
    reached timestamptz;
begin
    for known in
        select e.register_id, e.available_from from flows.register_extent as e
        where e.esco = owner order by e.available_from limit 10
    loop
        reached := known.available_from;
        exit when first <= reached;
        first := least(first, (
            select min(extent.available_from) from flows.circuit_register_extent as extent
            where extent.esco = owner and extent.register = known.register_id
        ));
    end loop;
    if reached < coalesce(first, 'infinity') then
        for mapped in
            select
                m.circuit, m.register, m.start_time,
                date_bin(
                    '30 minutes', greatest(e.available_from, m.start_time) + '29 minutes 59.999999 seconds',
                    '2000-01-01 00:00Z'
                ) as earliest
            from flows.register_extent as e
            inner join flows.circuit_register as m on e.register_id = m.register and e.esco = m.esco
            where e.esco = owner and e.available_to > m.start_time
            order by earliest
        loop
            exit when first <= mapped.earliest;
            first := least(first, (
                select extent.available_from from flows.circuit_register_extent as extent
                where extent.circuit = mapped.circuit and extent.register = mapped.register
                    and extent.start_time = mapped.start_time
            ));
        end loop;
    end if;

    reached := null;
    for known in
        select e.register_id, e.available_to from flows.register_extent as e
        where e.esco = owner order by e.available_to desc limit 10
    loop
        reached := known.available_to;
        exit when last >= reached;
        last := greatest(last, (
            select max(extent.available_to) from flows.circuit_register_extent as extent
            where extent.esco = owner and extent.register = known.register_id
        ));
    end loop;
    if reached > coalesce(last, '-infinity') then
        for mapped in
            select
                m.circuit, m.register, m.start_time,
                date_bin(
                    '30 minutes', least(e.available_to, m.end_time) + '29 minutes 59.999999 seconds',
                    '2000-01-01 00:00Z'
                ) as latest
            from flows.register_extent as e
            inner join flows.circuit_register as m on e.register_id = m.register and e.esco = m.esco
            where e.esco = owner and (e.available_from < m.end_time or m.end_time is null)
            order by latest desc
        loop
            exit when last >= mapped.latest;
            last := greatest(last, (
                select extent.available_to from flows.circuit_register_extent as extent
                where extent.circuit = mapped.circuit and extent.register = mapped.register
                    and extent.start_time = mapped.start_time
            ));
        end loop;
    end if;
end $$;
comment on function flows.ever_available()
is 'First and last half-hour of the registers of the caller''s ESCO while they are mapped to circuits.';
grant execute on function flows.ever_available() to flows, public_backend;

-- The owner is compared outside, and by a CASE: beside the meter, or as it is, it would count as if each ESCO had its
-- part of every meter's signals, of which all would be read and sorted to find one.
create view flows.meter_csq_latest as
select meter.esco, meter.id as meter_id, newest."timestamp", newest.csq
from flows.meter_registry as meter
cross join lateral (
    select signal."timestamp", signal.csq
    from (
        select s.esco, s."timestamp", s.csq from flows.meter_csq as s
        where s.meter_id = meter.id order by s."timestamp" desc offset 0
    ) as signal
    where case when signal.esco is not distinct from meter.esco then true end
    limit 1
) as newest;
comment on view flows.meter_csq_latest is 'The newest signal quality of each meter that has sent any.';
call flows.show_as_owned('meter_csq_latest', residents => flows.own_rows('meter_id', '"timestamp"', null, 'UTC'));

-- A meter was last online when it last told its signal or was last found healthy. Its signal is looked up: joined, all
-- signals of an ESCO would be found anew for each of its meters.
create view flows.meters_offline_all with (security_invoker = true) as
select
    meter.serial, meter.name, greatest(shadow.last_healthy_at, signal."timestamp") as last_online, meter.id
from flows.meter_registry as meter
inner join flows.meter_shadows as shadow on meter.id = shadow.id
left join lateral (
    select newest."timestamp" from api.meter_csq_latest as newest where newest.meter_id = meter.id offset 0
) as signal on true
where meter.mode = 'active' and meter.installation_status is distinct from 'deleted'
    and coalesce(greatest(shadow.last_healthy_at, signal."timestamp") < now() - interval '3 hours', true);
comment on view flows.meters_offline_all is 'Active meters without a signal for three hours or more.';
comment on column flows.meters_offline_all.last_online is 'When the last signal came, UTC; empty when none ever did.';

create view flows.meters_offline_recently with (security_invoker = true) as
select offline.serial, offline.name, offline.last_online, offline.id
from flows.meters_offline_all as offline
where offline.last_online >= now() - interval '24 hours';
comment on view flows.meters_offline_recently is 'Active meters whose last signal came 3 to 24 hours ago.';
comment on column flows.meters_offline_recently.last_online is 'When the last signal came, UTC.';

create view flows.meters_clock_drift with (security_invoker = true) as
select
    meter.id, meter.serial, meter.name, shadow.clock_time_diff_seconds, shadow.clock_time_diff_synced_at
from flows.meter_shadows as shadow
inner join flows.meter_registry as meter on shadow.id = meter.id
where abs(shadow.clock_time_diff_seconds) >= 60;
comment on view flows.meters_clock_drift is 'Meters whose clocks are wrong by a minute or more.';

do $$
declare
    exposed text;
begin
    foreach exposed in array array[
        'meter_shadows_tariffs', 'meters_low_balance', 'meters_offline_all', 'meters_offline_recently',
        'meters_clock_drift'
    ]
    loop
        execute format(
            'create view api.%1$I with (security_invoker = true) as select * from flows.%1$I', exposed
        );
        execute format(
            'grant select on api.%1$I, flows.%1$I to flows, public_backend, resident, grafanareader, tsdbadmin',
            exposed
        );
    end loop;
end $$;

reset role;
