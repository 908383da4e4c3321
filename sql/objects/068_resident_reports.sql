set local role flows_owner;

-- The reports of /v1 sum the registers of a circuit while they are mapped to it; for a resident, while it lives there
-- as well. A half-hour that it was there for a part of is none.
create view flows.own_mappings with (security_invoker = true) as
select
    mapping.circuit, mapping.register, lower(own.span) as start_time,
    case
        when upper(own.span) = mapping.end_time then mapping.end_time
        else date_bin('30 minutes', upper(own.span), '2000-01-01 00:00Z')
    end as end_time
from flows.circuit_register as mapping
cross join lateral unnest(
    tstzmultirange(tstzrange(mapping.start_time, mapping.end_time))
    * ((select flows.own_times('register_times')))[
        array_position((select flows.own_ids('registers')), mapping.register)
    ]
    * ((select flows.own_times('circuit_times')))[array_position((select flows.own_ids('circuits')), mapping.circuit)]
) as own (span);
comment on view flows.own_mappings is 'Mappings of a resident''s registers to circuits, each for a time of its stay.';
comment on column flows.own_mappings.circuit is 'The circuit.';
comment on column flows.own_mappings.register is 'The register.';
comment on column flows.own_mappings.start_time is 'Start of the time, inclusive, UTC.';
comment on column flows.own_mappings.end_time is 'End of the time, exclusive, UTC; empty while it has none.';
grant select on flows.own_mappings to resident;

create or replace function flows.own_derived_registers() returns uuid[]
language sql stable security definer set search_path = ''
return array(
    select d.register_id from flows.derived_register as d
    where d.register_id = any((select flows.own_ids('registers'))::uuid[])
);
comment on function flows.own_derived_registers()
is 'Registers of the calling resident''s that have derived half-hours.';

-- A change names its registers where they are few. Of others a resident is told the times alone, week by week, to look
-- there for half-hours of its own that are as new.
create or replace function flows.own_changes_behind(
    out remapping boolean, out spans tstzrange[], out moments timestamptz[]
)
language sql stable set search_path = ''
begin atomic
    with behind as materialized (
        select c.kind, c.period, c.changed_at, c.touched_registers, c.touched_circuits from flows.change as c
        where c.followed_at is null and coalesce(c.esco = flows.current_esco(), true)
    ), weeks as (
        select range_merge(range_agg(b.period)) as span,
            -- A row is as old as its transaction.
            min(b.changed_at) - interval '1 minute' as changed_at
        from behind as b
        where b.kind = 'reading' and coalesce(b.touched_registers && (select flows.own_ids('registers')), true)
        group by date_trunc('week', lower(b.period), 'UTC')
    )
    select
        (
            select count(*) > 0 from behind as b
            where b.kind = 'mapping' and coalesce(b.touched_circuits && (select flows.own_ids('circuits')), true)
        ),
        array(select w.span from weeks as w order by w.span),
        array(select w.changed_at from weeks as w order by w.span);
end;
comment on function flows.own_changes_behind()
is 'True if mappings of a resident''s are not followed yet; times and moments of changed half-hours that are not.';

-- Names and links as texts, looked up by their ids.
create or replace function flows.own_settings(own flows.home) returns text
language plpgsql stable set search_path = ''
as $$
begin
    return concat_ws(
        ' ',
        (
            select string_agg(concat_ws(
                ' ', m.circuit, m.register, tstzmultirange(tstzrange(m.start_time, m.end_time))
                * own.register_times[array_position(own.registers, m.register)]
                * own.circuit_times[array_position(own.circuits, m.circuit)]
            ), ' ' order by m.circuit, m.register, m.start_time)
            from flows.circuit_register as m
            where m.register = any(own.registers) and m.circuit = any(own.circuits)
        ),
        (
            select string_agg(concat_ws(' ', c.id, c.name, c.type, c.site), ' ' order by c.id)
            from flows.circuits as c where c.id = any(own.circuits)
        ),
        (
            select string_agg(concat_ws(' ', r.register_id, r.meter_id), ' ' order by r.register_id)
            from flows.meter_registers as r where r.register_id = any(own.registers)
        ),
        (
            select string_agg(concat_ws(' ', m.id, m.serial, m.name, m.site), ' ' order by m.id)
            from flows.meter_registry as m where m.id = any(own.meters)
        ),
        (
            select string_agg(concat_ws(' ', p.id, p.plot, p.site), ' ' order by p.id)
            from flows.properties as p where p.id = any(own.properties)
        ),
        (
            select string_agg(concat_ws(' ', s.id, s.code, s.name), ' ' order by s.id)
            from flows.sites_new as s
            where s.id = any(
                array(select p.site from flows.properties as p where p.id = any(own.properties))
                || array(select c.site from flows.circuits as c where c.id = any(own.circuits))
            )
        ),
        (select concat_ws(' ', e.code, e.name) from flows.escos as e where e.id = own.esco)
    );
end $$;
comment on function flows.own_settings(flows.home) is 'Names and links of what is a resident''s own, as one text.';

