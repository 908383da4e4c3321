-- migrate:up
set local role flows_owner;

-- A hypertable hands no transition table to a trigger on DELETE, so each row is noted by itself.
create function flows.reading_removed() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
    perform flows.half_hours_changed('{}', array[(old.register_id, old."timestamp")::flows.register_half_hour]);
    return null;
end $$;
comment on function flows.reading_removed() is 'Extents and aggregates follow a removed half-hour.';
create trigger aggregates_follow_removed after delete on flows.register_interval_hh
for each row execute function flows.reading_removed();

reset role;

-- migrate:down
