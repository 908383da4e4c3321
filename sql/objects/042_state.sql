set local role flows_owner;
comment on table flows.meter_shadows is 'The last known state of each meter.';
comment on column flows.meter_shadows.id is 'The meter.';
comment on column flows.meter_shadows.balance is 'Prepayment credit left, pounds.';
comment on column flows.meter_shadows.emergency_credit is 'Emergency credit, pounds.';
comment on column flows.meter_shadows.balance_updated_at is 'Time at which the balance was last read.';
comment on column flows.meter_shadows.csq is 'Quality of the mobile signal, 0 (none) to 31 (best).';
comment on column flows.meter_shadows.voltage is 'Voltage, V.';
comment on column flows.meter_shadows."3p_voltage_l1" is 'Voltage of phase L1, V.';
comment on column flows.meter_shadows."3p_voltage_l2" is 'Voltage of phase L2, V.';
comment on column flows.meter_shadows."3p_voltage_l3" is 'Voltage of phase L3, V.';
comment on column flows.meter_shadows.import_a is 'Import counter of element A (or SINGLE), kWh.';
comment on column flows.meter_shadows.import_b is 'Import counter of element B, kWh.';
comment on column flows.meter_shadows.export_a is 'Export counter of element A (or SINGLE), kWh.';
comment on column flows.meter_shadows.export_b is 'Export counter of element B, kWh.';
comment on column flows.meter_shadows.health is 'Health of the meter: healthy or unhealthy.';
comment on column flows.meter_shadows.health_details is 'Findings of the last health check.';
comment on column flows.meter_shadows.last_healthy_at is 'Time at which the meter was last healthy.';
comment on column flows.meter_shadows.clock_time_diff_seconds
is 'Difference of the meter''s clock from the true time, s.';
comment on column flows.meter_shadows.clock_time_diff_synced_at is 'Time at which the clock was last compared.';
comment on column flows.meter_shadows.emnify_connectivity_status
is 'Connectivity of the SIM: online, offline, attached or blocked.';
comment on column flows.meter_shadows.tariffs_active
is 'Tariff in force: standing_charge (pounds a day), unit_rate_element_a and _b (pounds per kWh), prepayment terms.';
comment on column flows.meter_shadows.tariffs_future
is 'Future tariff: as tariffs_active, with activation_datetime.';
comment on column flows.meter_shadows.backlight is 'State of the display''s backlight.';
comment on column flows.meter_shadows.load_switch is 'State of the switch that connects the supply.';

create or replace function flows.create_shadow() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
    insert into flows.meter_shadows (id) values (new.id) on conflict do nothing;
    return null;
end $$;
comment on function flows.create_shadow() is 'Creates the shadow of a new meter.';
create trigger a_meter_has_a_shadow after insert on flows.meter_registry
for each row execute function flows.create_shadow();

-- The shadow created with a meter is replaced by one inserted with values, so that the rows of an
-- existing deployment can be loaded as they are. A shadow that was ever changed stays: inserting it
-- again is a conflict.
create or replace function flows.give_way_to_a_loaded_shadow() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
    delete from flows.meter_shadows as empty
    where empty.id = new.id
        and jsonb_strip_nulls(to_jsonb(empty)) - array['id', 'esco', 'created_at', 'updated_at'] = '{}';
    return new;
end $$;
comment on function flows.give_way_to_a_loaded_shadow() is 'Removes an unchanged shadow in favour of the inserted one.';
create trigger a_loaded_shadow_replaces_an_empty_one before insert on flows.meter_shadows
for each row when (pg_trigger_depth() = 0) execute function flows.give_way_to_a_loaded_shadow();

create or replace function flows.touch() returns trigger
language plpgsql set search_path = ''
as $$
begin
    new.updated_at := now();
    return new;
end $$;
comment on function flows.touch() is 'Sets updated_at to the time of the statement.';
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

create or replace function flows.note_recovery() returns trigger
language plpgsql set search_path = ''
as $$
begin
    if new.health = 'healthy' and (tg_op = 'UPDATE' or new.last_healthy_at is null) then
        new.last_healthy_at := now();
    end if;
    return new;
end $$;
comment on function flows.note_recovery() is 'Sets last_healthy_at when a meter is healthy.';
create trigger health_sets_last_healthy_at before insert or update of health on flows.meter_shadows
for each row execute function flows.note_recovery();

-- The counters and measurements written to a shadow are appended to their series. The policy of the
-- shadow has already admitted the writer, and only registers of the same meter are written to.
create or replace function flows.append_from_shadow() returns trigger
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
comment on function flows.append_from_shadow() is 'Appends the changes of a shadow to the time series.';
create trigger a_change_is_kept after update on flows.meter_shadows
for each row execute function flows.append_from_shadow();
-- An upsert by a caller counts as a change, rows loaded by an administrator do not.
create trigger a_callers_shadow_is_kept after insert on flows.meter_shadows
for each row when (current_user = 'flows') execute function flows.append_from_shadow();

reset role;
