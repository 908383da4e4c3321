-- What the migration guide's script touches, in the shape and with the oddities of deployed databases.
create schema flows;
create type flows.health_check_status as enum ('healthy', 'unhealthy', 'unknown');
create table flows.escos (
    id uuid primary key, created_at timestamptz not null default now(), name text, code text
);
create table flows.meter_registry (id uuid primary key, serial text, name text, esco uuid, site uuid);
create table flows.meter_shadows (
    id uuid primary key, balance numeric, csq integer, health flows.health_check_status,
    health_details text
);
create table flows.meter_registers (register_id uuid, meter_id uuid, nature text, element text);
create table flows.circuits (id uuid primary key, type text, name text);
create table flows.circuit_register (
    circuit uuid, register uuid, start_time timestamptz, end_time timestamptz
);
create table flows.register_interval_hh (
    register_id uuid, "timestamp" timestamptz, kwh numeric not null
);
create table flows.register_import (register_id uuid, "timestamp" timestamptz, read float4);
create table flows.register_export (register_id uuid, "timestamp" timestamptz, read float4);
create table flows.meter_csq (meter_id uuid, "timestamp" timestamptz, csq integer);
create table flows.meter_voltage (meter_id uuid, "timestamp" timestamptz, voltage real);
create table flows.meter_health_history (
    meter_id uuid, "timestamp" timestamptz, health flows.health_check_status
);
create table flows.meter_event_log_type (id integer, name text);
create table flows.meter_event_log (
    meter_id uuid, "timestamp" timestamptz, event_type integer, event_set integer
);
insert into flows.escos (id, name, code) values ('10000000-0000-4000-8000-000000000000', 'Old Energy', 'olde');
insert into flows.meter_registry
values ('20000000-0000-4000-8000-000000000000', 'OLD1', 'Plot 1', '10000000-0000-4000-8000-000000000000', gen_random_uuid());
insert into flows.meter_shadows values ('20000000-0000-4000-8000-000000000000', 5, 99, 'unknown', 'free words');
insert into flows.meter_registers
values ('30000000-0000-4000-8000-000000000000', '20000000-0000-4000-8000-000000000000', 'power', 'A'), ('40000000-0000-4000-8000-000000000000', '20000000-0000-4000-8000-000000000000', 'solar', 'B');
insert into flows.circuits values ('50000000-0000-4000-8000-000000000000', 'power', 'Plot 1');
insert into flows.circuit_register values ('50000000-0000-4000-8000-000000000000', '30000000-0000-4000-8000-000000000000', '2020-01-01Z', null);
insert into flows.register_interval_hh
select register, half_hour, 0.25 from unnest(array['30000000-0000-4000-8000-000000000000', '40000000-0000-4000-8000-000000000000']::uuid[]) as register
cross join generate_series('2026-06-01Z'::timestamptz, '2026-06-02 23:30Z', '30 minutes') as half_hour;
insert into flows.register_import values ('30000000-0000-4000-8000-000000000000', '2026-06-01Z', 7), ('30000000-0000-4000-8000-000000000000', '2026-06-02Z', null);
insert into flows.meter_csq values ('20000000-0000-4000-8000-000000000000', '2026-06-01Z', 20), ('20000000-0000-4000-8000-000000000000', '2026-06-02Z', 99),
    ('20000000-0000-4000-8000-000000000000', '2026-06-03Z', -1);
insert into flows.meter_voltage values ('20000000-0000-4000-8000-000000000000', '2026-06-01Z', 240), ('20000000-0000-4000-8000-000000000000', '2026-06-01Z', 241);
insert into flows.meter_health_history
values ('20000000-0000-4000-8000-000000000000', '2026-06-01Z', 'healthy'), ('20000000-0000-4000-8000-000000000000', '2026-06-01Z', 'unhealthy'),
    ('20000000-0000-4000-8000-000000000000', '2026-06-02Z', 'unknown');
insert into flows.meter_event_log_type values (1, 'power failure');
insert into flows.meter_event_log
values ('20000000-0000-4000-8000-000000000000', '1970-01-01Z', 1, 1), ('20000000-0000-4000-8000-000000000000', '2026-06-01Z', 1, 1);
