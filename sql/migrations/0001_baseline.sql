-- The data of Flows 0.1: roles, schemas, tables, types and indexes that both engines have. What can be
-- replaced (functions, views, triggers, policies, grants, comments) is in sql/objects.

-- Roles are the cluster's, not the database's, and a managed server may have some of them already.
do $$
declare
    wanted text;
begin
    foreach wanted in array array['flows_owner', 'flows_lookup', 'tsdbadmin', 'flows', 'public_backend', 'grafanareader']
    loop
        if not exists (select from pg_catalog.pg_roles where rolname = wanted) then
            execute format('create role %I nologin', wanted);
        end if;
    end loop;
    -- The two doors log in without any right of their own: a forgotten SET ROLE fails closed.
    foreach wanted in array array['authenticator', 'flows_gateway']
    loop
        if not exists (select from pg_catalog.pg_roles where rolname = wanted) then
            execute format('create role %I login noinherit', wanted);
        end if;
    end loop;
    -- TimescaleDB runs its jobs only for owners that may log in; a connection limit of 0 keeps
    -- every client out (background workers are exempt), and there is no password.
    if exists (select from pg_catalog.pg_extension where extname = 'timescaledb') then
        alter role flows_owner login password null connection limit 0;
    end if;
end $$;

-- api is what callers see, flows is the data behind it, gateway is what the gateway itself keeps.
create schema flows authorization flows_owner;
create schema api authorization flows_owner;
create schema gateway authorization flows_owner;

-- Extensions live in public; their functions are for the owner of the aggregates, not for callers.
revoke all on schema public from public;
grant usage on schema public to flows_owner;
alter default privileges for role flows_owner revoke execute on functions from public;

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
create index on flows.meter_registry (site);

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

create table flows.meter_tophat_registry (
    id uuid primary key default gen_random_uuid(),
    meter uuid not null references flows.meter_registry,
    emnify_id integer unique,
    ip_address inet unique,
    iccid text unique,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);
create index on flows.meter_tophat_registry (meter);

create table flows.circuits (
    id uuid primary key default gen_random_uuid(),
    type text not null check (type in ('power', 'heat', 'solar')),
    name text,
    site uuid references flows.sites_new,
    rating_amps numeric check (rating_amps > 0),
    created_at timestamptz not null default now()
);
create index on flows.circuits (site);

create table flows.meter_metrics (
    id uuid primary key default gen_random_uuid(),
    name text not null,
    notes text,
    enabled boolean not null,
    run_frequency text not null check (run_frequency in ('hourly', '12hourly', 'daily')),
    created_at timestamptz not null default now()
);

create table flows.meter_event_log_type (
    id integer primary key,
    name text not null unique,
    created_at timestamptz not null default now()
);

create table flows.ev_chargers (
    id uuid primary key default gen_random_uuid(),
    esco uuid not null references flows.escos,
    serial text not null check (length(serial) = 8),
    pin text not null check (length(pin) = 4),
    position text,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);
create index on flows.ev_chargers (esco);

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
    updated_at timestamptz not null default now(),
    primary key (circuit, register, start_time)
);
create index on flows.circuit_register (register, start_time);

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

create table flows.register_export (
    register_id uuid not null references flows.meter_registers,
    "timestamp" timestamptz not null,
    read numeric not null check (read >= 0 and read < 'infinity'),
    created_at timestamptz not null default now(),
    primary key (register_id, "timestamp"),
    constraint the_time_is_between_2000_and_2100
    check ("timestamp" >= '2000-01-01 00:00Z' and "timestamp" < '2100-01-01 00:00Z')
);

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

create table flows.meter_voltage (
    meter_id uuid not null references flows.meter_registry,
    "timestamp" timestamptz not null,
    voltage numeric check (voltage < 'infinity'),
    created_at timestamptz not null default now(),
    primary key (meter_id, "timestamp"),
    constraint the_time_is_between_2000_and_2100
    check ("timestamp" >= '2000-01-01 00:00Z' and "timestamp" < '2100-01-01 00:00Z')
);

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

create table flows.meter_csq (
    meter_id uuid not null references flows.meter_registry,
    "timestamp" timestamptz not null,
    csq smallint check (csq between 0 and 31),
    created_at timestamptz not null default now(),
    primary key (meter_id, "timestamp"),
    constraint the_time_is_between_2000_and_2100
    check ("timestamp" >= '2000-01-01 00:00Z' and "timestamp" < '2100-01-01 00:00Z')
);

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

