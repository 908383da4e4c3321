set local role flows_owner;

create trigger aggregates_follow_removed after delete on flows.register_interval_hh
referencing old table as old_rows for each statement
when (current_setting('flows.replaced', true) is distinct from 'on')
execute function flows.readings_changed();

reset role;
