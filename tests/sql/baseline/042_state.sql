-- migrate:up
set local role flows_owner;

create table flows.meter_shadows (
    id uuid primary key references flows.meter_registry on delete cascade,
    balance numeric,
    emergency_credit numeric,
    balance_updated_at timestamptz,
    csq smallint check (csq between 0 and 31),
    voltage numeric,
    "3p_voltage_l1" numeric,
    "3p_voltage_l2" numeric,
    "3p_voltage_l3" numeric,
    import_a numeric check (import_a >= 0),
    import_b numeric check (import_b >= 0),
    export_a numeric check (export_a >= 0),
    export_b numeric check (export_b >= 0),
    health text check (health in ('healthy', 'unhealthy')),
    health_details jsonb,
    last_healthy_at timestamptz,
    clock_time_diff_seconds numeric,
    clock_time_diff_synced_at timestamptz,
    emnify_connectivity_status text
    check (emnify_connectivity_status in ('online', 'offline', 'attached', 'blocked')),
    tariffs_active jsonb,
    tariffs_future jsonb,
    backlight text,
    load_switch text,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);
create index on flows.meter_shadows (balance);
create index on flows.meter_shadows (last_healthy_at);
comment on table flows.meter_shadows is 'The state each meter was last seen in.';
comment on column flows.meter_shadows.id is 'The meter.';
comment on column flows.meter_shadows.balance is 'Prepayment credit left, pounds.';
comment on column flows.meter_shadows.emergency_credit is 'Emergency credit, pounds.';
comment on column flows.meter_shadows.balance_updated_at is 'When the balance was last read.';
comment on column flows.meter_shadows.csq is 'Quality of the mobile signal, 0 (none) to 31 (best).';
comment on column flows.meter_shadows.voltage is 'Voltage, V.';
comment on column flows.meter_shadows."3p_voltage_l1" is 'Voltage of phase L1, V.';
comment on column flows.meter_shadows."3p_voltage_l2" is 'Voltage of phase L2, V.';
comment on column flows.meter_shadows."3p_voltage_l3" is 'Voltage of phase L3, V.';
comment on column flows.meter_shadows.import_a is 'Import counter of element A (or SINGLE), kWh.';
comment on column flows.meter_shadows.import_b is 'Import counter of element B, kWh.';
comment on column flows.meter_shadows.export_a is 'Export counter of element A (or SINGLE), kWh.';
comment on column flows.meter_shadows.export_b is 'Export counter of element B, kWh.';
comment on column flows.meter_shadows.health is 'healthy or unhealthy.';
comment on column flows.meter_shadows.health_details is 'What the last health check found.';
comment on column flows.meter_shadows.last_healthy_at is 'When the meter was last healthy.';
comment on column flows.meter_shadows.clock_time_diff_seconds is 'How far the meter''s clock is off, s.';
comment on column flows.meter_shadows.clock_time_diff_synced_at is 'When the clock was last compared.';
comment on column flows.meter_shadows.emnify_connectivity_status is 'online, offline, attached or blocked.';
comment on column flows.meter_shadows.tariffs_active
is 'Tariff in force: standing_charge (pounds a day), unit_rate_element_a and _b (pounds per kWh), prepayment terms.';
comment on column flows.meter_shadows.tariffs_future
is 'Tariff to come: as tariffs_active, with activation_datetime.';
comment on column flows.meter_shadows.backlight is 'State of the display''s backlight.';
comment on column flows.meter_shadows.load_switch is 'State of the switch that connects the supply.';

create function flows.create_shadow() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
    insert into flows.meter_shadows (id) values (new.id) on conflict do nothing;
    return null;
end $$;
comment on function flows.create_shadow() is 'A new meter gets its shadow.';
create trigger a_meter_has_a_shadow after insert on flows.meter_registry
for each row execute function flows.create_shadow();

-- The shadow a meter got by itself gives way to one that is inserted with values, so that the rows of
-- an existing deployment load as they are. One that was ever changed stays: inserting it is a conflict.
create function flows.give_way_to_a_loaded_shadow() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
    delete from flows.meter_shadows as empty
    where empty.id = new.id
        and jsonb_strip_nulls(to_jsonb(empty)) - array['id', 'created_at', 'updated_at'] = '{}';
    return new;
end $$;
comment on function flows.give_way_to_a_loaded_shadow() is 'An empty shadow gives way to an inserted one.';
create trigger a_loaded_shadow_replaces_an_empty_one before insert on flows.meter_shadows
for each row when (pg_trigger_depth() = 0) execute function flows.give_way_to_a_loaded_shadow();

