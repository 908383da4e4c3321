-- migrate:up
set local role flows_owner;

create table flows.regions (
    code text primary key,
    name text not null,
    created_at timestamptz not null default now()
);
comment on table flows.regions is 'Regions that ESCOs work in.';
comment on column flows.regions.code is 'Short name of the region.';
comment on column flows.regions.name is 'Name of the region.';

create table flows.escos (
    id uuid primary key default gen_random_uuid(),
    code text not null unique,
    name text not null,
    app_url text,
    region text references flows.regions,
    created_at timestamptz not null default now()
);
comment on table flows.escos is 'Energy service companies: each runs one energy community and sees only its own rows.';
comment on column flows.escos.code is 'Short name of the ESCO, as its tokens carry it.';
comment on column flows.escos.name is 'Name of the ESCO.';
comment on column flows.escos.app_url is 'Address of the app its customers use.';
comment on column flows.escos.region is 'Region the ESCO works in.';

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
comment on table flows.sites_new is 'Sites: groups of properties and circuits in one place.';
comment on column flows.sites_new.esco is 'ESCO that runs the site.';
comment on column flows.sites_new.name is 'Name of the site.';
comment on column flows.sites_new.code is 'Short name of the site.';
comment on column flows.sites_new.location is 'Where the site is.';
comment on column flows.sites_new.capacity_kw is 'Power that the site''s grid connection allows, kW.';

create table flows.properties (
    id uuid primary key default gen_random_uuid(),
    plot text not null,
    site uuid references flows.sites_new,
    address text,
    type text,
    created_at timestamptz not null default now()
);
create index on flows.properties (site);
comment on table flows.properties is 'Homes and other buildings that are supplied.';
comment on column flows.properties.plot is 'Plot number or name.';
comment on column flows.properties.site is 'Site the property is on.';
comment on column flows.properties.address is 'Postal address.';
comment on column flows.properties.type is 'Kind of building.';

create table flows.feeder_registry (
    id uuid primary key default gen_random_uuid(),
    name text not null unique,
    esco uuid not null references flows.escos,
    substation text,
    rating_amps numeric check (rating_amps > 0),
    created_at timestamptz not null default now()
);
create index on flows.feeder_registry (esco);
comment on table flows.feeder_registry is 'Feeders: cables from a substation to service heads.';
comment on column flows.feeder_registry.name is 'Name of the feeder.';
comment on column flows.feeder_registry.esco is 'ESCO the feeder belongs to.';
comment on column flows.feeder_registry.substation is 'Substation that supplies the feeder.';
comment on column flows.feeder_registry.rating_amps is 'Rated current, A.';

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
comment on table flows.service_head_registry is 'Service heads: where the network''s cable enters a property.';
comment on column flows.service_head_registry.name is 'Name of the service head.';
comment on column flows.service_head_registry.feeder is 'Feeder that supplies the service head.';
comment on column flows.service_head_registry.phase is 'Phase of the supply, 1 to 3.';
comment on column flows.service_head_registry.fuse_rating is 'Rating of the main fuse, A.';
comment on column flows.service_head_registry.type is 'Whose it is: customer_owned or network_owned.';

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
comment on table flows.meter_registry is 'Meters and how they are configured.';
comment on column flows.meter_registry.serial is 'Serial number on the meter.';
comment on column flows.meter_registry.name is 'Name of the meter.';
comment on column flows.meter_registry.esco is 'ESCO that runs the meter.';
comment on column flows.meter_registry.site is 'Site the meter is on.';
comment on column flows.meter_registry.mode
is 'active meters are read by the platform, passive ones are read elsewhere.';
comment on column flows.meter_registry.hardware is 'Model of the meter.';
comment on column flows.meter_registry.firmware_version is 'Version of the firmware.';
comment on column flows.meter_registry.ip_address is 'Address of the meter in the mobile network.';
comment on column flows.meter_registry.emnify_id is 'Number of the meter''s SIM at emnify.';
comment on column flows.meter_registry.iccid is 'Number printed on the meter''s SIM.';
comment on column flows.meter_registry.installation_status is 'enabled, disabled or deleted.';
comment on column flows.meter_registry.commissioned_iso_week_date
is 'ISO week date of commissioning, as 2026-W48-2.';
comment on column flows.meter_registry.prepay_enabled is 'Whether energy is paid for in advance.';
comment on column flows.meter_registry.daylight_savings_correction_enabled
is 'Whether the meter''s clock follows summer time.';
comment on column flows.meter_registry.single_meter_app is 'Whether the customer''s app shows this meter alone.';

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
comment on table flows.meter_registers is 'Registers: what a meter counts, one for each of its elements.';
comment on column flows.meter_registers.register_id is 'Id of the register.';
comment on column flows.meter_registers.meter_id is 'Meter the register is in.';
comment on column flows.meter_registers.element is 'Element of the meter: A, B or SINGLE.';
comment on column flows.meter_registers.status is 'enabled, or replaced by another register.';
comment on column flows.meter_registers.nature is 'What is metered: heat, power or solar.';
comment on column flows.meter_registers.direction_reversed
is 'Whether the meter is wired backwards, so that its import counter counts export.';
comment on column flows.meter_registers.start_time is 'When the register began to count.';
comment on column flows.meter_registers.end_time is 'When the register ended, exclusive.';
comment on column flows.meter_registers.notes is 'Notes.';

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
comment on table flows.meter_tophat_registry is 'Tophats: communication modules on top of a meter.';
comment on column flows.meter_tophat_registry.meter is 'Meter the module is on.';
comment on column flows.meter_tophat_registry.emnify_id is 'Number of the module''s SIM at emnify.';
comment on column flows.meter_tophat_registry.ip_address is 'Address of the module in the mobile network.';
comment on column flows.meter_tophat_registry.iccid is 'Number printed on the module''s SIM.';

