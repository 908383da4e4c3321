set local role flows_owner;

-- Triggers on DELETE of a hypertable get no transition table, so each row is recorded by itself.
create or replace function flows.reading_removed() returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
    gone tstzrange[] := array[tstzrange(old."timestamp", old."timestamp" + interval '30 minutes')];
begin
    perform flows.half_hours_changed(array[old.register_id], gone, array[old.register_id], gone);
    return null;
end $$;
comment on function flows.reading_removed() is 'Updates extents and aggregates for a removed half-hour.';
create trigger aggregates_follow_removed after delete on flows.register_interval_hh
for each row execute function flows.reading_removed();

reset role;
