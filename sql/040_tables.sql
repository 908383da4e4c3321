-- migrate:up
set local role flows_owner;

create table flows.regions (
    code text primary key,
    name text not null,
    created_at timestamptz not null default now()
);

create table flows.escos (
    id uuid primary key default gen_random_uuid(),
    code text not null unique,
    name text not null,
    app_url text,
    region text references flows.regions,
    created_at timestamptz not null default now()
);

create table flows.sites_new (
    id uuid primary key default gen_random_uuid(),
    esco uuid not null references flows.escos,
    name text not null,
    code text unique,
    location text,
    capacity_kw numeric check (capacity_kw >= 0),
    created_at timestamptz not null default now()
);
create index on flows.sites_new (esco);

create table flows.properties (
    id uuid primary key default gen_random_uuid(),
    plot text not null,
    site uuid references flows.sites_new,
    address text,
    type text,
    created_at timestamptz not null default now()
);
create index on flows.properties (site);

create table flows.feeder_registry (
    id uuid primary key default gen_random_uuid(),
    name text not null unique,
    esco uuid not null references flows.escos,
    substation text,
    rating_amps numeric check (rating_amps > 0),
    created_at timestamptz not null default now()
);
create index on flows.feeder_registry (esco);

create table flows.service_head_registry (
    id uuid primary key default gen_random_uuid(),
    name text not null unique,
    feeder uuid references flows.feeder_registry,
    phase smallint check (phase between 1 and 3),
    fuse_rating smallint check (fuse_rating > 0),
    type text check (type in ('customer_owned', 'network_owned')),
    created_at timestamptz not null default now()
);
create index on flows.service_head_registry (feeder);

create table flows.meter_registry (
    id uuid primary key default gen_random_uuid(),
    serial text not null unique,
    name text not null,
    esco uuid references flows.escos,
    site uuid,
    mode text not null default 'active' check (mode in ('active', 'passive')),
    hardware text,
    firmware_version text,
    ip_address inet unique,
    emnify_id integer unique,
    iccid text unique,
    installation_status text check (installation_status in ('enabled', 'disabled', 'deleted')),
    commissioned_iso_week_date text,
    prepay_enabled boolean,
    daylight_savings_correction_enabled boolean,
    single_meter_app boolean not null default false,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);
create index on flows.meter_registry (esco);

create table flows.meter_shadows (
    id uuid primary key references flows.meter_registry on delete cascade,
    balance numeric,
    emergency_credit numeric,
    balance_updated_at timestamptz,
    csq smallint,
    voltage numeric,
    "3p_voltage_l1" numeric,
    "3p_voltage_l2" numeric,
    "3p_voltage_l3" numeric,
    import_a numeric,
    import_b numeric,
    export_a numeric,
    export_b numeric,
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

create table flows.meter_registers (
    register_id uuid primary key default gen_random_uuid(),
    meter_id uuid not null references flows.meter_registry,
    element text check (element in ('A', 'B', 'SINGLE')),
    status text not null default 'enabled' check (status in ('enabled', 'replaced')),
    nature text check (nature in ('heat', 'power', 'solar')),
    direction_reversed boolean not null default false,
    start_time timestamptz,
    end_time timestamptz,
    notes text,
    created_at timestamptz not null default now()
);
create index on flows.meter_registers (meter_id);

create table flows.circuits (
    id uuid primary key default gen_random_uuid(),
    type text not null check (type in ('power', 'heat', 'solar')),
    name text,
    site uuid references flows.sites_new,
    rating_amps numeric check (rating_amps > 0),
    created_at timestamptz not null default now()
);
create index on flows.circuits (site);

create table flows.service_head_meter (
    service_head uuid not null references flows.service_head_registry,
    meter uuid not null references flows.meter_registry,
    created_at timestamptz not null default now(),
    primary key (service_head, meter)
);
create index on flows.service_head_meter (meter);

create table flows.properties_service_head (
    property uuid not null references flows.properties,
    service_head uuid not null references flows.service_head_registry,
    created_at timestamptz not null default now(),
    primary key (property, service_head)
);
create index on flows.properties_service_head (service_head);

create table flows.circuit_register (
    circuit uuid not null references flows.circuits,
    register uuid not null references flows.meter_registers,
    start_time timestamptz not null,
    end_time timestamptz check (end_time > start_time),
    notes text,
    created_at timestamptz not null default now(),
    primary key (circuit, register, start_time)
);
create index on flows.circuit_register (register, start_time);

create table flows.register_import (
    register_id uuid not null references flows.meter_registers,
    "timestamp" timestamptz not null,
    read numeric not null check (read >= 0),
    created_at timestamptz not null default now(),
    primary key (register_id, "timestamp")
);

create table flows.register_export (
    register_id uuid not null references flows.meter_registers,
    "timestamp" timestamptz not null,
    read numeric not null check (read >= 0),
    created_at timestamptz not null default now(),
    primary key (register_id, "timestamp")
);

create table flows.register_interval_hh (
    register_id uuid not null references flows.meter_registers,
    "timestamp" timestamptz not null
    check (extract(epoch from "timestamp") % 1800 = 0),
    import_kwh numeric check (import_kwh >= 0 and import_kwh < 'infinity'),
    export_kwh numeric check (export_kwh >= 0 and export_kwh < 'infinity'),
    created_at timestamptz not null default now(),
    primary key (register_id, "timestamp")
);

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

create function flows.touch() returns trigger
language plpgsql set search_path = ''
as $$
begin
    new.updated_at := now();
    return new;
end $$;
comment on function flows.touch() is 'Moves updated_at with each statement.';
create trigger updated_at_moves before update on flows.meter_registry
for each row execute function flows.touch();
create trigger updated_at_moves before update on flows.meter_shadows
for each row execute function flows.touch();

reset role;

-- migrate:down
