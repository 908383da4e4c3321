set local role flows_owner;
comment on table flows.meter_shadows is 'The last known state of each meter.';
comment on column flows.meter_shadows.id is 'The meter.';
comment on column flows.meter_shadows.balance is 'Prepayment credit left, pounds.';
comment on column flows.meter_shadows.emergency_credit is 'Emergency credit, pounds.';
comment on column flows.meter_shadows.balance_updated_at is 'Time at which the balance was last read.';
comment on column flows.meter_shadows.csq
is 'Quality of the mobile signal, 0 (none) to 31 (best); 99 or less than 0 if unknown.';
comment on column flows.meter_shadows.voltage is 'Voltage, V.';
comment on column flows.meter_shadows."3p_voltage_l1" is 'Voltage of phase L1, V.';
comment on column flows.meter_shadows."3p_voltage_l2" is 'Voltage of phase L2, V.';
comment on column flows.meter_shadows."3p_voltage_l3" is 'Voltage of phase L3, V.';
comment on column flows.meter_shadows.import_a is 'Import counter of element A (or SINGLE), kWh.';
comment on column flows.meter_shadows.import_b is 'Import counter of element B, kWh.';
comment on column flows.meter_shadows.export_a is 'Export counter of element A (or SINGLE), kWh.';
comment on column flows.meter_shadows.export_b is 'Export counter of element B, kWh.';
comment on column flows.meter_shadows.health is 'Health of the meter: healthy or unhealthy.';
comment on column flows.meter_shadows.health_details is 'Findings of the last health check: words, or JSON.';
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

-- Where flows.copying is on, rows come from another database, times and series with them: see `flows db copy`.
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
        'meter_registry', 'meter_tophat_registry', 'ev_chargers', 'circuit_register'
    ]
    loop
        execute format(
            'create trigger updated_at_moves before update on flows.%I for each row '
            'when (current_setting(''flows.copying'', true) is distinct from ''on'') '
            'execute function flows.touch()', touched
        );
    end loop;
end $$;

-- It moves with each statement, also within a transaction: it is the time of the rows that the update appends.
create or replace function flows.touch_shadow() returns trigger
language plpgsql set search_path = ''
as $$
begin
    new.updated_at := case
        when old.updated_at >= now() and old.updated_at <= clock_timestamp()
            then old.updated_at + interval '1 microsecond'
        else now()
    end;
    return new;
end $$;
comment on function flows.touch_shadow() is 'Sets updated_at of a shadow to the time of the statement.';
create trigger updated_at_moves before update on flows.meter_shadows
for each row when (current_setting('flows.copying', true) is distinct from 'on')
execute function flows.touch_shadow();

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
for each row when (current_setting('flows.copying', true) is distinct from 'on')
execute function flows.note_recovery();

-- Values written to a shadow are appended to their series whenever the column is named, changed or not: the same
-- counter read again says that nothing was used, and nothing at all would say that nothing is known. The policy of
-- the shadow has already admitted the writer, and only registers of the same meter are written to.
create or replace function flows.append_read() returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
    direction constant text := tg_argv[0];
    letter constant text := tg_argv[1];
    counted constant numeric := case direction || letter
        when 'importA' then new.import_a when 'importB' then new.import_b
        when 'exportA' then new.export_a else new.export_b
    end;
    register constant uuid := (
        select r.register_id from flows.meter_registers as r
        where r.meter_id = new.id and r.status = 'enabled'
            and (r.element = letter or (r.element = 'SINGLE' and letter = 'A'))
        order by r.start_time desc nulls last limit 1
    );
begin
    if register is null then
        if counted is not null then
            raise warning 'meter % has no enabled register for element %: its % read is not kept',
                new.id, letter, direction;
        end if;
    elsif direction = 'import' then
        insert into flows.register_import (register_id, "timestamp", read)
        values (register, new.updated_at, counted)
        on conflict (register_id, "timestamp") do update set read = excluded.read;
    else
        insert into flows.register_export (register_id, "timestamp", read)
        values (register, new.updated_at, counted)
        on conflict (register_id, "timestamp") do update set read = excluded.read;
    end if;
    return null;
