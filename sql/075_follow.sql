-- migrate:up
set local role flows_owner;

-- Who follows what: readings hand the half-hours they changed, mappings the time they moved, to the engine's own
-- flows.follow_readings and flows.follow_mapping, at the end of the statement.
create function flows.readings_changed() returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
    changed flows.register_half_hour[];
begin
    if tg_op = 'INSERT' then
        changed := array(select (a.register_id, a."timestamp")::flows.register_half_hour from added as a);
    elsif tg_op = 'DELETE' then
        changed := array(select (r.register_id, r."timestamp")::flows.register_half_hour from removed as r);
    else
        changed := array(
            select (a.register_id, a."timestamp")::flows.register_half_hour from added as a
            union
            select (r.register_id, r."timestamp")::flows.register_half_hour from removed as r
        );
    end if;
    if changed <> '{}' then
        perform flows.follow_readings(changed);
    end if;
    return null;
end $$;
comment on function flows.readings_changed() is 'The aggregates follow changed half-hours.';
create trigger aggregates_follow_new after insert on flows.register_interval_hh
referencing new table as added for each statement execute function flows.readings_changed();
create trigger aggregates_follow_changed after update on flows.register_interval_hh
referencing new table as added old table as removed for each statement execute function flows.readings_changed();
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
