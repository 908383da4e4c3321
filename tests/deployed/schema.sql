-- A Flows database as deployments have it: their columns, types and keys.
create schema flows;
create type flows.circuit_type_enum as enum ('power', 'heat', 'solar');
create type flows.emnify_device_connectivity_status_enum as enum ('online', 'offline', 'attached', 'blocked');
create type flows.emnify_device_installation_status_enum as enum ('enabled', 'disabled', 'deleted');
create type flows.health_check_status as enum ('healthy', 'unhealthy', 'unknown');
create type flows.meter_metric_run_frequency_enum as enum ('hourly', '12hourly', 'daily');
create type flows.meter_mode_enum as enum ('active', 'passive');
create type flows.meter_register_element as enum ('A', 'B', 'SINGLE');
create type flows.meter_register_status_enum as enum ('enabled', 'replaced');
create type flows.register_nature_enum as enum ('heat', 'power', 'solar');

create table flows.regions (code text primary key, name text not null, created_at timestamptz not null default now());
create table flows.escos (
    id uuid primary key default gen_random_uuid(), created_at timestamptz not null default now(),
    name text, code text unique, app_url text, region text references flows.regions
);
alter table flows.escos enable row level security;
create table flows.sites_new (
    id uuid primary key default gen_random_uuid(), created_at timestamptz not null default now(),
    name text not null, code text unique, esco uuid not null references flows.escos
);
create table flows.properties (
    id uuid primary key default gen_random_uuid(), plot text, created_at timestamptz default now()
);
create table flows.feeder_registry (
    id uuid primary key default gen_random_uuid(), created_at timestamptz not null default now(),
    name text not null unique, esco uuid not null references flows.escos
);
create table flows.service_head_registry (
    id uuid primary key default gen_random_uuid(), created_at timestamptz not null default now(),
    name text not null unique, feeder uuid references flows.feeder_registry, phase smallint, fuse_rating smallint,
    type text
);
create table flows.meter_registry (
    id uuid primary key default gen_random_uuid(), created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(), serial text unique, name text,
    mode flows.meter_mode_enum default 'active', emnify_id integer unique, ip_address inet unique, iccid text unique,
    installation_status flows.emnify_device_installation_status_enum, hardware text, firmware_version text,
    site uuid, esco uuid references flows.escos, commissioned_iso_week_date text, prepay_enabled boolean,
    daylight_savings_correction_enabled boolean, single_meter_app boolean default false
);
create table flows.meter_registers (
    register_id uuid primary key, created_at timestamptz not null default now(),
    meter_id uuid not null references flows.meter_registry, nature flows.register_nature_enum,
    status flows.meter_register_status_enum, element flows.meter_register_element,
    start_time timestamptz, end_time timestamptz, notes text
);
create table flows.meter_tophat_registry (
    id uuid primary key default gen_random_uuid(), meter uuid not null references flows.meter_registry,
    emnify_id integer unique, ip_address inet unique, iccid text unique,
    created_at timestamptz not null default now(), updated_at timestamptz not null default now()
);
create table flows.circuits (
    id uuid primary key default gen_random_uuid(), type flows.circuit_type_enum not null, name text,
    created_at timestamptz default now()
);
create table flows.meter_metrics (
    id uuid primary key default gen_random_uuid(), name text not null, notes text, enabled boolean not null,
    run_frequency flows.meter_metric_run_frequency_enum not null, created_at timestamptz not null default now()
);
create table flows.meter_event_log_type (
    id integer primary key, name text not null unique, created_at timestamptz not null default now()
);
create table flows.ev_chargers (
    id uuid primary key default gen_random_uuid(), esco uuid not null references flows.escos, serial text not null,
    pin text not null, position text, created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);
create table flows.meter_shadows (
    id uuid primary key references flows.meter_registry, created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(), balance numeric, emergency_credit numeric,
    balance_updated_at timestamptz, csq integer, voltage numeric, "3p_voltage_l1" numeric, "3p_voltage_l2" numeric,
    "3p_voltage_l3" numeric, import_a float4, import_b float4, export_a float4, export_b float4,
    health flows.health_check_status, health_details text, last_healthy_at timestamptz,
    clock_time_diff_seconds integer, clock_time_diff_synced_at timestamptz,
    emnify_connectivity_status flows.emnify_device_connectivity_status_enum, tariffs_active jsonb,
    tariffs_future jsonb, backlight text, load_switch text
);
create table flows.service_head_meter (
    service_head uuid not null references flows.service_head_registry,
    meter uuid not null references flows.meter_registry,
    created_at timestamptz not null default now(), primary key (service_head, meter)
);
create table flows.properties_service_head (
    property uuid not null references flows.properties,
    service_head uuid not null references flows.service_head_registry,
    created_at timestamptz not null default now(), primary key (property, service_head)
);
create table flows.circuit_register (
    circuit uuid not null references flows.circuits, register uuid not null references flows.meter_registers,
    start_time timestamptz not null, end_time timestamptz, notes text,
    created_at timestamptz not null default now(), primary key (circuit, register, start_time)
);

create table flows.register_interval_hh (
    register_id uuid not null references flows.meter_registers, "timestamp" timestamptz not null,
    kwh numeric not null, unique (register_id, "timestamp")
);
create table flows.register_import (
    register_id uuid not null references flows.meter_registers, "timestamp" timestamptz not null, read float4,
    unique (register_id, "timestamp")
);
create table flows.register_export (
    register_id uuid not null references flows.meter_registers, "timestamp" timestamptz not null, read float4,
    unique (register_id, "timestamp")
);
create table flows.meter_csq (
    meter_id uuid not null references flows.meter_registry, "timestamp" timestamptz not null, csq integer,
    unique (meter_id, "timestamp")
);
create table flows.meter_voltage (
    meter_id uuid not null references flows.meter_registry, "timestamp" timestamptz not null, voltage real
);
create table flows.meter_3p_voltage (
    meter_id uuid not null references flows.meter_registry, "timestamp" timestamptz not null,
    voltage_l1 real, voltage_l2 real, voltage_l3 real
);
create table flows.meter_health_history (
    meter_id uuid not null references flows.meter_registry, "timestamp" timestamptz not null,
    health flows.health_check_status
);
create table flows.meter_prepay_balance (
    meter_id uuid not null references flows.meter_registry, "timestamp" timestamptz not null, balance numeric,
    unique (meter_id, "timestamp")
);
create table flows.meter_event_log (
    meter_id uuid not null references flows.meter_registry, "timestamp" timestamptz not null,
    event_type integer not null, event_set integer, primary key (meter_id, "timestamp", event_type)
);
create materialized view flows.register_interval_hh_missing as
select
    register_id, "timestamp"::date as "date", 48 as expected_count, count(*) as actual_count,
    48 - count(*) as missing_count
from flows.register_interval_hh group by 1, 2 having count(*) < 48;
