set local role flows_owner;

comment on table flows.removed_half_hour
is 'Removed half-hours of statements that are running; empty otherwise.';
comment on column flows.removed_half_hour.transaction is 'Id of the transaction that removes them.';
comment on column flows.removed_half_hour.register_id is 'The register.';
comment on column flows.removed_half_hour.day is 'Start of the day, UTC.';
comment on column flows.removed_half_hour.starts is 'Start of the first removed half-hour of the day, UTC.';
comment on column flows.removed_half_hour.ends is 'End of the last removed half-hour of the day, UTC.';
alter table flows.removed_half_hour enable row level security;
alter table flows.removed_half_hour force row level security;
create policy "maintenance alone knows the removed half-hours" on flows.removed_half_hour
to flows_owner using (current_user = 'flows_owner');

-- Triggers on DELETE of a hypertable get no transition table: each row is noted, and the statement's end
-- passes them on together.
create or replace function flows.note_removed() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
    insert into flows.removed_half_hour as noted (transaction, register_id, day, starts, ends)
    values (
        pg_catalog.pg_current_xact_id(), old.register_id,
        date_bin('1 day', old."timestamp", '2000-01-01 00:00Z'),
        old."timestamp", old."timestamp" + interval '30 minutes'
    )
    on conflict (transaction, register_id, day) do update set
        starts = least(noted.starts, excluded.starts), ends = greatest(noted.ends, excluded.ends);
    return null;
end $$;
comment on function flows.note_removed() is 'Notes a removed half-hour until its statement ends.';
create trigger a_removed_half_hour_is_noted after delete on flows.register_interval_hh
for each row when (current_setting('flows.replaced', true) is distinct from 'on')
execute function flows.note_removed();

create or replace function flows.readings_removed() returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
    registers uuid[];
    spans tstzrange[];
begin
    with noted as (
        delete from flows.removed_half_hour as removed
        where removed.transaction = pg_catalog.pg_current_xact_id()
        returning removed.register_id, tstzrange(removed.starts, removed.ends) as span
    )
    select coalesce(array_agg(n.register_id), '{}'), coalesce(array_agg(n.span), '{}')
    into registers, spans
    from noted as n;
    if registers <> '{}' then
        perform flows.half_hours_changed(registers, spans, registers, spans);
    end if;
    return null;
end $$;
comment on function flows.readings_removed()
is 'Updates extents and aggregates for the half-hours that a statement removed.';
create trigger aggregates_follow_removed after delete on flows.register_interval_hh
for each statement when (current_setting('flows.replaced', true) is distinct from 'on')
execute function flows.readings_removed();

reset role;
