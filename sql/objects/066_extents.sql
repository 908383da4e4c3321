set local role flows_owner;
comment on table flows.register_extent is 'First and last half-hour of each register with half-hours.';
comment on column flows.register_extent.register_id is 'The register.';
comment on column flows.register_extent.available_from is 'Start of its first half-hour, UTC.';
comment on column flows.register_extent.available_to is 'End of its last half-hour, UTC.';

-- A half-hour inside what is known touches no row, so that writers do not wait for one another.
create or replace function flows.extend_extents(registers uuid[], spans tstzrange[]) returns void
language sql set search_path = '' set plan_cache_mode = 'force_custom_plan'
begin atomic
    insert into flows.register_extent as known (register_id, available_from, available_to)
    select a.register_id, min(lower(a.span)), max(upper(a.span))
    from unnest(registers, spans) as a (register_id, span)
    left join flows.register_extent as before on a.register_id = before.register_id
    where before.register_id is null
        or lower(a.span) < before.available_from or upper(a.span) > before.available_to
    group by a.register_id
    order by a.register_id
    on conflict (register_id) do update set
        available_from = least(known.available_from, excluded.available_from),
        available_to = greatest(known.available_to, excluded.available_to);
end;
comment on function flows.extend_extents(uuid[], tstzrange[])
is 'Extends the extents of registers to new half-hours.';

create or replace function flows.measure_extents(registers uuid[]) returns void
language plpgsql set search_path = ''
as $$
begin
    -- Who waited for a row measures, with a new snapshot, what the other had committed.
    perform from flows.register_extent as known
    where known.register_id = any(registers) order by known.register_id for update;
    delete from flows.register_extent as known
    where known.register_id = any(registers)
        and not exists (select from flows.register_interval_hh as r where r.register_id = known.register_id);
    insert into flows.register_extent as known (register_id, available_from, available_to)
    select register.id, oldest."timestamp", newest."timestamp" + interval '30 minutes'
    from unnest(registers) as register (id)
    cross join lateral (
        select r."timestamp" from flows.register_interval_hh as r
        where r.register_id = register.id order by r."timestamp" limit 1
    ) as oldest
    cross join lateral (
        select r."timestamp" from flows.register_interval_hh as r
        where r.register_id = register.id order by r."timestamp" desc limit 1
    ) as newest
    order by register.id
    on conflict (register_id) do update set
        available_from = excluded.available_from, available_to = excluded.available_to;
end $$;
comment on function flows.measure_extents(uuid[]) is 'Determines the extents of registers from their half-hours.';

create or replace function flows.shrink_extents(registers uuid[], spans tstzrange[]) returns void
language plpgsql set search_path = '' set plan_cache_mode = 'force_custom_plan'
as $$
declare
    shorter uuid[] := array(
        select distinct g.register_id
        from unnest(registers, spans) as g (register_id, span)
        inner join flows.register_extent as known
            on g.register_id = known.register_id
            and (lower(g.span) <= known.available_from or upper(g.span) >= known.available_to)
    );
begin
    if shorter <> '{}' then
        perform flows.measure_extents(shorter);
    end if;
end $$;
comment on function flows.shrink_extents(uuid[], tstzrange[])
is 'Determines anew the extents whose first or last half-hour was removed.';

-- Chunks and partitions that retention drops, and rows loaded past the triggers, tell nobody.
create or replace function flows.mend_extents() returns bigint
language plpgsql set search_path = ''
as $$
declare
    wrong uuid[] := array(
        select register.register_id
        from flows.meter_registers as register
        left join flows.register_extent as known on register.register_id = known.register_id
        left join lateral (
            select r."timestamp" from flows.register_interval_hh as r
            where r.register_id = register.register_id order by r."timestamp" limit 1
        ) as oldest on true
        left join lateral (
            select r."timestamp" from flows.register_interval_hh as r
            where r.register_id = register.register_id order by r."timestamp" desc limit 1
        ) as newest on true
        where (known.available_from, known.available_to)
            is distinct from (oldest."timestamp", newest."timestamp" + interval '30 minutes')
    );
begin
    perform flows.measure_extents(wrong);
    return cardinality(wrong);
end $$;
comment on function flows.mend_extents() is 'Corrects wrong extents; returns their number.';

reset role;
