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
create or replace function flows.find_home(member text, owner uuid) returns flows.home
language plpgsql stable security definer set search_path = '' set plan_cache_mode = 'force_generic_plan'
as $$
declare
    home flows.home;
    property_times tstzmultirange[];
    head_times tstzmultirange[];
    circuit_sites uuid[];
    all_times tstzmultirange[];
begin
    select array_agg(lived.id), array_agg(lived.times), array_agg(lived.site)
    into home.properties, property_times, home.sites
    from (
        select r.property as id, p.site, range_agg(tstzrange(r.start_time, r.end_time)) as times
        from gateway.residence as r
        inner join gateway.member as m on r.member = m.id
        inner join flows.properties as p on r.property = p.id
        where r.member = find_home.member and r.esco = owner and m.resident and m.esco = owner
            and m.disabled_at is null and r.start_time <= now()
        group by r.property, p.site order by r.property
    ) as lived;
    if home.properties is null then
        return home;
    end if;
    home.esco := owner;

    select array_agg(head.id), array_agg(head.times) into home.heads, head_times
    from (
        select
            linked.id,
            range_agg(linked.span * linked.times) - range_agg(linked.span - linked.times) as times
        from (
            select
                link.service_head as id, tstzmultirange(tstzrange(link.start_time, link.end_time)) as span,
                coalesce(property_times[array_position(home.properties, link.property)], '{}') as times
            from flows.ever_properties_service_head as link
            where link.esco = owner and link.service_head = any(array(
                select its.service_head from flows.ever_properties_service_head as its
                where its.property = any(home.properties)
            ))
        ) as linked
        group by linked.id order by linked.id
    ) as head
    where not isempty(head.times);

    select array_agg(meter.id), array_agg(meter.times) into home.meters, home.meter_times
    from (
        select
            linked.id,
            range_agg(linked.span * linked.times) - range_agg(linked.span - linked.times) as times
        from (
            select
                link.meter as id, tstzmultirange(tstzrange(link.start_time, link.end_time)) as span,
                coalesce(head_times[array_position(home.heads, link.service_head)], '{}') as times
            from flows.ever_service_head_meter as link
            where link.esco = owner and link.meter = any(array(
                select its.meter from flows.ever_service_head_meter as its where its.service_head = any(home.heads)
            ))
        ) as linked
        group by linked.id order by linked.id
    ) as meter
    where not isempty(meter.times);

    select array_agg(register.id), array_agg(home.meter_times[array_position(home.meters, register.meter)])
    into home.registers, home.register_times
    from (
        select r.register_id as id, r.meter_id as meter from flows.meter_registers as r
        where r.meter_id = any(home.meters) and r.esco = owner
        order by r.register_id
    ) as register;

    select array_agg(circuit.id), array_agg(circuit.times), array_agg(circuit.site)
    into home.circuits, home.circuit_times, circuit_sites
    from (
        select
            c.id, c.site,
            range_agg(mapped.times) - range_agg(tstzmultirange(mapped.span) - coalesce(mapped.times, '{}')) as times
        from (
            select
                m.circuit, tstzrange(m.start_time, m.end_time) as span,
                home.register_times[array_position(home.registers, m.register)] as times
            from flows.circuit_register as m
            where m.circuit = any(array(
                select its.circuit from flows.circuit_register as its
                where its.register = any(home.registers) and its.esco = owner
            ))
        ) as mapped
        inner join flows.circuits as c on mapped.circuit = c.id and c.esco = owner
        group by c.id order by c.id
    ) as circuit
    where not isempty(circuit.times);
    home.sites := home.sites || circuit_sites;

    -- Sums that do not follow a changed mapping yet may be of registers that were mapped before.
    home.summed_times := home.circuit_times;
    if exists (
        select from flows.change as c
        where c.followed_at is null and c.kind = 'mapping' and coalesce(c.esco = owner, true)
    ) then
        home.summed_times := array(
            select
                own.times - coalesce((
                    select range_agg(c.period) from flows.change as c
                    where c.followed_at is null and c.kind = 'mapping' and coalesce(c.esco = owner, true)
                        and coalesce(own.id = any(c.touched_circuits), true)
                ), '{}')
            from unnest(home.circuits, home.circuit_times) with ordinality as own (id, times, place)
            order by own.place
        );
    end if;

    all_times := head_times || home.meter_times || home.summed_times;
    if all_times[1] = all(all_times) and all_times[1] = tstzmultirange(range_merge(all_times[1])) then
        home.since := coalesce(lower(all_times[1]), '-infinity');
        home.until := coalesce(upper(all_times[1]), 'infinity');
        if all_times[1] @> now() then
            home.present_heads := home.heads;
            home.present_meters := home.meters;
            home.present_circuits := home.circuits;
        end if;
    else
        home.present_heads := array(
            select h.id from unnest(home.heads, head_times) as h (id, times) where h.times @> now()
        );
        home.present_meters := array(
            select m.id from unnest(home.meters, home.meter_times) as m (id, times) where m.times @> now()
        );
        home.present_circuits := array(
            select c.id from unnest(home.circuits, home.circuit_times) as c (id, times) where c.times @> now()
        );
    end if;
    return home;
