set local role flows_owner;

-- Changed half-hours are passed on as spans, one for each register and UTC day, so that the cost of the
-- work that follows depends on the number of days. Unchanged half-hours between the first and the last of
-- a span may be recomputed.
create or replace function flows.half_hours_changed(
    registers uuid[], spans tstzrange[], gone_registers uuid[], gone_spans tstzrange[]
) returns void
language plpgsql set search_path = ''
as $$
begin
    perform flows.extend_extents(registers, spans);
    if gone_registers <> '{}' then
        perform flows.shrink_extents(gone_registers, gone_spans);
    end if;
    perform flows.follow_readings(registers, spans);
end $$;
comment on function flows.half_hours_changed(uuid[], tstzrange[], uuid[], tstzrange[])
is 'Updates extents and aggregates for half-hours that were written or removed (gone: those removed).';

-- At the end of a statement, readings pass the half-hours they changed, and mappings the time they moved, to the
-- engine's own flows.follow_readings and flows.follow_mapping.
create or replace function flows.readings_changed() returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
    in_days constant text := $sql$
        select coalesce(array_agg(d.register_id), '{}'), coalesce(array_agg(d.span), '{}')
        from (
            select c.register_id, tstzrange(min(c."timestamp"), max(c."timestamp") + interval '30 minutes') as span
            from (%s) as c
            group by c.register_id, date_bin('1 day', c."timestamp", '2000-01-01 00:00Z')
        ) as d
    $sql$;
    new_keys constant text := 'select n.register_id, n."timestamp" from new_rows as n';
    old_keys constant text := 'select o.register_id, o."timestamp" from old_rows as o';
    -- A half-hour that was written as it was has not changed.
    changed_keys constant text := $sql$
        select c.register_id, c."timestamp"
        from (
            (
                select n.register_id, n."timestamp", n.import_kwh, n.export_kwh, n.derived from new_rows as n
                except all
                select o.register_id, o."timestamp", o.import_kwh, o.export_kwh, o.derived from old_rows as o
            )
            union all
            (
                select o.register_id, o."timestamp", o.import_kwh, o.export_kwh, o.derived from old_rows as o
                except all
                select n.register_id, n."timestamp", n.import_kwh, n.export_kwh, n.derived from new_rows as n
            )
        ) as c
        group by 1, 2
    $sql$;
    registers uuid[];
    spans tstzrange[];
    gone_registers uuid[] := '{}';
    gone_spans tstzrange[] := '{}';
begin
    -- Planned for each statement, because the best plan depends on the number of rows it changed.
    execute format(in_days, case tg_op
        when 'INSERT' then new_keys
        when 'UPDATE' then changed_keys
        else old_keys
    end) into registers, spans;
    if registers = '{}' then
        return null;
    end if;
    if tg_op <> 'INSERT' then
        execute format(in_days, old_keys || case when tg_op = 'UPDATE' then ' except ' || new_keys else '' end)
        into gone_registers, gone_spans;
    end if;
    perform flows.half_hours_changed(registers, spans, gone_registers, gone_spans);
    return null;
end $$;
comment on function flows.readings_changed()
is 'Updates extents and aggregates for the half-hours that a statement changed.';
create trigger aggregates_follow_new after insert on flows.register_interval_hh
referencing new table as new_rows for each statement execute function flows.readings_changed();
create trigger aggregates_follow_changed after update on flows.register_interval_hh
referencing new table as new_rows old table as old_rows for each statement execute function flows.readings_changed();
create trigger updated_at_moves before update on flows.register_interval_hh
for each row when (current_setting('flows.copying', true) is distinct from 'on')
execute function flows.touch();

-- A mapping moves the time that it covered before or covers now, but not both: if only its end changes, that is
-- the time between its old and its new end.
create or replace function flows.mappings_changed() returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
    none constant text := 'select null::uuid as circuit, null::uuid as register, null::tstzmultirange as times where false';
    covered constant text := $sql$
        select m.circuit, m.register, range_agg(tstzrange(m.start_time, m.end_time)) as times from %I as m group by 1, 2
    $sql$;
    circuits uuid[];
    registers uuid[];
    spans tstzrange[];
begin
    -- Planned for each statement, because the best plan depends on the number of rows it changed.
    execute format(
        $sql$
        select array_agg(m.circuit), array_agg(m.register), array_agg(m.span)
        from (
            select circuit, register, unnest(
                coalesce(old.times, '{}') + coalesce(new.times, '{}') - coalesce(old.times * new.times, '{}')
            ) as span
            from (%s) as old full join (%s) as new using (circuit, register)
        ) as m
        $sql$,
        case tg_op when 'INSERT' then none else format(covered, 'old_rows') end,
        case tg_op when 'DELETE' then none else format(covered, 'new_rows') end
    ) into circuits, registers, spans;
    if circuits <> '{}' then
        perform flows.follow_mapping(circuits, registers, spans);
    end if;
    return null;
end $$;
comment on function flows.mappings_changed()
is 'Updates the aggregates for the circuit mappings that a statement changed.';
create trigger aggregates_follow_new after insert on flows.circuit_register
referencing new table as new_rows for each statement execute function flows.mappings_changed();
create trigger aggregates_follow_changed after update on flows.circuit_register
referencing new table as new_rows old table as old_rows for each statement execute function flows.mappings_changed();
create trigger aggregates_follow_removed after delete on flows.circuit_register
referencing old table as old_rows for each statement execute function flows.mappings_changed();

reset role;
