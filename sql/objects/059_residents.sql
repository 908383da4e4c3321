set local role flows_owner;
comment on type flows.home is 'All that a resident reads by: the ids of what is its own, and the times in which it is.';

-- For the planner, as flows.is_planned_for_every_esco() is: a tenant's plan is left without what follows for residents.
create or replace function flows.is_planned_for_a_resident() returns boolean
language sql immutable parallel safe
return pg_catalog.pg_has_role(current_user, 'resident', 'usage') and not flows.sees_every_esco();
comment on function flows.is_planned_for_a_resident()
is 'True for residents, for views and policies alone: asked when a query is planned.';

-- From homes along the links: what supplies a home is its resident's while the resident lives there. What supplies
-- several homes (a landlord's supply) would tell of the others, so it is the resident's only while all of them are. The
-- links have no times of their own but a register's to its circuit.
create or replace function flows.find_home(member text, owner uuid) returns flows.home
language plpgsql stable security definer set search_path = '' set plan_cache_mode = 'force_generic_plan'
as $$
declare
    found flows.home;
begin
    with lived as materialized (
        select r.property as id, range_agg(tstzrange(r.start_time, r.end_time)) as times
        from gateway.residence as r
        inner join gateway.member as m on r.member = m.id
        where r.member = find_home.member and r.esco = owner and m.resident and m.esco = owner
            and m.disabled_at is null and r.start_time <= now()
        group by r.property
    ), heads as materialized (
        select supplied.service_head as id, range_intersect_agg(coalesce(lived.times, '{}')) as times
        from flows.properties_service_head as supplied
        left join lived on supplied.property = lived.id
        where supplied.esco = owner and supplied.service_head = any(array(
            select its.service_head from lived
            inner join flows.properties_service_head as its on lived.id = its.property
        ))
        group by supplied.service_head
        having not isempty(range_intersect_agg(coalesce(lived.times, '{}')))
    ), meters as materialized (
        select metered.meter as id, range_intersect_agg(coalesce(heads.times, '{}')) as times
        from flows.service_head_meter as metered
        left join heads on metered.service_head = heads.id
        where metered.esco = owner and metered.meter = any(array(
            select its.meter from heads inner join flows.service_head_meter as its on heads.id = its.service_head
        ))
        group by metered.meter
        having not isempty(range_intersect_agg(coalesce(heads.times, '{}')))
    ), registers as materialized (
        select r.register_id as id, meters.times
        from meters
        inner join flows.meter_registers as r on meters.id = r.meter_id and r.esco = owner
    ), mapped as materialized (
        select
            m.circuit, registers.times,
            tstzmultirange(tstzrange(m.start_time, m.end_time)) - coalesce(registers.times, '{}') as foreign_times
        from flows.circuit_register as m
        left join registers on m.register = registers.id
        where m.circuit = any(array(
            select its.circuit from registers
            inner join flows.circuit_register as its on registers.id = its.register and its.esco = owner
        ))
    ), circuits as materialized (
        select circuit.id, circuit.site, own.times
        from (
            select m.circuit as id, range_agg(m.times) - range_agg(m.foreign_times) as times
            from mapped as m group by m.circuit
        ) as own
        inner join flows.circuits as circuit on own.id = circuit.id and circuit.esco = owner
        where not isempty(own.times)
    ), waiting as materialized (
        -- Sums that do not follow a changed mapping yet may be of registers that were mapped before.
        select c.touched_circuits, c.period from flows.change as c
        where c.followed_at is null and c.kind = 'mapping' and coalesce(c.esco = owner, true)
    ), summed as materialized (
        select
            c.id, c.site, c.times,
            c.times - coalesce((
                select range_agg(w.period) from waiting as w
                where w.touched_circuits is null or c.id = any(w.touched_circuits)
            ), '{}') as summed_times
        from circuits as c
    ), stays as (
        select range_agg(s.times) as times, count(distinct s.times) = 1 as is_one
        from (
            select meters.times from meters
            union all select summed.summed_times from summed
        ) as s
    ), homes as (
        select p.id, p.site from lived inner join flows.properties as p on lived.id = p.id and p.esco = owner
    )
    select
        coalesce(lower(stays.times), '-infinity'), coalesce(upper(stays.times), 'infinity'),
        stays.is_one and stays.times = tstzmultirange(range_merge(stays.times)),
        case when exists (select from homes) then owner end,
        array(select homes.site from homes union select summed.site from summed where summed.site is not null),
        array(select homes.id from homes order by 1),
        array(select heads.id from heads order by 1),
        array(select meters.id from meters order by meters.id),
        array(select meters.times from meters order by meters.id),
        array(select meters.id from meters where meters.times @> now() order by 1),
        array(select registers.id from registers order by registers.id),
        array(select registers.times from registers order by registers.id),
        array(select summed.id from summed order by summed.id),
        array(select summed.times from summed order by summed.id),
        array(select summed.summed_times from summed order by summed.id)
    into
        found.since, found.until, found.is_one_stay, found.esco, found.sites, found.properties, found.heads,
        found.meters, found.meter_times, found.present_meters, found.registers, found.register_times,
        found.circuits, found.circuit_times, found.summed_times
    from stays;
    return found;
end $$;
comment on function flows.find_home(text, uuid) is 'All that is a resident''s own, and when.';

-- Found once for each snapshot of a transaction, as a query asks for each of the parts.
create or replace function flows.own_home() returns flows.home
language plpgsql stable security definer set search_path = ''
as $$
declare
    member constant text := nullif(current_setting('app.current_member', true), '');
    owner constant uuid := flows.current_esco();
    asked text;
    found flows.home;
begin
    if member is null or owner is null then
        return found;
    end if;
    asked := concat_ws(' ', pg_catalog.pg_current_snapshot(), now(), owner, member);
    if current_setting('app.home_of', true) = asked then
        return current_setting('app.home')::flows.home;
    end if;
    found := flows.find_home(member, owner);
    perform set_config('app.home', found::text, true), set_config('app.home_of', asked, true);
    return found;
end $$;
comment on function flows.own_home()
is 'All that is the calling resident''s own, and when; empty for a caller who is none.';
grant execute on function flows.is_planned_for_a_resident()
to flows, public_backend, resident, grafanareader, tsdbadmin;
grant execute on function flows.own_home() to resident, grafanareader, tsdbadmin;

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

-- An index answers all but the last part, which is asked where one stay is not all.
create or replace function flows.own_rows(key text, label text, unit interval, zone text) returns text
language sql immutable set search_path = ''
return format(
    $sql$%1$I = any((select (flows.own_home()).%3$s)::uuid[])
    and %2$s >= (select (flows.own_home()).since) and %2$s < (select %5$s)
    and (
        (select (flows.own_home()).is_one_stay)
        or ((select (flows.own_home()).%4$s))[array_position((select (flows.own_home()).%3$s), %1$I)] @> %6$s
    )$sql$,
    key, label,
    case key when 'register_id' then 'registers' when 'meter_id' then 'meters' else 'circuits' end,
    case key when 'register_id' then 'register_times' when 'meter_id' then 'meter_times' else 'summed_times' end,
    flows.last_label('(flows.own_home()).until', unit, zone),
    case when unit is null then label else format('tstzrange(%1$s, date_add(%1$s, %2$L, %3$L))', label, unit, zone) end
);
comment on function flows.own_rows(text, text, interval, text)
is 'Text of the condition on the rows that a resident reads of a relation, by its key and the start of its intervals.';

reset role;
