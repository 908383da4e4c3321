-- migrate:up
set local role flows_owner;

-- A check that a caller can break says in its name what to write instead: that is what the answer shows.
-- NaN is greater than infinity.
create table flows.register_import (
    register_id uuid not null references flows.meter_registers,
    "timestamp" timestamptz not null,
    read numeric not null check (read >= 0 and read < 'infinity'),
    created_at timestamptz not null default now(),
    primary key (register_id, "timestamp"),
    constraint the_time_is_between_2000_and_2100
    check ("timestamp" >= '2000-01-01 00:00Z' and "timestamp" < '2100-01-01 00:00Z')
);
comment on table flows.register_import is 'Readings of a register''s import counter.';
comment on column flows.register_import.register_id is 'Register that was read.';
comment on column flows.register_import."timestamp" is 'When it was read, UTC.';
comment on column flows.register_import.read is 'Energy imported since the register began to count, kWh.';

create table flows.register_export (
    register_id uuid not null references flows.meter_registers,
    "timestamp" timestamptz not null,
    read numeric not null check (read >= 0 and read < 'infinity'),
    created_at timestamptz not null default now(),
    primary key (register_id, "timestamp"),
    constraint the_time_is_between_2000_and_2100
    check ("timestamp" >= '2000-01-01 00:00Z' and "timestamp" < '2100-01-01 00:00Z')
);
comment on table flows.register_export is 'Readings of a register''s export counter.';
comment on column flows.register_export.register_id is 'Register that was read.';
comment on column flows.register_export."timestamp" is 'When it was read, UTC.';
comment on column flows.register_export.read is 'Energy exported since the register began to count, kWh.';

create table flows.register_interval_hh (
    register_id uuid not null references flows.meter_registers,
    "timestamp" timestamptz not null
    constraint a_half_hour_starts_on_00_or_30 check (extract(epoch from "timestamp") % 1800 = 0),
    import_kwh numeric check (import_kwh >= 0 and import_kwh < 'infinity'),
    export_kwh numeric check (export_kwh >= 0 and export_kwh < 'infinity'),
    derived boolean not null default false,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (register_id, "timestamp"),
    constraint the_time_is_between_2000_and_2100
    check ("timestamp" >= '2000-01-01 00:00Z' and "timestamp" < '2100-01-01 00:00Z')
);
comment on table flows.register_interval_hh is 'Energy of each half-hour, by register.';
comment on column flows.register_interval_hh.register_id is 'Register that metered it.';
comment on column flows.register_interval_hh."timestamp" is 'Start of the half-hour, UTC, on :00 or :30.';
comment on column flows.register_interval_hh.import_kwh
is 'Energy imported in the half-hour, kWh; empty where unknown.';
comment on column flows.register_interval_hh.export_kwh
is 'Energy exported in the half-hour, kWh; empty where unknown.';
comment on column flows.register_interval_hh.derived
is 'Whether it was calculated from counter readings; a measured half-hour takes its place.';

create table flows.meter_voltage (
    meter_id uuid not null references flows.meter_registry,
    "timestamp" timestamptz not null,
    voltage numeric check (voltage < 'infinity'),
    created_at timestamptz not null default now(),
    primary key (meter_id, "timestamp"),
    constraint the_time_is_between_2000_and_2100
    check ("timestamp" >= '2000-01-01 00:00Z' and "timestamp" < '2100-01-01 00:00Z')
);
comment on table flows.meter_voltage is 'Voltage at single-phase meters.';
comment on column flows.meter_voltage.voltage is 'Voltage, V.';

