-- migrate:up
set local role flows_owner;

-- Configuration and state: read as the caller, so that row level security decides.
do $$
declare
    exposed text;
begin
    foreach exposed in array array[
        'regions', 'escos', 'sites_new', 'properties', 'feeder_registry', 'service_head_registry',
        'meter_registry', 'meter_shadows', 'meter_registers', 'circuits', 'service_head_meter',
        'properties_service_head', 'circuit_register'
    ]
    loop
        execute format(
            'create view api.%1$I with (security_invoker = true) as select * from flows.%1$I', exposed
        );
        execute format(
            'grant select on api.%1$I, flows.%1$I to flows, public_backend, grafanareader', exposed
        );
        if exposed not in ('regions', 'escos', 'meter_shadows') then
            execute format('grant insert, update, delete on api.%1$I, flows.%1$I to flows', exposed);
        end if;
    end loop;
end $$;
grant update on api.meter_shadows, flows.meter_shadows to flows;

-- Time series and aggregates: TimescaleDB knows no row level security beside the columnstore, so
-- callers have no grant on them; these views read as the owner and show the caller's registers or
-- circuits only. The sub-select is evaluated once and pushed down to the partitions.
create view api.register_import with (security_barrier = true) as
select * from flows.register_import
where register_id = any(array(select own.register_id from flows.meter_registers as own))
with check option;
create view api.register_export with (security_barrier = true) as
select * from flows.register_export
where register_id = any(array(select own.register_id from flows.meter_registers as own))
with check option;
create view api.register_interval_hh with (security_barrier = true) as
select * from flows.register_interval_hh
where register_id = any(array(select own.register_id from flows.meter_registers as own))
with check option;

create view api.circuit_interval_hh with (security_barrier = true) as
select * from flows.circuit_interval_hh
where circuit_id = any(array(select own.id from flows.circuits as own)) and register_intervals > 0;
create view api.circuit_interval_daily with (security_barrier = true) as
select * from flows.circuit_interval_daily
where circuit_id = any(array(select own.id from flows.circuits as own)) and register_intervals > 0;

grant select on api.register_import, api.register_export, api.register_interval_hh,
api.circuit_interval_hh, api.circuit_interval_daily to flows, public_backend, grafanareader;
grant insert, update, delete on api.register_import, api.register_export, api.register_interval_hh to flows;

create function api.current_esco() returns setof api.escos
language sql stable
begin atomic
    select * from api.escos where id = flows.current_esco();
end;
comment on function api.current_esco() is 'The ESCO the token speaks for.';
grant execute on function api.current_esco() to flows, public_backend;

reset role;

-- migrate:down
