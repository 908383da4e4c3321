-- migrate:up
set local role flows_owner;

-- The key of a series is also the index its readers need, newest last or first; it carries the name
-- that deployments know.
alter index flows.register_import_pkey rename to idx_register_import_composite;
alter index flows.meter_shadows_pkey rename to idx_meter_shadows_id;

-- None on register_interval_hh: whoever asks names registers, and for the newest of one that stopped
-- reporting the planner would walk this index through everybody else's half-hours.
create index idx_register_import_time on flows.register_import ("timestamp" desc);
create index idx_register_export_time on flows.register_export ("timestamp" desc);
create index idx_meter_event_log_time on flows.meter_event_log ("timestamp" desc);

reset role;

-- migrate:down