create table flows.circuits (
    id uuid primary key default gen_random_uuid(),
    type text not null check (type in ('power', 'heat', 'solar')),
    name text,
    site uuid references flows.sites_new,
    rating_amps numeric check (rating_amps > 0),
    created_at timestamptz not null default now()
);
create index on flows.circuits (site);
comment on table flows.circuits is 'Circuits: what energy is reported by, whichever registers meter it.';
comment on column flows.circuits.type is 'What the circuit carries: power, heat or solar.';
comment on column flows.circuits.name is 'Name of the circuit.';
comment on column flows.circuits.site is 'Site the circuit is on.';
comment on column flows.circuits.rating_amps is 'Rated current, A.';

create table flows.meter_metrics (
    id uuid primary key default gen_random_uuid(),
    name text not null,
    notes text,
    enabled boolean not null,
    run_frequency text not null check (run_frequency in ('hourly', '12hourly', 'daily')),
    created_at timestamptz not null default now()
);
comment on table flows.meter_metrics is 'What is asked of meters, and how often.';
comment on column flows.meter_metrics.name is 'Name of the metric.';
comment on column flows.meter_metrics.notes is 'Notes.';
comment on column flows.meter_metrics.enabled is 'Whether the metric is asked for.';
comment on column flows.meter_metrics.run_frequency is 'hourly, 12hourly or daily.';

create table flows.meter_event_log_type (
    id integer primary key,
    name text not null unique,
    created_at timestamptz not null default now()
);
comment on table flows.meter_event_log_type is 'Kinds of events that meters log.';
comment on column flows.meter_event_log_type.id is 'Number of the kind, as meters send it.';
comment on column flows.meter_event_log_type.name is 'Name of the kind.';

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
comment on table flows.ev_chargers is 'Chargers for electric vehicles.';
comment on column flows.ev_chargers.esco is 'ESCO that runs the charger.';
comment on column flows.ev_chargers.serial is 'Serial number, 8 characters.';
comment on column flows.ev_chargers.pin is 'PIN of the charger, 4 characters.';
comment on column flows.ev_chargers.position is 'Where the charger is.';

create table flows.service_head_meter (
    service_head uuid not null references flows.service_head_registry,
    meter uuid not null references flows.meter_registry,
    created_at timestamptz not null default now(),
    primary key (service_head, meter)
);
create index on flows.service_head_meter (meter);
comment on table flows.service_head_meter is 'Which meters are on which service head.';
comment on column flows.service_head_meter.service_head is 'The service head.';
comment on column flows.service_head_meter.meter is 'The meter.';

create table flows.properties_service_head (
    property uuid not null references flows.properties,
    service_head uuid not null references flows.service_head_registry,
    created_at timestamptz not null default now(),
    primary key (property, service_head)
);
create index on flows.properties_service_head (service_head);
comment on table flows.properties_service_head is 'Which service heads supply which property.';
comment on column flows.properties_service_head.property is 'The property.';
comment on column flows.properties_service_head.service_head is 'The service head.';

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
comment on table flows.circuit_register is 'Which registers meter which circuit, and from when to when.';
comment on column flows.circuit_register.circuit is 'The circuit.';
comment on column flows.circuit_register.register is 'The register that meters it.';
comment on column flows.circuit_register.start_time is 'When the mapping begins, inclusive.';
comment on column flows.circuit_register.end_time is 'When the mapping ends, exclusive; empty while it holds.';
comment on column flows.circuit_register.notes is 'Notes.';

reset role;

-- migrate:down