end $$;
comment on function flows.append_read() is 'Appends a counter of a shadow to the reads of its register.';

create or replace function flows.append_measurement() returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
    reason text;
begin
    -- On its own, as an expression that is planned with a value would try to read words as JSON.
    if new.health_details is json object then
        reason := new.health_details::jsonb ->> 'reason';
    else
        reason := nullif(new.health_details, '');
    end if;
    case tg_argv[0]
        when 'meter_csq' then
            insert into flows.meter_csq (meter_id, "timestamp", csq) values (new.id, new.updated_at, new.csq)
            on conflict (meter_id, "timestamp") do update set csq = excluded.csq;
        when 'meter_voltage' then
            insert into flows.meter_voltage (meter_id, "timestamp", voltage)
            values (new.id, new.updated_at, new.voltage)
            on conflict (meter_id, "timestamp") do update set voltage = excluded.voltage;
        when 'meter_3p_voltage' then
            insert into flows.meter_3p_voltage (meter_id, "timestamp", voltage_l1, voltage_l2, voltage_l3)
            values (new.id, new.updated_at, new."3p_voltage_l1", new."3p_voltage_l2", new."3p_voltage_l3")
            on conflict (meter_id, "timestamp") do update set
                voltage_l1 = excluded.voltage_l1, voltage_l2 = excluded.voltage_l2,
                voltage_l3 = excluded.voltage_l3;
        when 'meter_health_history' then
            insert into flows.meter_health_history (meter_id, "timestamp", health, reason)
            values (new.id, new.updated_at, new.health, reason)
            on conflict (meter_id, "timestamp") do update set health = excluded.health, reason = excluded.reason;
        when 'meter_prepay_balance' then
            insert into flows.meter_prepay_balance (meter_id, "timestamp", balance, emergency_credit)
            values (new.id, new.updated_at, new.balance, new.emergency_credit)
            on conflict (meter_id, "timestamp") do update set
                balance = excluded.balance, emergency_credit = excluded.emergency_credit;
    end case;
    return null;
end $$;
comment on function flows.append_measurement() is 'Appends a measurement of a shadow to its series.';

-- An upsert by a caller that inserts counts as an update, rows loaded by an administrator do not.
do $$
declare
    kept record;
begin
    for kept in
        select * from (values
            ('import_a', '{import_a}'::text[], 'append_read(''import'', ''A'')'),
            ('import_b', '{import_b}', 'append_read(''import'', ''B'')'),
            ('export_a', '{export_a}', 'append_read(''export'', ''A'')'),
            ('export_b', '{export_b}', 'append_read(''export'', ''B'')'),
            ('csq', '{csq}', 'append_measurement(''meter_csq'')'),
            ('voltage', '{voltage}', 'append_measurement(''meter_voltage'')'),
            ('3p_voltage', '{3p_voltage_l1, 3p_voltage_l2, 3p_voltage_l3}',
                'append_measurement(''meter_3p_voltage'')'),
            ('health', '{health}', 'append_measurement(''meter_health_history'')'),
            ('balance', '{balance}', 'append_measurement(''meter_prepay_balance'')')
        ) as k (name, columns, append)
    loop
        execute format(
            'create trigger %I after update of %s on flows.meter_shadows for each row '
            'when (current_setting(''flows.copying'', true) is distinct from ''on'') execute function flows.%s',
            kept.name || '_is_kept', (select string_agg(quote_ident(c), ', ') from unnest(kept.columns) as c),
            kept.append
        );
        execute format(
            'create trigger %I after insert on flows.meter_shadows for each row '
            'when (current_user = ''flows'' and (%s)) execute function flows.%s',
            kept.name || '_of_a_caller_is_kept',
            (select string_agg(format('new.%I is not null', c), ' or ') from unnest(kept.columns) as c), kept.append
        );
    end loop;
end $$;

reset role;
