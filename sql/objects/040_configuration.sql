set local role flows_owner;
comment on table flows.regions is 'Regions that ESCOs work in.';
comment on column flows.regions.code is 'Short name of the region.';
comment on column flows.regions.name is 'Name of the region.';
comment on table flows.escos is 'Energy service companies: each runs one energy community and sees only its own rows.';
comment on column flows.escos.code is 'Short name of the ESCO, as its tokens carry it.';
comment on column flows.escos.name is 'Name of the ESCO.';
comment on column flows.escos.app_url is 'URL of the app for its customers.';
comment on column flows.escos.region is 'Region the ESCO works in.';
comment on table flows.sites_new is 'Sites: groups of properties and circuits in one place.';
comment on column flows.sites_new.esco is 'ESCO that runs the site.';
comment on column flows.sites_new.name is 'Name of the site.';
comment on column flows.sites_new.code is 'Short name of the site.';
comment on column flows.sites_new.location is 'Location of the site.';
comment on column flows.sites_new.capacity_kw is 'Power that the site''s grid connection allows, kW.';
comment on table flows.properties is 'Homes and other buildings supplied with energy.';
comment on column flows.properties.plot is 'Plot number or name.';
comment on column flows.properties.site is 'Site the property is on.';
comment on column flows.properties.address is 'Postal address.';
comment on column flows.properties.type is 'Kind of building.';
comment on table flows.feeder_registry is 'Feeders: cables from a substation to service heads.';
comment on column flows.feeder_registry.name is 'Name of the feeder.';
comment on column flows.feeder_registry.esco is 'ESCO the feeder belongs to.';
comment on column flows.feeder_registry.substation is 'Substation that supplies the feeder.';
comment on column flows.feeder_registry.rating_amps is 'Rated current, A.';
comment on table flows.service_head_registry
is 'Service heads: points at which the network''s cables enter properties.';
comment on column flows.service_head_registry.name is 'Name of the service head.';
comment on column flows.service_head_registry.feeder is 'Feeder that supplies the service head.';
comment on column flows.service_head_registry.phase is 'Phase of the supply, 1 to 3.';
comment on column flows.service_head_registry.fuse_rating is 'Rating of the main fuse, A.';
comment on column flows.service_head_registry.type is 'Owner of the service head: customer_owned or network_owned.';
comment on table flows.meter_registry is 'Meters and their configuration.';
comment on column flows.meter_registry.serial is 'Serial number on the meter.';
comment on column flows.meter_registry.name is 'Name of the meter.';
comment on column flows.meter_registry.esco is 'ESCO that runs the meter.';
comment on column flows.meter_registry.site is 'Site the meter is on.';
comment on column flows.meter_registry.mode
is 'Mode of reading: active (read by the platform) or passive (read elsewhere).';
comment on column flows.meter_registry.hardware is 'Model of the meter.';
comment on column flows.meter_registry.firmware_version is 'Version of the firmware.';
comment on column flows.meter_registry.ip_address is 'IP address of the meter in the mobile network.';
comment on column flows.meter_registry.emnify_id is 'Id of the meter''s SIM at emnify.';
comment on column flows.meter_registry.iccid is 'ICCID of the meter''s SIM, the number printed on it.';
comment on column flows.meter_registry.installation_status
is 'State of the installation: enabled, disabled or deleted.';
comment on column flows.meter_registry.commissioned_iso_week_date
is 'ISO week date of commissioning, such as 2026-W48-2.';
comment on column flows.meter_registry.prepay_enabled is 'True if energy is paid for in advance.';
comment on column flows.meter_registry.daylight_savings_correction_enabled
is 'True if the meter''s clock follows summer time.';
comment on column flows.meter_registry.single_meter_app is 'True if the customer''s app shows only this meter.';
comment on table flows.meter_registers is 'Registers: the energy counters of a meter, one for each of its elements.';
comment on column flows.meter_registers.register_id is 'Id of the register.';
comment on column flows.meter_registers.meter_id is 'Meter that the register belongs to.';
comment on column flows.meter_registers.element is 'Element of the meter: A, B or SINGLE.';
comment on column flows.meter_registers.status is 'Status: enabled, or replaced (by another register).';
comment on column flows.meter_registers.nature is 'Kind of energy metered: heat, power or solar.';
comment on column flows.meter_registers.direction_reversed
is 'True if the meter is wired backwards, so that its import counter counts export.';
comment on column flows.meter_registers.start_time is 'Time at which the register began to count.';
comment on column flows.meter_registers.end_time is 'Time at which the register stopped counting, exclusive.';
comment on column flows.meter_registers.notes is 'Notes.';
comment on column flows.meter_registers.mpan
is 'Number of the supply point, as suppliers'' files have it: an MPAN, NMI, EAN or CUPS.';
comment on table flows.meter_tophat_registry is 'Tophats: communication modules on top of a meter.';
comment on column flows.meter_tophat_registry.meter is 'Meter that the module is mounted on.';
comment on column flows.meter_tophat_registry.emnify_id is 'Id of the module''s SIM at emnify.';
comment on column flows.meter_tophat_registry.ip_address is 'IP address of the module in the mobile network.';
comment on column flows.meter_tophat_registry.iccid is 'ICCID of the module''s SIM, the number printed on it.';
comment on table flows.circuits is 'Circuits: the units for which energy is reported, whichever registers meter them.';
comment on column flows.circuits.type is 'Kind of energy that the circuit carries: power, heat or solar.';
comment on column flows.circuits.name is 'Name of the circuit.';
comment on column flows.circuits.site is 'Site the circuit is on.';
comment on column flows.circuits.rating_amps is 'Rated current, A.';
comment on table flows.meter_metrics is 'Metrics that are read from meters, and their frequency.';
comment on column flows.meter_metrics.name is 'Name of the metric.';
comment on column flows.meter_metrics.notes is 'Notes.';
comment on column flows.meter_metrics.enabled is 'True if the metric is read.';
comment on column flows.meter_metrics.run_frequency is 'Frequency of reading: hourly, 12hourly or daily.';
comment on table flows.meter_event_log_type is 'Kinds of events that meters log.';
comment on column flows.meter_event_log_type.id is 'Number of the kind, as sent by meters.';
comment on column flows.meter_event_log_type.name is 'Name of the kind.';
comment on table flows.ev_chargers is 'Chargers for electric vehicles.';
comment on column flows.ev_chargers.esco is 'ESCO that runs the charger.';
comment on column flows.ev_chargers.serial is 'Serial number, 8 characters.';
comment on column flows.ev_chargers.pin is 'PIN of the charger, 4 characters.';
comment on column flows.ev_chargers.position is 'Location of the charger.';
comment on table flows.service_head_meter is 'Links of meters to the service heads that supply them.';
comment on column flows.service_head_meter.service_head is 'The service head.';
comment on column flows.service_head_meter.meter is 'The meter.';
comment on column flows.service_head_meter.start_time
is 'Time from which residents of the home may read of the meter, UTC; empty for all time.';
comment on table flows.former_service_head_meter is 'Links of meters to the service heads that supplied them before.';
comment on column flows.former_service_head_meter.service_head is 'The service head.';
comment on column flows.former_service_head_meter.meter is 'The meter.';
comment on column flows.former_service_head_meter.esco is 'ESCO of both.';
comment on column flows.former_service_head_meter.start_time is 'Start of the link, UTC; empty for all time.';
comment on column flows.former_service_head_meter.end_time is 'Time at which the link was changed or deleted, UTC.';
comment on table flows.properties_service_head is 'Links of service heads to the properties that they supply.';
comment on column flows.properties_service_head.property is 'The property.';
comment on column flows.properties_service_head.service_head is 'The service head.';
comment on column flows.properties_service_head.start_time
is 'Time from which residents of the property may read of the service head, UTC; empty for all time.';
comment on table flows.former_properties_service_head
is 'Links of service heads to the properties that they supplied before.';
comment on column flows.former_properties_service_head.property is 'The property.';
comment on column flows.former_properties_service_head.service_head is 'The service head.';
comment on column flows.former_properties_service_head.esco is 'ESCO of both.';
comment on column flows.former_properties_service_head.start_time is 'Start of the link, UTC; empty for all time.';
comment on column flows.former_properties_service_head.end_time
is 'Time at which the link was changed or deleted, UTC.';
comment on table flows.circuit_register is 'Mappings of registers to the circuits that they meter, each for a period.';
comment on column flows.circuit_register.circuit is 'The circuit.';
comment on column flows.circuit_register.register is 'The register that meters the circuit.';
comment on column flows.circuit_register.start_time is 'Start of the mapping, inclusive.';
comment on column flows.circuit_register.end_time is 'End of the mapping, exclusive; empty while it has none.';
comment on column flows.circuit_register.notes is 'Notes.';

-- Casts to these names stand in scripts of deployments, whose columns are enums; here tables check their values.
do $$
declare
    known text;
begin
    foreach known in array array[
        'circuit_type_enum', 'emnify_device_connectivity_status_enum', 'emnify_device_installation_status_enum',
        'health_check_status', 'meter_metric_run_frequency_enum', 'meter_mode_enum', 'meter_register_element',
        'meter_register_status_enum', 'register_nature_enum'
    ]
    loop
        execute format('comment on domain flows.%I is %L', known, 'A text, under the name of an enum of deployments.');
    end loop;
end $$;

reset role;
