-- migrate:up
set local role flows_owner;

-- The key of a series is also the index its readers need, newest last or first; it carries the name
-- that deployments know.
alter index flows.register_import_pkey rename to idx_register_import_composite;
alter index flows.meter_shadows_pkey rename to idx_meter_shadows_id;

create index idx_register_import_time on flows.register_import ("timestamp" desc);
create index idx_register_export_time on flows.register_export ("timestamp" desc);
create index idx_register_interval_hh_time on flows.register_interval_hh ("timestamp" desc);
create index idx_meter_event_log_time on flows.meter_event_log ("timestamp" desc);

reset role;

-- migrate:down