end $$;
comment on function flows.find_home(text, uuid) is 'All that is a resident''s own, and when.';

-- Found once for a request, before its query, and kept in settings of its transaction, as a query asks for many parts.
create or replace function flows.enter_home(member text, owner uuid) returns void
language plpgsql security definer set search_path = ''
as $$
declare
    home constant flows.home := flows.find_home(member, owner);
begin
    perform
        set_config('app.own_since', coalesce(home.since::text, ''), true),
        set_config('app.own_until', coalesce(home.until::text, ''), true),
        set_config('app.own_esco', coalesce(home.esco::text, ''), true),
        set_config('app.own_sites', coalesce(home.sites::text, ''), true),
        set_config('app.own_properties', coalesce(home.properties::text, ''), true),
        set_config('app.own_heads', coalesce(home.heads::text, ''), true),
        set_config('app.own_meters', coalesce(home.meters::text, ''), true),
        set_config('app.own_meter_times', coalesce(home.meter_times::text, ''), true),
        set_config('app.own_present_meters', coalesce(home.present_meters::text, ''), true),
        set_config('app.own_registers', coalesce(home.registers::text, ''), true),
        set_config('app.own_register_times', coalesce(home.register_times::text, ''), true),
        set_config('app.own_circuits', coalesce(home.circuits::text, ''), true),
        set_config('app.own_circuit_times', coalesce(home.circuit_times::text, ''), true),
        set_config('app.own_summed_times', coalesce(home.summed_times::text, ''), true),
        set_config('app.own_present_heads', coalesce(home.present_heads::text, ''), true),
        set_config('app.own_present_circuits', coalesce(home.present_circuits::text, ''), true);
end $$;
comment on function flows.enter_home(text, uuid)
is 'Makes a member of an ESCO the resident whose own rows are read, for the rest of the transaction.';
grant execute on function flows.enter_home(text, uuid) to tsdbadmin;

-- Plain expressions, which the planner puts in place of a call.
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
    flows.own('esco')::uuid, flows.own_ids('sites'), flows.own_ids('properties'), flows.own_ids('heads'),
    flows.own_ids('meters'), flows.own_times('meter_times'), flows.own_ids('present_meters'),
    flows.own_ids('registers'), flows.own_times('register_times'),
    flows.own_ids('circuits'), flows.own_times('circuit_times'), flows.own_times('summed_times'),
    flows.own_ids('present_heads'), flows.own_ids('present_circuits')
)::flows.home;
comment on function flows.own_home()
is 'All that is the calling resident''s own, and when; empty for a caller who is none.';
grant execute on function flows.is_planned_for_a_resident()
to flows, public_backend, resident, grafanareader, tsdbadmin;
grant execute on function flows.own(text), flows.own_ids(text), flows.own_times(text), flows.own_home()
to resident, grafanareader, tsdbadmin;

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

-- The one stay is a condition of its own, so that an index finds no row of whoever lived there before or after.
create or replace function flows.own_rows(key text, label text, unit interval, zone text) returns text
language sql immutable set search_path = ''
return format(
    $sql$%1$I = any((select flows.own_ids(%3$L))::uuid[])
    and %2$s >= (select coalesce(flows.own('since')::timestamptz, '-infinity'))
    and %2$s < (select coalesce(%5$s, 'infinity'))
    and (
        (select flows.own('since') is not null)
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