-- The key of a series is also the index its readers need, newest last or first; it carries the name
-- that deployments know.
alter index flows.register_import_pkey rename to idx_register_import_composite;
alter index flows.meter_shadows_pkey rename to idx_meter_shadows_id;

-- None on register_interval_hh: whoever asks names registers, and for the newest of one that stopped
-- reporting the planner would walk this index through everybody else's half-hours.
create index idx_register_import_time on flows.register_import ("timestamp" desc);
create index idx_register_export_time on flows.register_export ("timestamp" desc);
create index idx_meter_event_log_time on flows.meter_event_log ("timestamp" desc);

-- What changed, for whom and over which half-hours: appended, so that nobody waits for anybody. The
-- answers of /v1 are tagged by it, and on TimescaleDB the aggregates follow it.
create table flows.change (
    id bigint generated always as identity primary key,
    esco uuid,
    kind text not null check (kind in ('reading', 'mapping', 'configuration')),
    period tstzrange not null,
    registers uuid[],
    circuits uuid[],
    changes bigint not null default 1,
    changed_at timestamptz not null default clock_timestamp(),
    followed_at timestamptz
);
create index on flows.change (esco, changed_at);
create index on flows.change (id) where followed_at is null;

create type flows.register_half_hour as (register_id uuid, "timestamp" timestamptz);

-- From where to where there are half-hours of a register: kept as they come, since looking for the
-- ends of many registers in years of compressed history takes longer than most answers.
create table flows.register_extent (
    register_id uuid primary key references flows.meter_registers on delete cascade,
    available_from timestamptz not null,
    available_to timestamptz not null check (available_to > available_from)
);

create table flows.derived_register (
    register_id uuid primary key references flows.meter_registers on delete cascade
);

-- How long each series is kept: settings of the deployment, changed by UPDATE; the engine follows.
create table flows.retention (
    series text primary key,
    keep interval check (keep > interval '0'),
    columnstore_after interval check (columnstore_after > interval '0')
);

-- Clients are machines with an id and up to two secrets. One without an ESCO is the platform's: it
-- monitors (grafanareader) or administers (operator, which is no role of the database: no data).
create table gateway.client (
    id text primary key check (id ~ '^[A-Za-z0-9_.:-]{1,64}$'),
    esco uuid references flows.escos on delete cascade,
    name text not null check (length(name) between 1 and 200),
    role text not null check (role in ('flows', 'public_backend', 'grafanareader', 'operator')),
    scopes text[] not null check (scopes <@ array['read', 'write', 'admin'] and scopes <> '{}'),
    lifetime_seconds integer not null default 3600 check (lifetime_seconds > 0),
    created_at timestamptz not null default now(),
    last_used_at timestamptz,
    expires_at timestamptz,
    disabled_at timestamptz,
    check ((esco is null) = (role in ('grafanareader', 'operator')))
);
create index on gateway.client (esco);

create table gateway.client_secret (
    id uuid primary key default gen_random_uuid(),
    client text not null references gateway.client on delete cascade,
    hash text not null,
    created_at timestamptz not null default now()
);
create index on gateway.client_secret (client);

create table gateway.disabled_esco (
    esco uuid primary key references flows.escos on delete cascade,
    disabled_at timestamptz not null default now()
);

create table gateway.token (
    jti text primary key,
    kid text not null,
    esco uuid references flows.escos on delete cascade,
    role text not null,
    name text not null,
    created_at timestamptz not null default now(),
    expires_at timestamptz not null
);

create table gateway.revoked_token (
    jti text primary key,
    expires_at timestamptz not null,
    revoked_at timestamptz not null default now()
);

create table gateway.signing_key (
    kid text primary key,
    public_jwk jsonb not null,
    created_at timestamptz not null default now(),
    signs_from timestamptz not null default now(),
    verifies_until timestamptz
);

create table gateway.audit (
    id bigint generated always as identity primary key,
    at timestamptz not null default clock_timestamp(),
    actor text not null,
    action text not null,
    esco uuid,
    subject text,
    detail text,
    address text,
    outcome text not null
);
create index on gateway.audit (esco, id);

reset role;
