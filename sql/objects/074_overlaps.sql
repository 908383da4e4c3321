set local role flows_owner;

-- A register that is mapped to a circuit twice at one time would be summed twice, as no aggregate can leave out one
-- of two rows that fulfil its join.

-- Taken after the rows are written, so that who comes second looks, with a new snapshot, at what the first had
-- committed. No ESCO waits for another. A register may be named a thousand times: for so many, all registers would be
-- read.
create or replace function flows.lock_mapping(registers uuid[], alone boolean) returns void
language sql set search_path = '' set plan_cache_mode = 'force_custom_plan'
begin atomic
    select case
        when alone then pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtext('flows.circuit_register'), owner)
        else pg_catalog.pg_advisory_xact_lock_shared(pg_catalog.hashtext('flows.circuit_register'), owner)
    end
    from (
        select coalesce(pg_catalog.hashtext(r.esco::text), 0) as owner from flows.meter_registers as r
        where r.register_id = any(array(select distinct unnest(registers)))
        union
        select coalesce(pg_catalog.hashtext(m.esco::text), 0) from flows.circuit_register as m
        where m.register = any(array(select distinct unnest(registers)))
        order by 1
    ) as owners;
end;
comment on function flows.lock_mapping(uuid[], boolean)
is 'Locks the circuit mapping of the ESCOs of registers, together with others or alone.';

create or replace function flows.refuse_overlaps() returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
    changed constant text := 'select n.circuit, n.register, n.start_time, n.end_time from new_rows as n' || case
        when tg_op = 'UPDATE' then ' except select o.circuit, o.register, o.start_time, o.end_time from old_rows as o'
        else ''
    end;
    written constant text := 'YYYY-MM-DD"T"HH24:MI:SS"Z"';
    registers uuid[];
    other record;
begin
    -- Planned for each statement, because the best plan depends on the number of rows it changed. Each is compared
    -- with its own others by "offset 0": joined, thousands would read the mappings of all ESCOs.
    execute format('select array_agg(distinct c.register) from (%s) as c', changed) into registers;
    if registers is null then
        return null;
    end if;
    perform flows.lock_mapping(registers, true);
    execute format(
        $sql$
        select m.circuit, m.register, m.start_time, m.end_time
        from (%s) as c
        cross join lateral (
            select *
            from flows.circuit_register as own
            where own.circuit = c.circuit and own.register = c.register and own.start_time <> c.start_time
                and own.start_time < coalesce(c.end_time, 'infinity')
                and coalesce(own.end_time, 'infinity') > c.start_time
            offset 0
        ) as m
        order by m.start_time limit 1
        $sql$,
        changed
    ) into other;
    if other.circuit is not null then
        raise sqlstate 'PT409' using
            message = format(
                'The register %s is mapped to the circuit %s already, from %s%s', other.register, other.circuit,
                to_char(other.start_time at time zone 'UTC', written),
                coalesce(' to ' || to_char(other.end_time at time zone 'UTC', written), ' on')
            ),
            hint = 'Let the earlier mapping end (end_time) where the later one begins, or change that row instead.';
    end if;
    return null;
end $$;
comment on function flows.refuse_overlaps()
is 'Refuses a mapping of a register to a circuit that has it at the time already.';
-- By their names they come before what follows the mapping. A copy mends what it brings (flows.mend_overlaps).
create trigger a_new_mapping_overlaps_none after insert on flows.circuit_register
referencing new table as new_rows for each statement
when (current_setting('flows.copying', true) is distinct from 'on' or not flows.sees_every_esco())
execute function flows.refuse_overlaps();
create trigger a_changed_mapping_overlaps_none after update on flows.circuit_register
referencing new table as new_rows old table as old_rows for each statement
when (current_setting('flows.copying', true) is distinct from 'on' or not flows.sees_every_esco())
execute function flows.refuse_overlaps();

