-- The owner in every row, fourth part: links between ESCOs become impossible, and what begins with an owner is
-- found by it.
set local role flows_owner;

-- What was written while the series were filled.
do $$
declare
    configured constant text[] := array[
        'properties', 'service_head_registry', 'meter_registers', 'meter_tophat_registry', 'meter_shadows',
        'circuits', 'service_head_meter', 'properties_service_head', 'circuit_register', 'register_extent'
    ];
    "table" text;
begin
    foreach "table" in array configured loop
        execute format('alter table flows.%I disable trigger user', "table");
    end loop;
    perform flows.fill_owners();
    foreach "table" in array configured loop
        execute format('alter table flows.%I enable trigger user', "table");
    end loop;
end $$;

alter table flows.sites_new add constraint sites_new_owner unique (esco, id);
alter table flows.feeder_registry add constraint feeder_registry_owner unique (esco, id);
alter table flows.service_head_registry add constraint service_head_registry_owner unique (esco, id);
alter table flows.properties add constraint properties_owner unique (esco, id);
alter table flows.meter_registry add constraint meter_registry_owner unique (esco, id);
alter table flows.meter_registers add constraint meter_registers_owner unique (esco, register_id);
alter table flows.circuits add constraint circuits_owner unique (esco, id);
-- They begin with esco as these did.
drop index flows.sites_new_esco_idx, flows.feeder_registry_esco_idx, flows.meter_registry_esco_idx;
create index on flows.meter_tophat_registry (esco);
create index on flows.meter_shadows (esco, id);
create index on flows.service_head_meter (esco);
create index on flows.properties_service_head (esco);
create index on flows.circuit_register (esco, circuit);
create index on flows.register_extent (esco);

-- The simple keys stay beside these: a row of nobody is in none of them.
alter table flows.properties add constraint properties_site_owner_fkey
foreign key (site, esco) references flows.sites_new (id, esco);
alter table flows.service_head_registry add constraint service_head_registry_feeder_owner_fkey
foreign key (feeder, esco) references flows.feeder_registry (id, esco);
alter table flows.circuits add constraint circuits_site_owner_fkey
foreign key (site, esco) references flows.sites_new (id, esco);
-- What is in or on a meter follows it when it moves to another ESCO.
alter table flows.meter_registers add constraint meter_registers_meter_id_owner_fkey
foreign key (meter_id, esco) references flows.meter_registry (id, esco) on update cascade;
alter table flows.meter_tophat_registry add constraint meter_tophat_registry_meter_owner_fkey
foreign key (meter, esco) references flows.meter_registry (id, esco) on update cascade;
alter table flows.meter_shadows add constraint meter_shadows_id_owner_fkey
foreign key (id, esco) references flows.meter_registry (id, esco) on update cascade on delete cascade;
alter table flows.register_extent add constraint register_extent_register_id_owner_fkey
foreign key (register_id, esco) references flows.meter_registers (register_id, esco)
on update cascade on delete cascade;
alter table flows.service_head_meter add constraint service_head_meter_service_head_owner_fkey
foreign key (service_head, esco) references flows.service_head_registry (id, esco);
alter table flows.service_head_meter add constraint service_head_meter_meter_owner_fkey
foreign key (meter, esco) references flows.meter_registry (id, esco);
alter table flows.properties_service_head add constraint properties_service_head_property_owner_fkey
foreign key (property, esco) references flows.properties (id, esco);
alter table flows.properties_service_head add constraint properties_service_head_service_head_owner_fkey
foreign key (service_head, esco) references flows.service_head_registry (id, esco);
-- A circuit stays with its ESCO, and so do its mappings; a register may have moved since.
alter table flows.circuit_register add constraint circuit_register_circuit_owner_fkey
foreign key (circuit, esco) references flows.circuits (id, esco);

create index on flows.register_interval_hh (esco, "timestamp" desc);
create index on flows.register_import (esco, "timestamp" desc);
create index on flows.register_export (esco, "timestamp" desc);
create index on flows.meter_voltage (esco, "timestamp" desc);
create index on flows.meter_3p_voltage (esco, "timestamp" desc);
create index on flows.meter_csq (esco, "timestamp" desc);
create index on flows.meter_health_history (esco, "timestamp" desc);
create index on flows.meter_prepay_balance (esco, "timestamp" desc);
create index on flows.meter_event_log (esco, "timestamp" desc);
-- A caller's newest rows would be looked for among everybody's by these.
drop index flows.idx_register_import_time, flows.idx_register_export_time, flows.idx_meter_event_log_time;

drop procedure flows.fill_series();
drop function flows.fill_owners();

reset role;

-- Nothing is looked up any more.
do $$
begin
    if exists (select from pg_catalog.pg_roles where rolname = 'flows_lookup') then
        drop owned by flows_lookup cascade;
    end if;
exception
    when insufficient_privilege then
        raise notice 'what flows_lookup owned goes with sql/objects';
end $$;
-- Other databases of the server may still have what is the role's.
do $$
begin
    drop role if exists flows_lookup;
exception
    when dependent_objects_still_exist or insufficient_privilege then
        raise notice 'the role flows_lookup stays, and is used no more';
end $$;
