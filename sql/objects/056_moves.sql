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

-- Within an ESCO a meter may move to another service head, and a service head to another property. What was before is
-- the former home's: the link is kept with its end, and the next one begins then. A first link is for all time, as
-- readings may be older than it.
create or replace function flows.keep_former_link() returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
    former constant text := 'former_' || tg_table_name;
    above constant text := tg_argv[0];
    below constant text := tg_argv[1];
    has_moved boolean;
begin
    if tg_op <> 'INSERT' then
        execute format(
            'insert into flows.%1$I (%2$I, %3$I, esco, start_time, end_time) '
            'select ($1).%2$I, ($1).%3$I, ($1).esco, ($1).start_time, greatest(($1).start_time, flows.moved_at()) '
            'on conflict do nothing',
            former, above, below
        ) using old;
    end if;
    if tg_op = 'DELETE' then
        return old;
    end if;
    execute format('select exists (select from flows.%1$I as f where f.%2$I = ($1).%2$I)', former, below)
    into has_moved using new;
    if tg_op = 'UPDATE' or new.start_time is null then
        new.start_time := case when has_moved then flows.moved_at() end;
    end if;
    return new;
end $$;
comment on function flows.keep_former_link() is 'Keeps a link that ends, and lets the next one begin then.';
do $$
declare
    link record;
begin
    for link in
        select * from (values
            ('service_head_meter', 'service_head', 'meter'),
            ('properties_service_head', 'property', 'service_head')
        ) as l (name, above, below)
    loop
        execute format('alter table flows.%I enable row level security', 'former_' || link.name);
        execute format('alter table flows.%I force row level security', 'former_' || link.name);
        execute format(
            'create policy "maintenance alone knows the former links" on flows.%I to flows_owner, tsdbadmin '
            'using (current_user in (''flows_owner'', ''tsdbadmin''))', 'former_' || link.name
        );
        execute format(
            'create trigger former_links_are_kept before insert or delete on flows.%I '
            'for each row execute function flows.keep_former_link(%L, %L)', link.name, link.above, link.below
        );
        execute format(
            'create trigger former_links_are_kept_when_changed before update of %2$I, %3$I on flows.%1$I '
            'for each row when ((old.%2$I, old.%3$I) is distinct from (new.%2$I, new.%3$I)) '
            'execute function flows.keep_former_link(%2$L, %3$L)', link.name, link.above, link.below
        );
    end loop;
end $$;

-- A meter on two service heads supplies the homes of both, so that none of their residents may read of it. Who moves a
-- meter and links it first would hide its whole history from the home that it leaves, and could not give it back.
create or replace function flows.check_link() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
    if exists (
        select from flows.service_head_meter as l
        inner join flows.properties_service_head as its on l.service_head = its.service_head
        inner join gateway.residence as r on its.property = r.property
        where l.meter = new.meter and l.service_head <> new.service_head
            and not exists (
                select from flows.properties_service_head as too
                where too.service_head = new.service_head and too.property = r.property
            )
    ) then
        raise sqlstate 'PT409' using
            message = 'service_head_meter: the meter is linked to the service head of a home with residents',
            hint = 'Change that link, or delete it first: what was metered until then stays with that home.';
    end if;
    return new;
end $$;
comment on function flows.check_link() is 'Refuses to link a meter of a home with residents to another home as well.';
create trigger residents_keep_what_was_metered before insert on flows.service_head_meter
for each row when (current_user = 'flows') execute function flows.check_link();
grant execute on function flows.check_link() to flows;

create view flows.ever_service_head_meter as
select l.service_head, l.meter, l.esco, l.start_time, null::timestamptz as end_time from flows.service_head_meter as l
union all
select f.service_head, f.meter, f.esco, f.start_time, f.end_time from flows.former_service_head_meter as f;
comment on view flows.ever_service_head_meter
is 'Links of meters to the service heads that supply them, and that did before.';
comment on column flows.ever_service_head_meter.service_head is 'The service head.';
comment on column flows.ever_service_head_meter.meter is 'The meter.';
comment on column flows.ever_service_head_meter.esco is 'ESCO of both.';
comment on column flows.ever_service_head_meter.start_time is 'Start of the link, UTC; empty for all time.';
comment on column flows.ever_service_head_meter.end_time is 'End of the link, UTC; empty while it lasts.';
create view flows.ever_properties_service_head as
select l.property, l.service_head, l.esco, l.start_time, null::timestamptz as end_time
from flows.properties_service_head as l
union all
select f.property, f.service_head, f.esco, f.start_time, f.end_time from flows.former_properties_service_head as f;
comment on view flows.ever_properties_service_head
is 'Links of service heads to the properties that they supply, and that they did before.';
comment on column flows.ever_properties_service_head.property is 'The property.';
comment on column flows.ever_properties_service_head.service_head is 'The service head.';
comment on column flows.ever_properties_service_head.esco is 'ESCO of both.';
comment on column flows.ever_properties_service_head.start_time is 'Start of the link, UTC; empty for all time.';
comment on column flows.ever_properties_service_head.end_time is 'End of the link, UTC; empty while it lasts.';

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
    -- All links go along with the history, the one of today as one that ends and begins.
    update flows.former_service_head_meter as l set meter = former where l.meter = old.id;
    update flows.service_head_meter as l set meter = former where l.meter = old.id;
    update flows.former_service_head_meter as l set meter = former where l.meter = old.id;
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
