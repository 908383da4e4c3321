-- The aggregates: tables that each write brings up to date (sql/objects/postgres/070_aggregates.sql).
set local role flows_owner;

create table flows.circuit_interval_hh (
    circuit_id uuid not null,
    "timestamp" timestamptz not null,
    total_import_kwh numeric,
    total_export_kwh numeric,
    register_intervals bigint,
    meters uuid[],
    updated_at timestamptz,
    primary key (circuit_id, "timestamp")
);
create table flows.circuit_interval_daily (
    circuit_id uuid not null,
    day timestamptz not null,
    total_import_kwh numeric,
    total_export_kwh numeric,
    register_intervals numeric,
    present_intervals bigint,
    meters uuid[],
    updated_at timestamptz,
    primary key (circuit_id, day)
);
create table flows.circuit_interval_daily_london (like flows.circuit_interval_daily including all);
create table flows.circuit_interval_monthly (like flows.circuit_interval_daily including all);
alter table flows.circuit_interval_monthly rename column day to month;
alter table flows.circuit_interval_monthly alter column present_intervals type numeric;

create type flows.circuit_half_hour as (circuit_id uuid, "timestamp" timestamptz);

reset role;
