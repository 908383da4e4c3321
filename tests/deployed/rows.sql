-- Rows as deployments have them. Ids: 10… ESCOs, 20… meters, 30… registers, 50… circuits; 60… feeders,
-- 70… service heads, 80… properties, 90… sites.
insert into flows.regions (code, name) values ('sw', 'South West');
insert into flows.escos (id, name, code, region) values
('10000000-0000-4000-8000-000000000001', 'Old Energy', 'olde', 'sw'),
('10000000-0000-4000-8000-000000000002', null, null, null);
insert into flows.sites_new (id, name, code, esco) values
('90000000-0000-4000-8000-000000000001', 'Quay', 'quay', '10000000-0000-4000-8000-000000000001');
insert into flows.feeder_registry (id, name, esco) values
('60000000-0000-4000-8000-000000000001', 'quay-1', '10000000-0000-4000-8000-000000000001');
insert into flows.service_head_registry (id, name, feeder, phase, fuse_rating, type) values
('70000000-0000-4000-8000-000000000001', 'quay-1-a', '60000000-0000-4000-8000-000000000001', 1, 100, 'network_owned'),
('70000000-0000-4000-8000-000000000002', 'quay-1-b', null, null, null, null);
insert into flows.properties (id, plot, created_at) values
('80000000-0000-4000-8000-000000000001', 'Plot 1', '2023-01-01Z'), ('80000000-0000-4000-8000-000000000002', null, null);
-- The site of the second and the third is not there.
insert into flows.meter_registry (
    id, serial, name, mode, emnify_id, ip_address, iccid, installation_status, hardware, firmware_version, site, esco,
    single_meter_app, prepay_enabled, updated_at
) values
('20000000-0000-4000-8000-000000000001', 'OLD1', 'Plot 1', 'active', 11, '10.0.0.1', '8944-1', 'enabled', 'C1.w', '1.2',
    '90000000-0000-4000-8000-000000000001', '10000000-0000-4000-8000-000000000001', true, true, '2026-06-01Z'),
('20000000-0000-4000-8000-000000000002', 'OLD2', null, 'passive', null, null, null, null, 'P1.ax', null,
    '90000000-0000-4000-8000-0000000000ff', '10000000-0000-4000-8000-000000000001', null, null, '2026-06-01Z'),
('20000000-0000-4000-8000-000000000003', null, 'Spare', null, null, null, null, 'deleted', null, null,
    '90000000-0000-4000-8000-0000000000fe', '10000000-0000-4000-8000-000000000002', false, false, '2026-06-01Z'),
('20000000-0000-4000-8000-000000000004', 'OLD4', 'Nobody''s', 'active', null, null, null, null, null, null,
    null, null, false, false, '2026-06-01Z');
insert into flows.meter_shadows (
    id, balance, csq, voltage, import_a, health, health_details, last_healthy_at, clock_time_diff_seconds,
    emnify_connectivity_status, tariffs_active, tariffs_future, updated_at
) values
('20000000-0000-4000-8000-000000000001', 12.34, 99, 241.5, 2100.53125, 'healthy', '', null, 3, 'online',
    '{"standing_charge": 0.3}', '{"standing_charge": 0.4, "activation_datetime": "2030-01-01T00:00:00"}', '2026-06-01Z'),
('20000000-0000-4000-8000-000000000002', null, -1, null, null, 'unhealthy', 'no answer for two days', '2026-05-01Z', 90,
    'offline', null, null, '2026-06-01Z'),
('20000000-0000-4000-8000-000000000003', -3, null, null, null, 'unknown', '{"reason": "spare"}', null, null, null,
    null, null, '2026-06-01Z');
