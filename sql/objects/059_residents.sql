set local role flows_owner;
comment on type flows.home is 'All that a resident reads by: the ids of what is its own, and the times in which it is.';

-- For the planner, as flows.is_planned_for_every_esco() is: a tenant's plan is left without what follows for residents.
create or replace function flows.is_planned_for_a_resident() returns boolean
language sql immutable parallel safe
return pg_catalog.pg_has_role(current_user, 'resident', 'usage') and not flows.sees_every_esco();
comment on function flows.is_planned_for_a_resident()
is 'True for residents, for views and policies alone: asked when a query is planned.';

-- From homes along the links: what supplies a home is its resident's while the resident lives there. What supplies
-- several homes (a landlord's supply) would tell of the others, so it is the resident's only while all of them are.
-- Found once for a request, before its query, and kept in settings of its transaction, as a query asks for many parts.
-- Each statement costs more than the rows that it finds, so they are few, one plan serves for ever, and an ESCO is
-- compared in a way that no index answers: the one of an ESCO has all of its links.
create or replace function flows.enter_as_resident(member text, owner uuid) returns boolean
language plpgsql security definer
set search_path = '' set plan_cache_mode = 'force_generic_plan' set enable_seqscan = off
as $$
declare
    is_resident boolean;
    since timestamptz;
    until timestamptz;
    properties uuid[];
    property_times tstzmultirange[];
    heads uuid[];
    head_times tstzmultirange[];
    present_heads uuid[];
    meters uuid[];
    meter_times tstzmultirange[];
    present_meters uuid[];
    registers uuid[];
    register_times tstzmultirange[];
    circuits uuid[];
    circuit_times tstzmultirange[];
    summed_times tstzmultirange[];
    present_circuits uuid[];
    all_times tstzmultirange[];
begin
    select
        count(*) > 0, array_agg(lived.property) filter (where lived.property is not null),
        array_agg(lived.times) filter (where lived.property is not null)
    into is_resident, properties, property_times
    from (
        select r.property, range_agg(tstzrange(r.start_time, r.end_time)) as times
        from gateway.member as m
        left join gateway.residence as r on m.id = r.member and m.esco = r.esco and r.start_time <= now()
        where m.id = enter_as_resident.member and m.esco = owner and m.resident and m.disabled_at is null
        group by r.property
    ) as lived;

    if properties <> '{}' then
        select array_agg(head.id), array_agg(head.times) into heads, head_times
        from (
            select
                linked.id,
                range_agg(linked.span * linked.times) - range_agg(linked.span - linked.times) as times
            from (
                select
                    link.service_head as id, tstzmultirange(tstzrange(link.start_time, link.end_time)) as span,
                    coalesce(property_times[array_position(properties, link.property)], '{}') as times
                from flows.ever_properties_service_head as its
                inner join flows.ever_properties_service_head as link on its.service_head = link.service_head
                where its.property = any(properties) and link.esco is not distinct from owner
            ) as linked
            group by linked.id
        ) as head
        where not isempty(head.times);

        select array_agg(meter.id), array_agg(meter.times) into meters, meter_times
        from (
            select
                linked.id,
                range_agg(linked.span * linked.times) - range_agg(linked.span - linked.times) as times
            from (
                select
                    link.meter as id, tstzmultirange(tstzrange(link.start_time, link.end_time)) as span,
                    coalesce(head_times[array_position(heads, link.service_head)], '{}') as times
                from flows.ever_service_head_meter as its
                inner join flows.ever_service_head_meter as link on its.meter = link.meter
                where its.service_head = any(heads) and link.esco is not distinct from owner
            ) as linked
            group by linked.id
        ) as meter
        where not isempty(meter.times);

        select array_agg(r.register_id), array_agg(meter_times[array_position(meters, r.meter_id)])
        into registers, register_times
        from flows.meter_registers as r
        where r.meter_id = any(meters) and r.esco is not distinct from owner;

        select array_agg(circuit.id), array_agg(circuit.times) into circuits, circuit_times
        from (
            select
                mapped.circuit as id,
                range_agg(mapped.times) - range_agg(tstzmultirange(mapped.span) - coalesce(mapped.times, '{}')) as times
            from (
                select
                    m.circuit, tstzrange(m.start_time, m.end_time) as span,
                    register_times[array_position(registers, m.register)] as times
                from flows.circuit_register as its
                inner join flows.circuit_register as m on its.circuit = m.circuit
                where its.register = any(registers) and its.esco is not distinct from owner
            ) as mapped
            group by mapped.circuit
        ) as circuit
        where not isempty(circuit.times);

        -- Sums that do not follow a changed mapping yet may be of registers that were mapped before.
        summed_times := circuit_times;
        if exists (
            select from flows.change as c
            where c.followed_at is null and c.kind = 'mapping' and coalesce(c.esco = owner, true)
        ) then
            summed_times := array(
                select
                    own.times - coalesce((
                        select range_agg(c.period) from flows.change as c
                        where c.followed_at is null and c.kind = 'mapping' and coalesce(c.esco = owner, true)
                            and coalesce(own.id = any(c.touched_circuits), true)
                    ), '{}')
                from unnest(circuits, circuit_times) with ordinality as own (id, times, place)
                order by own.place
            );
        end if;

        all_times := head_times || meter_times || summed_times;
        if all_times[1] = all(all_times) and all_times[1] = tstzmultirange(range_merge(all_times[1])) then
            since := coalesce(lower(all_times[1]), '-infinity');
            until := coalesce(upper(all_times[1]), 'infinity');
            if all_times[1] @> now() then
                present_heads := heads;
                present_meters := meters;
                present_circuits := circuits;
            end if;
        else
            since := '-infinity';
            until := 'infinity';
            present_heads := array(
                select h.id from unnest(heads, head_times) as h (id, times) where h.times @> now()
            );
            present_meters := array(
                select m.id from unnest(meters, meter_times) as m (id, times) where m.times @> now()
            );
            present_circuits := array(
                select c.id from unnest(circuits, circuit_times) as c (id, times) where c.times @> now()
            );
        end if;
    end if;

    perform
        set_config('app.own_since', coalesce(since::text, ''), true),
        set_config('app.own_until', coalesce(until::text, ''), true),
        set_config('app.own_esco', case when properties <> '{}' then owner::text else '' end, true),
        set_config('app.own_properties', coalesce(properties::text, ''), true),
        set_config('app.own_heads', coalesce(heads::text, ''), true),
        set_config('app.own_present_heads', coalesce(present_heads::text, ''), true),
        set_config('app.own_meters', coalesce(meters::text, ''), true),
        set_config('app.own_meter_times', coalesce(meter_times::text, ''), true),
        set_config('app.own_present_meters', coalesce(present_meters::text, ''), true),
        set_config('app.own_registers', coalesce(registers::text, ''), true),
        set_config('app.own_register_times', coalesce(register_times::text, ''), true),
        set_config('app.own_circuits', coalesce(circuits::text, ''), true),
        set_config('app.own_circuit_times', coalesce(circuit_times::text, ''), true),
        set_config('app.own_summed_times', coalesce(summed_times::text, ''), true),
        set_config('app.own_present_circuits', coalesce(present_circuits::text, ''), true);
    return is_resident;
end $$;
comment on function flows.enter_as_resident(text, uuid)
is 'Makes a member of an ESCO the resident whose own rows the transaction reads; false if it is no resident.';
grant execute on function flows.enter_as_resident(text, uuid) to tsdbadmin;

-- Plain expressions, which the planner puts in place of a call, or flows.expand_own() once for all.
create or replace function flows.own(part text) returns text
language sql stable parallel safe
return nullif(current_setting('app.own_' || part, true), '');
comment on function flows.own(text) is 'A part of flows.home for the calling resident; null for a caller who is none.';
create or replace function flows.own_ids(part text) returns uuid[]
language sql stable parallel safe
return flows.own(part)::uuid[];
comment on function flows.own_ids(text) is 'Ids of a part of flows.home, for the calling resident.';
create or replace function flows.own_times(part text) returns tstzmultirange[]
language sql stable parallel safe
return flows.own(part)::tstzmultirange[];
comment on function flows.own_times(text) is 'Times of a part of flows.home, for the calling resident.';

create or replace function flows.own_home() returns flows.home
language sql stable parallel safe set search_path = ''
return row(
    flows.own('since')::timestamptz, flows.own('until')::timestamptz,
    flows.own('esco')::uuid, flows.own_ids('properties'), flows.own_ids('heads'),
    flows.own_ids('meters'), flows.own_times('meter_times'), flows.own_ids('present_meters'),
    flows.own_ids('registers'), flows.own_times('register_times'),
    flows.own_ids('circuits'), flows.own_times('circuit_times'), flows.own_times('summed_times'),
    flows.own_ids('present_heads'), flows.own_ids('present_circuits')
)::flows.home;
comment on function flows.own_home()
is 'All that is the calling resident''s own, and when; empty for a caller who is none.';

-- Found only where it is asked for, as few queries do.
create or replace function flows.own_sites() returns uuid[]
language sql stable security definer set search_path = '' set plan_cache_mode = 'force_generic_plan'
return array(
    select p.site from flows.properties as p where p.id = any((select flows.own_ids('properties'))::uuid[])
    union
    select c.site from flows.circuits as c where c.id = any((select flows.own_ids('circuits'))::uuid[])
);
comment on function flows.own_sites() is 'Sites of the calling resident''s properties and circuits.';
grant execute on function flows.is_planned_for_a_resident()
to flows, public_backend, resident, grafanareader, tsdbadmin;
grant execute on function
flows.own(text), flows.own_ids(text), flows.own_times(text), flows.own_home(), flows.own_sites()
to resident, grafanareader, tsdbadmin;

-- Most requests are planned anew, and to put an expression in place of a call takes the planner longer than to plan the
-- expression.
create or replace function flows.expand_own(condition text) returns text
language sql immutable set search_path = ''
return regexp_replace(
    regexp_replace(
        regexp_replace(condition, 'flows\.own_ids(\(''\w+''\))', 'flows.own\1::uuid[]', 'g'),
        'flows\.own_times(\(''\w+''\))', 'flows.own\1::tstzmultirange[]', 'g'
    ),
    'flows\.own\(''(\w+)''\)', 'nullif(current_setting(''app.own_\1'', true), '''')', 'g'
);
comment on function flows.expand_own(text)
is 'Text of a condition with expressions in place of calls of flows.own(), flows.own_ids() and flows.own_times().';

-- Of a series or an aggregate a resident reads rows of its own registers, meters or circuits, of intervals that lie
-- wholly within its time there; a day of which it was there half would tell of others. The text of the end of
-- what may begin, by the end of a time:
create or replace function flows.last_label(until text, unit interval, zone text) returns text
language sql immutable set search_path = ''
return case
    when unit is null then until
    when unit < interval '1 day' then format('date_bin(%L, %s, ''2000-01-01 00:00Z'')', unit, until)
    else format(
        'date_trunc(%L, %s, %L)', case unit when interval '1 day' then 'day' else 'month' end, until, zone
    )
end;
comment on function flows.last_label(text, interval, text)
is 'Text of the time before which the last interval begins that ends by a time, given as text.';

-- The one stay (of several the bounds are infinite) is a condition of its own, so that an index finds no row of whoever
-- lived there before or after. Its bounds are no sub-selects: of these the planner knows nothing, takes two of them to
-- leave next to no row, and reads the days of all ESCOs by an index of days, or joins half-hours by a loop.
create or replace function flows.own_rows(key text, label text, unit interval, zone text) returns text
language sql immutable set search_path = ''
return format(
    $sql$%1$I = any((select flows.own_ids(%3$L))::uuid[])
    and %2$s >= flows.own('since')::timestamptz
    and %2$s < %5$s
    and (
        (select flows.own('since') <> '-infinity')
        or ((select flows.own_times(%4$L)))[array_position((select flows.own_ids(%3$L)), %1$I)] @> %6$s
    )$sql$,
    key, label,
    case key when 'register_id' then 'registers' when 'meter_id' then 'meters' else 'circuits' end,
    case key when 'register_id' then 'register_times' when 'meter_id' then 'meter_times' else 'summed_times' end,
    flows.last_label('flows.own(''until'')::timestamptz', unit, zone),
    case when unit is null then label else format('tstzrange(%1$s, date_add(%1$s, %2$L, %3$L))', label, unit, zone) end
);
comment on function flows.own_rows(text, text, interval, text)
is 'Text of the condition on the rows that a resident reads of a relation, by its key and the start of its intervals.';

reset role;
