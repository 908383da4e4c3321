set local role flows_owner;

-- A meter that moves from one ESCO to another leaves a former meter behind: with its registers, their half-hours and
-- mappings, its service head and its last state, all of which stay the first ESCO's. The meter itself, with its id,
-- its serial number and its SIM, begins anew with registers of its own. So no row has two owners, and none is
-- out of both's reach.
create or replace function flows.moved_at() returns timestamptz
language sql stable set search_path = ''
return coalesce(nullif(current_setting('flows.moved_at', true), '')::timestamptz, now());
comment on function flows.moved_at()
is 'The moment at which a meter moves: now, unless `flows meter move` says another.';

create or replace function flows.former_serial(serial text) returns text
language sql stable set search_path = ''
return former_serial.serial || ' until '
|| to_char(flows.moved_at() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"');
comment on function flows.former_serial(text) is 'Serial number of what a meter that moves leaves behind.';

create or replace function flows.leave_history() returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
    moment constant timestamptz := flows.moved_at();
    former uuid;
    registers constant uuid[] := array(
        select r.register_id from flows.meter_registers as r where r.meter_id = old.id
    );
begin
    insert into flows.meter_registry (
        serial, name, esco, site, mode, hardware, firmware_version, installation_status,
        commissioned_iso_week_date, prepay_enabled, daylight_savings_correction_enabled, single_meter_app, created_at
    ) values (
        flows.former_serial(old.serial), old.name, old.esco, old.site, old.mode, old.hardware, old.firmware_version,
        'deleted', old.commissioned_iso_week_date, old.prepay_enabled, old.daylight_savings_correction_enabled,
        old.single_meter_app, old.created_at
    )
    returning id into former;
    delete from flows.circuit_register as m where m.register = any(registers) and m.start_time >= moment;
    update flows.circuit_register as m set end_time = moment
    where m.register = any(registers) and (m.end_time > moment or m.end_time is null);
    update flows.meter_registers as r set
        meter_id = former, status = 'replaced',
        end_time = case r.status when 'enabled' then moment else least(r.end_time, moment) end
    where r.meter_id = old.id;
    update flows.service_head_meter as l set meter = former where l.meter = old.id;
    delete from flows.meter_shadows as empty where empty.id = former;
    update flows.meter_shadows as s set id = former where s.id = old.id;
    if new.site is not distinct from old.site then
        new.site := null;
    end if;
    return new;
end $$;
comment on function flows.leave_history() is 'Leaves the history of a meter that moves to another ESCO with the first.';
create trigger history_stays_with_its_owner before update of esco on flows.meter_registry
for each row when (old.esco is not null and new.esco is distinct from old.esco)
execute function flows.leave_history();

create or replace function flows.begin_anew() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
    insert into flows.meter_shadows (id) values (new.id) on conflict do nothing;
    insert into flows.meter_registers (meter_id, element, nature, direction_reversed, start_time)
    select new.id, r.element, r.nature, r.direction_reversed, flows.moved_at()
    from flows.meter_registers as r
    inner join flows.meter_registry as former on r.meter_id = former.id
    where former.serial = flows.former_serial(old.serial) and r.end_time = flows.moved_at();
    return null;
end $$;
comment on function flows.begin_anew() is 'Gives a meter that has moved to another ESCO new registers.';
create trigger a_moved_meter_begins_anew after update of esco on flows.meter_registry
for each row when (old.esco is not null and new.esco is distinct from old.esco)
execute function flows.begin_anew();

reset role;