-- Each mapping ends where the next of its register and circuit begins, and reaches as far as any before it did: so
-- the register is on the circuit for the same time as before, but once, and every row keeps its key.
create or replace function flows.overlapping_mappings()
returns table (circuit uuid, register uuid, start_time timestamptz, ended_at timestamptz, ends_at timestamptz)
language sql stable set search_path = ''
begin atomic
    select s.circuit, s.register, s.start_time, s.end_time, s.ends_at
    from (
        select
            m.circuit, m.register, m.start_time, m.end_time,
            nullif(
                least(lead(m.start_time) over by_start, max(coalesce(m.end_time, 'infinity')) over by_start), 'infinity'
            ) as ends_at
        from flows.circuit_register as m
        window by_start as (partition by m.circuit, m.register order by m.start_time)
    ) as s
    where s.ends_at is distinct from nullif(s.end_time, 'infinity');
end;
comment on function flows.overlapping_mappings()
is 'Mappings whose end must change, so that no register is on a circuit twice: where they end, and should end.';

create or replace function flows.mend_overlaps(most integer default 100)
returns table (circuit uuid, register uuid, start_time timestamptz, ended_at timestamptz, ends_at timestamptz)
language plpgsql security definer set search_path = '' set plan_cache_mode = 'force_custom_plan'
as $$
#variable_conflict use_column
declare
    circuits uuid[];
    registers uuid[];
    starts timestamptz[];
    before timestamptz[];
    after timestamptz[];
begin
    select array_agg(p.register) into registers from (
        select distinct o.register from flows.overlapping_mappings() as o limit most
    ) as p;
    if registers is null then
        return;
    end if;
    perform flows.lock_mapping(registers, true);
    select array_agg(o.circuit), array_agg(o.register), array_agg(o.start_time), array_agg(o.ended_at), array_agg(o.ends_at)
    into circuits, registers, starts, before, after
    from flows.overlapping_mappings() as o where o.register = any(registers);
    update flows.circuit_register as m set end_time = o.ends_at
    from unnest(circuits, registers, starts, after) as o (circuit, register, start_time, ends_at)
    where m.circuit = o.circuit and m.register = o.register and m.start_time = o.start_time;
    insert into gateway.mended_overlap as known (circuit, register, start_time, ended_at, ends_at)
    select * from unnest(circuits, registers, starts, before, after)
    on conflict (circuit, register, start_time) do update set
        ended_at = excluded.ended_at, ends_at = excluded.ends_at, mended_at = now();
    -- The time that the registers are mapped for has not changed, but what was summed twice has.
    perform flows.follow_mapping(
        circuits, registers, array(
            select tstzrange(least(o.ended, o.ends), nullif(greatest(o.ended, o.ends), 'infinity'))
            from (
                select coalesce(u.ended_at, 'infinity') as ended, coalesce(u.ends_at, 'infinity') as ends, u.number
                from unnest(before, after) with ordinality as u (ended_at, ends_at, number)
            ) as o
            order by o.number
        )
    );
    return query select * from unnest(circuits, registers, starts, before, after);
end $$;
comment on function flows.mend_overlaps(integer)
is 'Ends mappings of some registers where the next on the same circuit begins, and returns them.';
grant execute on function flows.mend_overlaps(integer) to tsdbadmin;

comment on table gateway.mended_overlap
is 'Mappings that overlapped another of the same register and circuit, and end elsewhere since.';
comment on column gateway.mended_overlap.circuit is 'The circuit.';
comment on column gateway.mended_overlap.register is 'The register.';
comment on column gateway.mended_overlap.start_time is 'Start of the mapping, inclusive, UTC.';
comment on column gateway.mended_overlap.ended_at is 'Its end before, UTC; empty if it had none.';
comment on column gateway.mended_overlap.ends_at is 'Its end since, UTC; empty if it has none.';
comment on column gateway.mended_overlap.mended_at is 'Time of the change, UTC.';

reset role;
