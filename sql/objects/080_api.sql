set local role flows_owner;

-- Configuration and state: read as the caller, so that row level security decides.
do $$
declare
    exposed text;
    owned constant text[] := array['sites_new', 'feeder_registry', 'meter_registry', 'ev_chargers'];
begin
    foreach exposed in array array[
        'regions', 'escos', 'sites_new', 'properties', 'feeder_registry', 'service_head_registry',
        'meter_registry', 'meter_shadows', 'meter_registers', 'circuits', 'service_head_meter',
        'properties_service_head', 'circuit_register', 'meter_tophat_registry', 'meter_metrics',
        'meter_event_log_type', 'ev_chargers'
    ]
    loop
        -- The owner is shown where it is the row's own word, not where it follows from others. Rows are as they are
        -- today, so who has moved out is shown none of them; reports, which name what they have summed, read them below.
        execute format(
            'create view api.%1$I with (security_invoker = true) as select %2$s from flows.%1$I%3$s', exposed,
            (
                select string_agg(quote_ident(a.attname), ', ' order by a.attnum) from pg_catalog.pg_attribute as a
                where a.attrelid = format('flows.%I', exposed)::regclass and a.attnum > 0 and not a.attisdropped
                    and (a.attname <> 'esco' or exposed = any(owned))
                    and (a.attname <> 'start_time' or exposed not in ('service_head_meter', 'properties_service_head'))
            ),
            (
                select flows.expand_own(format(
                    ' where case when flows.is_planned_for_a_resident() '
                    'then %I = any((select flows.own_ids(%L))::uuid[]) else true end', own.key, own.present
                ))
                from (values
                    ('service_head_registry', 'id', 'present_heads'),
                    ('properties_service_head', 'service_head', 'present_heads'),
                    ('meter_registry', 'id', 'present_meters'), ('service_head_meter', 'meter', 'present_meters'),
                    ('meter_registers', 'meter_id', 'present_meters'),
                    ('circuits', 'id', 'present_circuits'), ('circuit_register', 'circuit', 'present_circuits')
                ) as own (relation, key, present) where own.relation = exposed
            )
        );
        if exposed = any(owned) then
            -- A caller that names no owner means itself; another's is refused by the policies.
            execute format('alter view api.%I alter column esco set default flows.current_esco()', exposed);
        end if;
        execute format(
            'grant select on api.%1$I, flows.%1$I to flows, public_backend, grafanareader, tsdbadmin', exposed
        );
        if exposed not in ('regions', 'feeder_registry', 'meter_tophat_registry', 'meter_metrics', 'ev_chargers') then
            execute format('grant select on api.%1$I, flows.%1$I to resident', exposed);
        end if;
        execute format('grant insert, update, delete on flows.%1$I to tsdbadmin', exposed);
        if exposed not in ('regions', 'escos', 'meter_shadows', 'meter_metrics', 'meter_event_log_type') then
            execute format('grant insert, update, delete on api.%1$I, flows.%1$I to flows', exposed);
        end if;
    end loop;
end $$;
-- An upsert of a shadow asks for INSERT too.
grant insert, update on api.meter_shadows, flows.meter_shadows to flows;

do $$
declare
    series record;
begin
    for series in select s.name, s.key from flows.series() as s loop
        call flows.show_as_owned(series.name, writable => series.key <> 'circuit_id');
    end loop;
end $$;

create or replace function api.current_esco() returns setof api.escos
language sql stable
begin atomic
    select * from api.escos where id = flows.current_esco();
end;
comment on function api.current_esco() is 'The ESCO of the token.';
grant execute on function api.current_esco() to flows, public_backend, resident;

create or replace function api.derive_interval_hh(
    register_id uuid, period_from timestamptz, period_to timestamptz, max_gap interval default '2 hours'
) returns integer
language plpgsql security definer set search_path = ''
as $$
begin
    -- A definer function sees every ESCO, so whose register it is must be asked in so many words.
    if not exists (
        select from flows.meter_registers as register
        where register.register_id = derive_interval_hh.register_id and register.esco = flows.current_esco()
    ) then
        raise sqlstate 'PT404' using message = 'There is no such register';
    end if;
    if period_to <= period_from or period_to - period_from > interval '366 days' then
        raise sqlstate 'PT422' using message = 'period_to: must be later than period_from, by at most 366 days';
    end if;
    if max_gap <= interval '0' or max_gap > interval '1 day' then
        raise sqlstate 'PT422' using message = 'max_gap: must be more than 0 and at most 1 day';
    end if;
    return flows.derive_interval_hh(register_id, period_from, period_to, max_gap);
end $$;
comment on function api.derive_interval_hh(uuid, timestamptz, timestamptz, interval)
is 'Derives half-hours of one register from its counter reads, never replacing measured ones; returns their number.';
grant execute on function api.derive_interval_hh(uuid, timestamptz, timestamptz, interval) to flows;

reset role;
