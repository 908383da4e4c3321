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
    registers uuid[];
    spans tstzrange[];
    gone_registers uuid[] := '{}';
    gone_spans tstzrange[] := '{}';
begin
    -- Planned for each statement, because the best plan depends on the number of rows it changed.
    execute format(in_days, case tg_op
        when 'INSERT' then new_keys
        when 'UPDATE' then new_keys || ' union ' || old_keys
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
for each row execute function flows.touch();

-- If only the end or the start of a mapping changes, only the time between its old and new bounds is affected.
create or replace function flows.mapping_changed() returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
    before tstzmultirange := case
        when tg_op <> 'INSERT' then tstzmultirange(tstzrange(old.start_time, old.end_time)) else '{}'
    end;
    after tstzmultirange := case
        when tg_op <> 'DELETE' then tstzmultirange(tstzrange(new.start_time, new.end_time)) else '{}'
    end;
    stays tstzmultirange := case
        when (old.circuit, old.register) = (new.circuit, new.register) then before * after else '{}'
    end;
begin
    perform flows.follow_mapping(
        array_remove(array[old.circuit, new.circuit], null),
        array_remove(array[old.register, new.register], null),
        (before + after) - stays
    );
    return null;
end $$;
comment on function flows.mapping_changed() is 'Updates the aggregates for a changed circuit mapping.';
create trigger aggregates_follow_the_mapping after insert or update or delete on flows.circuit_register
for each row execute function flows.mapping_changed();

reset role;
