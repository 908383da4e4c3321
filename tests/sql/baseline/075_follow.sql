-- migrate:up
set local role flows_owner;

create function flows.half_hours_changed(
    arrived flows.register_half_hour[], removed flows.register_half_hour[]
) returns void
language plpgsql set search_path = ''
as $$
declare
    changed flows.register_half_hour[] := array(
        select (c.register_id, c."timestamp")::flows.register_half_hour
        from (select * from unnest(arrived) union select * from unnest(removed)) as c
    );
    gone flows.register_half_hour[];
begin
    if changed = '{}' then
        return;
    end if;
    perform flows.extend_extents(arrived);
    if removed <> '{}' then
        gone := array(
            select (c.register_id, c."timestamp")::flows.register_half_hour
            from (select * from unnest(removed) except select * from unnest(arrived)) as c
        );
        perform flows.shrink_extents(gone);
    end if;
    perform flows.follow_readings(changed);
end $$;
comment on function flows.half_hours_changed(flows.register_half_hour[], flows.register_half_hour[])
is 'Extents and aggregates follow half-hours that were written or removed.';

-- Who follows what: readings hand the half-hours they changed, mappings the time they moved, to the engine's own
-- flows.follow_readings and flows.follow_mapping, at the end of the statement.
create function flows.readings_changed() returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
    arrived flows.register_half_hour[] := '{}';
    removed flows.register_half_hour[] := '{}';
begin
    if tg_op <> 'DELETE' then
        arrived := array(select (n.register_id, n."timestamp")::flows.register_half_hour from new_rows as n);
    end if;
    if tg_op <> 'INSERT' then
        removed := array(select (o.register_id, o."timestamp")::flows.register_half_hour from old_rows as o);
    end if;
    perform flows.half_hours_changed(arrived, removed);
    return null;
end $$;
comment on function flows.readings_changed() is 'The aggregates follow changed half-hours.';
create trigger aggregates_follow_new after insert on flows.register_interval_hh
referencing new table as new_rows for each statement execute function flows.readings_changed();
create trigger aggregates_follow_changed after update on flows.register_interval_hh
referencing new table as new_rows old table as old_rows for each statement execute function flows.readings_changed();
create trigger updated_at_moves before update on flows.register_interval_hh
for each row execute function flows.touch();

-- A mapping that only ends, or begins earlier, moves what lies between its old and its new bounds.
create function flows.mapping_changed() returns trigger
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
comment on function flows.mapping_changed() is 'The aggregates follow a changed circuit mapping.';
create trigger aggregates_follow_the_mapping after insert or update or delete on flows.circuit_register
for each row execute function flows.mapping_changed();

reset role;

-- migrate:down
