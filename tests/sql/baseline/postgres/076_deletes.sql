-- migrate:up
set local role flows_owner;

create trigger aggregates_follow_removed after delete on flows.register_interval_hh
referencing old table as old_rows for each statement execute function flows.readings_changed();

reset role;

-- migrate:down