-- Two of element A: the first was replaced. The nature of the fourth is told by its circuit alone.
insert into flows.meter_registers (register_id, meter_id, nature, status, element, start_time, end_time) values
('30000000-0000-4000-8000-000000000001', '20000000-0000-4000-8000-000000000001', 'power', 'replaced', 'A', '2023-01-01Z', '2026-01-01Z'),
('30000000-0000-4000-8000-000000000002', '20000000-0000-4000-8000-000000000001', 'power', 'enabled', 'A', '2026-01-01Z', null),
('30000000-0000-4000-8000-000000000003', '20000000-0000-4000-8000-000000000001', 'heat', null, 'B', null, null),
('30000000-0000-4000-8000-000000000004', '20000000-0000-4000-8000-000000000002', null, 'enabled', 'SINGLE', null, null),
('30000000-0000-4000-8000-000000000005', '20000000-0000-4000-8000-000000000002', 'solar', 'enabled', null, null, null),
('30000000-0000-4000-8000-000000000006', '20000000-0000-4000-8000-000000000003', 'power', 'enabled', 'A', null, null);
insert into flows.meter_tophat_registry (meter, iccid) values ('20000000-0000-4000-8000-000000000001', '8944-9');
insert into flows.circuits (id, type, name) values
('50000000-0000-4000-8000-000000000001', 'power', 'Plot 1'), ('50000000-0000-4000-8000-000000000002', 'heat', null),
('50000000-0000-4000-8000-000000000003', 'solar', 'Roof'), ('50000000-0000-4000-8000-000000000004', 'solar', 'Roof 2');
insert into flows.meter_metrics (name, enabled, run_frequency) values ('SyncerCsq', true, '12hourly'), ('clock', false, 'daily');
insert into flows.meter_event_log_type (id, name) values (1, 'power down'), (2, 'power up'), (75, 'cover open');
insert into flows.ev_chargers (esco, serial, pin) values ('10000000-0000-4000-8000-000000000001', 'EV000001', '1234');
insert into flows.service_head_meter (service_head, meter) values
('70000000-0000-4000-8000-000000000001', '20000000-0000-4000-8000-000000000001'),
('70000000-0000-4000-8000-000000000002', '20000000-0000-4000-8000-000000000002');
insert into flows.properties_service_head (property, service_head) values
('80000000-0000-4000-8000-000000000001', '70000000-0000-4000-8000-000000000001');
insert into flows.circuit_register (circuit, register, start_time, end_time) values
('50000000-0000-4000-8000-000000000001', '30000000-0000-4000-8000-000000000001', '2023-01-01Z', '2026-01-01Z'),
('50000000-0000-4000-8000-000000000001', '30000000-0000-4000-8000-000000000002', '2026-01-01Z', null),
('50000000-0000-4000-8000-000000000002', '30000000-0000-4000-8000-000000000003', '2023-01-01Z', null),
('50000000-0000-4000-8000-000000000003', '30000000-0000-4000-8000-000000000004', '2023-01-01Z', null),
('50000000-0000-4000-8000-000000000004', '30000000-0000-4000-8000-000000000005', '2023-01-01Z', null),
('50000000-0000-4000-8000-000000000001', '30000000-0000-4000-8000-000000000003', '2024-01-01Z', '2024-01-01Z');
-- Two days of each register, over the month's end.
insert into flows.register_interval_hh
select r.register_id, half_hour, right(r.register_id::text, 1)::numeric / 8
from flows.meter_registers as r
cross join generate_series('2026-05-31Z'::timestamptz, '2026-06-01 23:30Z', '30 minutes') as half_hour
where r.register_id <> '30000000-0000-4000-8000-000000000001';
insert into flows.register_import values
('30000000-0000-4000-8000-000000000002', '2026-05-31 00:07Z', 2090.25),
('30000000-0000-4000-8000-000000000002', '2026-05-31 01:07Z', null),
('30000000-0000-4000-8000-000000000002', '2026-05-31 02:00Z', 2100.53125),
('30000000-0000-4000-8000-000000000006', '2026-06-03 10:00Z', 5),
('30000000-0000-4000-8000-000000000006', '2026-06-03 11:00Z', 6);
insert into flows.register_export values ('30000000-0000-4000-8000-000000000005', '2026-05-31 00:07Z', 16777216);
insert into flows.meter_csq values
('20000000-0000-4000-8000-000000000001', '2026-06-01Z', 20), ('20000000-0000-4000-8000-000000000001', '2026-06-02Z', 99),
('20000000-0000-4000-8000-000000000001', '2026-06-03Z', -1), ('20000000-0000-4000-8000-000000000001', '2026-06-04Z', null),
('20000000-0000-4000-8000-000000000001', '2026-06-04 01:00Z', 2147483647);
insert into flows.meter_voltage values
('20000000-0000-4000-8000-000000000001', '2026-06-01Z', 240.1), ('20000000-0000-4000-8000-000000000001', '2026-06-01Z', 241.7),
('20000000-0000-4000-8000-000000000001', '2026-06-01Z', 241.7), ('20000000-0000-4000-8000-000000000001', '2026-06-02Z', null);
insert into flows.meter_3p_voltage values
('20000000-0000-4000-8000-000000000002', '2026-06-01Z', 240, 241, 242), ('20000000-0000-4000-8000-000000000002', '2026-06-01Z', 240, 241, null);
insert into flows.meter_health_history values
('20000000-0000-4000-8000-000000000001', '2026-06-01Z', 'healthy'), ('20000000-0000-4000-8000-000000000001', '2026-06-01Z', 'unhealthy'),
('20000000-0000-4000-8000-000000000001', '2026-06-02Z', 'unknown');
insert into flows.meter_prepay_balance values ('20000000-0000-4000-8000-000000000001', '2026-06-01Z', 12.34), ('20000000-0000-4000-8000-000000000001', '2026-06-02Z', null);
insert into flows.meter_event_log values
('20000000-0000-4000-8000-000000000001', '1970-01-01Z', 1, 1), ('20000000-0000-4000-8000-000000000001', '2026-06-01Z', 2, 1),
('20000000-0000-4000-8000-000000000001', '2026-06-01Z', 75, 2);