-- The version of a period's data as a resident sees them: it moves with its own rows and links and with nothing else.
-- Half-hours are counted by the sums of their days, those of other days themselves. A definer function sees every
-- ESCO, so rows are looked up circuit by circuit and stay by stay, which an index answers on a plan for any period. The
-- bounds of all stays leave out the partitions that no row can be in before the plan begins with them.
create or replace function flows.own_data_state(
    period tstzrange, out version text, out as_of timestamptz, out remapping boolean, out cluster text, out seen text,
    out has_derived boolean
)
language plpgsql stable security definer set search_path = '' set plan_cache_mode = 'force_generic_plan'
as $$
declare
    owner constant uuid := flows.current_esco();
    home constant flows.home := flows.own_home();
    first constant timestamptz := date_trunc('day', coalesce(lower(period), '-infinity'), 'UTC');
    stop constant timestamptz := coalesce(upper(period), 'infinity');
    behind record;
    days text;
    days_at timestamptz;
    cut_days timestamptz[];
    edges text;
    edges_at timestamptz;
    waiting text;
    waiting_at timestamptz;
    registers uuid[];
    labels timestamptz[];
    since timestamptz;
    until timestamptz;
    newest text;
    newest_at timestamptz;
begin
    -- Lists and alerts have no period: their content is their version.
    if isempty(period) then
        version := '';
        remapping := false;
        has_derived := false;
        return;
    end if;
    behind := flows.own_changes_behind();
    -- The latest of all times is the newest half-hour's.
    if not (lower_inf(period) and upper_inf(period)) then
        select concat_ws(' ', count(*), sum(d.register_intervals), max(d.updated_at)), max(d.updated_at) into days, days_at
        from (
            select
                own.id, greatest(first, lower(stay)) as since,
                least(stop, date_trunc('day', upper(stay), 'UTC')) as until
            from unnest(home.circuits, home.summed_times) as own (id, times)
            cross join lateral unnest(own.times) as stay
            offset 0
        ) as k
        cross join lateral (
            select its.register_intervals, its.updated_at from flows.circuit_interval_daily as its
            where its.circuit_id = k.id and its.esco is not distinct from owner
                and its.day >= k.since and its.day < k.until and its.day >= first and its.day < stop
            offset 0
        ) as d;
        cut_days := array(
            select distinct date_trunc('day', bound.at, 'UTC')
            from unnest(home.summed_times) as times
            cross join lateral unnest(times) as span
            cross join lateral (values (lower(span)), (upper(span))) as bound (at)
            where isfinite(bound.at) and bound.at >= first and date_trunc('day', bound.at, 'UTC') < stop
        );
        if cut_days <> '{}' then
            select concat_ws(' ', count(*), sum(h.register_intervals), max(h.updated_at)), max(h.updated_at)
            into edges, edges_at
            from unnest(cut_days) as cut (day)
            cross join unnest(home.circuits, home.summed_times) as own (id, times)
            cross join lateral unnest(own.times) as stay
            cross join lateral (
                select its.register_intervals, its.updated_at from flows.circuit_interval_hh as its
                where its.circuit_id = own.id and its.esco is not distinct from owner
                    and its."timestamp" >= greatest(cut.day, lower(stay))
                    and its."timestamp" < least(
                        cut.day + interval '1 day', date_bin('30 minutes', upper(stay), '2000-01-01 00:00Z')
                    )
                offset 0
            ) as h;
        end if;
    end if;
    if behind.spans <> '{}' then
        select nullif(concat_ws(' ', nullif(count(*), 0), max(r.updated_at)), ''), max(r.updated_at)
        into waiting, waiting_at
        from unnest(behind.spans, behind.moments) as c (span, changed_at)
        cross join unnest(home.registers, home.register_times) as own (id, times)
        cross join lateral unnest(own.times) as stay
        cross join lateral (
            select its."timestamp", its.updated_at from flows.register_interval_hh as its
            where its.register_id = own.id and its.esco is not distinct from owner
                and its."timestamp" >= greatest(lower(c.span), lower(stay))
                and its."timestamp" < least(upper(c.span), date_bin('30 minutes', upper(stay), '2000-01-01 00:00Z'))
            offset 0
        ) as r
        where r.updated_at >= c.changed_at and r."timestamp" <@ period;
    end if;
    if upper_inf(period) then
        select
            array_agg(known.register_id), array_agg(known.available_to - interval '30 minutes'),
            min(known.available_to) - interval '30 minutes', max(known.available_to)
        into registers, labels, since, until
        from flows.register_extent as known
        where known.register_id = any(home.registers) and known.esco is not distinct from owner;
        select concat_ws(' ', count(*), max(n."timestamp"), max(n.updated_at)), max(n.updated_at) into newest, newest_at
        from unnest(registers, labels) as known (id, label)
        inner join flows.register_interval_hh as n on known.id = n.register_id and known.label = n."timestamp"
        where n."timestamp" >= since and n."timestamp" < until and n.esco is not distinct from owner
            and home.register_times[array_position(home.registers, n.register_id)]
            @> tstzrange(n."timestamp", n."timestamp" + interval '30 minutes');
    end if;
    version := md5(concat_ws('|', home, flows.own_settings(home), days, edges, waiting, newest));
    as_of := greatest(days_at, edges_at, waiting_at, newest_at);
    remapping := behind.remapping;
    has_derived := flows.own_derived_registers() <> '{}';
end $$;
comment on function flows.own_data_state(tstzrange)
is 'Version and latest change of a resident''s data in a period; remapping while aggregates lag behind a mapping.';
grant execute on function flows.own_derived_registers(), flows.own_data_state(tstzrange) to resident;

reset role;