create table flows.meter_3p_voltage (
    meter_id uuid not null references flows.meter_registry,
    "timestamp" timestamptz not null,
    voltage_l1 numeric check (voltage_l1 < 'infinity'),
    voltage_l2 numeric check (voltage_l2 < 'infinity'),
    voltage_l3 numeric check (voltage_l3 < 'infinity'),
    created_at timestamptz not null default now(),
    primary key (meter_id, "timestamp"),
    constraint the_time_is_between_2000_and_2100
    check ("timestamp" >= '2000-01-01 00:00Z' and "timestamp" < '2100-01-01 00:00Z')
);
comment on table flows.meter_3p_voltage is 'Voltages at three-phase meters.';
comment on column flows.meter_3p_voltage.voltage_l1 is 'Voltage of phase L1, V.';
comment on column flows.meter_3p_voltage.voltage_l2 is 'Voltage of phase L2, V.';
comment on column flows.meter_3p_voltage.voltage_l3 is 'Voltage of phase L3, V.';

create table flows.meter_csq (
    meter_id uuid not null references flows.meter_registry,
    "timestamp" timestamptz not null,
    csq smallint check (csq between 0 and 31),
    created_at timestamptz not null default now(),
    primary key (meter_id, "timestamp"),
    constraint the_time_is_between_2000_and_2100
    check ("timestamp" >= '2000-01-01 00:00Z' and "timestamp" < '2100-01-01 00:00Z')
);
comment on table flows.meter_csq is 'Quality of the mobile signal at meters.';
comment on column flows.meter_csq.csq is 'Signal quality, 0 (none) to 31 (best).';

create table flows.meter_health_history (
    meter_id uuid not null references flows.meter_registry,
    "timestamp" timestamptz not null,
    health text check (health in ('healthy', 'unhealthy')),
    reason text,
    created_at timestamptz not null default now(),
    primary key (meter_id, "timestamp"),
    constraint the_time_is_between_2000_and_2100
    check ("timestamp" >= '2000-01-01 00:00Z' and "timestamp" < '2100-01-01 00:00Z')
);
comment on table flows.meter_health_history is 'When meters became healthy or unhealthy.';
comment on column flows.meter_health_history.health is 'healthy or unhealthy.';
comment on column flows.meter_health_history.reason is 'Why.';

create table flows.meter_prepay_balance (
    meter_id uuid not null references flows.meter_registry,
    "timestamp" timestamptz not null,
    balance numeric check (balance < 'infinity'),
    emergency_credit numeric check (emergency_credit < 'infinity'),
    created_at timestamptz not null default now(),
    primary key (meter_id, "timestamp"),
    constraint the_time_is_between_2000_and_2100
    check ("timestamp" >= '2000-01-01 00:00Z' and "timestamp" < '2100-01-01 00:00Z')
);
comment on table flows.meter_prepay_balance is 'Prepayment balance of meters over time.';
comment on column flows.meter_prepay_balance.balance
is 'Credit left, pounds; negative when emergency credit is in use.';
comment on column flows.meter_prepay_balance.emergency_credit is 'Emergency credit, pounds.';

create table flows.meter_event_log (
    meter_id uuid not null references flows.meter_registry,
    "timestamp" timestamptz not null,
    event_type integer not null,
    event_set integer,
    created_at timestamptz not null default now(),
    primary key (meter_id, "timestamp", event_type),
    constraint the_time_is_between_2000_and_2100
    check ("timestamp" >= '2000-01-01 00:00Z' and "timestamp" < '2100-01-01 00:00Z')
);
comment on table flows.meter_event_log is 'Events that meters logged.';
comment on column flows.meter_event_log.event_type is 'Kind of the event, as meter_event_log_type numbers it.';
comment on column flows.meter_event_log.event_set is 'Set the event belongs to.';

do $$
declare
    series text;
begin
    foreach series in array array[
        'meter_voltage', 'meter_3p_voltage', 'meter_csq', 'meter_health_history', 'meter_prepay_balance',
        'meter_event_log'
    ]
    loop
        execute format('comment on column flows.%I.meter_id is %L', series, 'Meter it was measured at.');
        execute format('comment on column flows.%I."timestamp" is %L', series, 'When, UTC.');
    end loop;
end $$;

reset role;

-- migrate:down