create function flows.touch() returns trigger
language plpgsql set search_path = ''
as $$
begin
    new.updated_at := now();
    return new;
end $$;
comment on function flows.touch() is 'Moves updated_at with each statement.';
do $$
declare
    touched text;
begin
    foreach touched in array array[
        'meter_registry', 'meter_tophat_registry', 'ev_chargers', 'circuit_register', 'meter_shadows'
    ]
    loop
        execute format(
            'create trigger updated_at_moves before update on flows.%I '
            'for each row execute function flows.touch()', touched
        );
    end loop;
end $$;

create function flows.note_recovery() returns trigger
language plpgsql set search_path = ''
as $$
begin
    if new.health = 'healthy' and (tg_op = 'UPDATE' or new.last_healthy_at is null) then
        new.last_healthy_at := now();
    end if;
    return new;
end $$;
comment on function flows.note_recovery() is 'A meter that is healthy was last healthy now.';
create trigger health_sets_last_healthy_at before insert or update of health on flows.meter_shadows
for each row execute function flows.note_recovery();

-- A shadow's counters and measurements become rows of their series. The writer has passed the
-- shadow's own policy; the series know only that meter's registers.
create function flows.append_from_shadow() returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
    counter record;
    register uuid;
begin
    for counter in
        select * from (values
            ('import', 'A', new.import_a, old.import_a), ('import', 'B', new.import_b, old.import_b),
            ('export', 'A', new.export_a, old.export_a), ('export', 'B', new.export_b, old.export_b)
        ) as c (direction, element, read, before)
        where read is not null and read is distinct from before
    loop
        register := (
            select r.register_id from flows.meter_registers as r
            where r.meter_id = new.id and r.status = 'enabled'
            and (r.element = counter.element or (r.element = 'SINGLE' and counter.element = 'A'))
            order by r.start_time desc nulls last limit 1
        );
        if register is null then
            raise warning 'meter % has no enabled register for element %: its % read is not kept',
                new.id, counter.element, counter.direction;
        elsif counter.direction = 'import' then
            insert into flows.register_import (register_id, "timestamp", read)
            values (register, now(), counter.read)
            on conflict (register_id, "timestamp") do update set read = excluded.read;
        else
            insert into flows.register_export (register_id, "timestamp", read)
            values (register, now(), counter.read)
            on conflict (register_id, "timestamp") do update set read = excluded.read;
        end if;
    end loop;
    if new.csq is distinct from old.csq then
        insert into flows.meter_csq (meter_id, "timestamp", csq) values (new.id, now(), new.csq)
        on conflict (meter_id, "timestamp") do update set csq = excluded.csq;
    end if;
    if new.voltage is distinct from old.voltage then
        insert into flows.meter_voltage (meter_id, "timestamp", voltage) values (new.id, now(), new.voltage)
        on conflict (meter_id, "timestamp") do update set voltage = excluded.voltage;
    end if;
    if (new."3p_voltage_l1", new."3p_voltage_l2", new."3p_voltage_l3")
        is distinct from (old."3p_voltage_l1", old."3p_voltage_l2", old."3p_voltage_l3") then
        insert into flows.meter_3p_voltage (meter_id, "timestamp", voltage_l1, voltage_l2, voltage_l3)
        values (new.id, now(), new."3p_voltage_l1", new."3p_voltage_l2", new."3p_voltage_l3")
        on conflict (meter_id, "timestamp") do update set
            voltage_l1 = excluded.voltage_l1, voltage_l2 = excluded.voltage_l2, voltage_l3 = excluded.voltage_l3;
    end if;
    if new.health is distinct from old.health then
        insert into flows.meter_health_history (meter_id, "timestamp", health, reason)
        values (new.id, now(), new.health, new.health_details #>> '{reason}')
        on conflict (meter_id, "timestamp") do update set health = excluded.health, reason = excluded.reason;
    end if;
    if new.balance is distinct from old.balance then
        insert into flows.meter_prepay_balance (meter_id, "timestamp", balance, emergency_credit)
        values (new.id, now(), new.balance, new.emergency_credit)
        on conflict (meter_id, "timestamp") do update set
            balance = excluded.balance, emergency_credit = excluded.emergency_credit;
    end if;
    return null;
end $$;
comment on function flows.append_from_shadow() is 'Changes of a shadow become rows of the time series.';
create trigger a_change_is_kept after update on flows.meter_shadows
for each row execute function flows.append_from_shadow();
-- A caller's upsert is a change too; rows that an administrator loads are not.
create trigger a_callers_shadow_is_kept after insert on flows.meter_shadows
for each row when (current_user = 'flows') execute function flows.append_from_shadow();

reset role;

-- migrate:down
