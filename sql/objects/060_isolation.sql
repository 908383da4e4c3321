set local role flows_owner;

-- A junction's check must look at a table whose own policy reads the junction. PostgreSQL takes that
-- for a recursion when both stand in one query; a function is planned on its own, as the caller.
create or replace function flows.has_circuit(circuit uuid) returns boolean
language plpgsql stable set search_path = ''
as $$ begin return exists (select from flows.circuits as own where own.id = circuit); end $$;
comment on function flows.has_circuit(uuid) is 'True if the caller''s ESCO has this circuit.';
create or replace function flows.has_service_head(head uuid) returns boolean
language plpgsql stable set search_path = ''
as $$ begin return exists (select from flows.service_head_registry as own where own.id = head); end $$;
comment on function flows.has_service_head(uuid) is 'True if the caller''s ESCO has this service head.';
create or replace function flows.has_property(property uuid) returns boolean
language plpgsql stable set search_path = ''
as $$ begin return exists (select from flows.properties as own where own.id = property); end $$;
comment on function flows.has_property(uuid) is 'True if the caller''s ESCO has this property.';
grant execute on function flows.has_circuit(uuid), flows.has_service_head(uuid), flows.has_property(uuid) to flows;

-- Who owns a row is said here and nowhere else. A policy without a role holds for every role, the
-- owner's views included; sub-selects are uncorrelated, so each is evaluated once a statement. IN hashes
-- what it finds; = ANY (ARRAY (…)) would compare every row with every member.
do $$
declare
    protected text;
begin
    foreach protected in array array[
        'regions', 'escos', 'sites_new', 'properties', 'feeder_registry', 'service_head_registry',
        'meter_registry', 'meter_shadows', 'meter_registers', 'circuits', 'service_head_meter',
        'properties_service_head', 'circuit_register', 'meter_tophat_registry', 'meter_metrics',
        'meter_event_log_type', 'ev_chargers'
    ]
    loop
        execute format('alter table flows.%I enable row level security', protected);
        execute format('alter table flows.%I force row level security', protected);
        execute format(
            'create policy "monitoring and maintenance read every ESCO" on flows.%I '
            'for select using ((select flows.sees_every_esco()))', protected
        );
        execute format(
            'create policy "administrators manage every row" on flows.%I '
            'to tsdbadmin, flows_owner using (current_user in (''tsdbadmin'', ''flows_owner'')) '
            'with check (current_user in (''tsdbadmin'', ''flows_owner''))', protected
        );
    end loop;
end $$;

create policy "every caller reads the regions" on flows.regions for select using (true);

create policy "every caller reads the metrics" on flows.meter_metrics for select using (true);
create policy "every caller reads the kinds of events" on flows.meter_event_log_type for select using (true);

create policy "an ESCO reads itself" on flows.escos
for select using (id = (select flows.current_esco()));

create policy "an ESCO has its sites" on flows.sites_new
using (esco = (select flows.current_esco()));

create policy "an ESCO has its feeders" on flows.feeder_registry
using (esco = (select flows.current_esco()));

create policy "an ESCO has its meters" on flows.meter_registry
using (esco = (select flows.current_esco()))
with check (
    esco = (select flows.current_esco())
    and (site is null or site in (select own.id from flows.sites_new as own))
);

create policy "a shadow belongs to its meter" on flows.meter_shadows
using (id in (select own.id from flows.meter_registry as own));

create policy "a tophat belongs to its meter" on flows.meter_tophat_registry
using (meter in (select own.id from flows.meter_registry as own));

create policy "an ESCO has its chargers" on flows.ev_chargers
using (esco = (select flows.current_esco()));

create policy "a register belongs to its meter" on flows.meter_registers
using (meter_id in (select own.id from flows.meter_registry as own));

-- A junction row is read by whoever has the meter (the register): that makes the other end theirs
-- too. Writing one needs both ends already, or a foreign head could be captured by linking to it.
create policy "a meter on a service head is read with the meter" on flows.service_head_meter
for select using (meter in (select own.id from flows.meter_registry as own));

create policy "a service head belongs to its feeder or its meters" on flows.service_head_registry
using (
    feeder in (select own.id from flows.feeder_registry as own)
    or id in (select link.service_head from flows.service_head_meter as link)
)
with check (
    feeder in (select own.id from flows.feeder_registry as own)
    or (feeder is null and id in (select link.service_head from flows.service_head_meter as link))
);

create policy "both ends of a meter on a service head are the writer's" on flows.service_head_meter
for insert with check (
    meter in (select own.id from flows.meter_registry as own)
    and flows.has_service_head(service_head)
);
create policy "both ends of a changed meter on a service head are the writer's" on flows.service_head_meter
for update using (meter in (select own.id from flows.meter_registry as own))
with check (
    meter in (select own.id from flows.meter_registry as own)
    and flows.has_service_head(service_head)
);
create policy "a meter is taken off a service head by its ESCO" on flows.service_head_meter
for delete using (meter in (select own.id from flows.meter_registry as own));

create policy "a property on a service head is read with the head" on flows.properties_service_head
for select using (service_head in (select own.id from flows.service_head_registry as own));

create policy "a property belongs to its site or its meters" on flows.properties
using (
    site in (select own.id from flows.sites_new as own)
    or id in (
        select link.property
        from flows.properties_service_head as link
        inner join flows.service_head_meter as metered on link.service_head = metered.service_head
    )
)
with check (site in (select own.id from flows.sites_new as own));

create policy "both ends of a property on a service head are the writer's" on flows.properties_service_head
for insert with check (
    flows.has_service_head(service_head)
    and flows.has_property(property)
);
create policy "both ends of a changed property on a service head are the writer's"
on flows.properties_service_head
for update using (service_head in (select own.id from flows.service_head_registry as own))
with check (flows.has_service_head(service_head) and flows.has_property(property));
create policy "a property is taken off a service head by its ESCO" on flows.properties_service_head
for delete using (service_head in (select own.id from flows.service_head_registry as own));

create policy "a mapping is read with its register" on flows.circuit_register
for select using (register in (select own.register_id from flows.meter_registers as own));

create policy "a circuit belongs to its site or its registers" on flows.circuits
using (
    site in (select own.id from flows.sites_new as own)
    or id in (select link.circuit from flows.circuit_register as link)
)
with check (
    site in (select own.id from flows.sites_new as own)
    or (site is null and id in (select link.circuit from flows.circuit_register as link))
);

create policy "both ends of a new mapping are the writer's" on flows.circuit_register
for insert with check (
    register in (select own.register_id from flows.meter_registers as own)
    and flows.has_circuit(circuit)
);
create policy "both ends of a changed mapping are the writer's" on flows.circuit_register
for update using (register in (select own.register_id from flows.meter_registers as own))
with check (
    register in (select own.register_id from flows.meter_registers as own)
    and flows.has_circuit(circuit)
);
create policy "a mapping is removed by its register's ESCO" on flows.circuit_register
for delete using (register in (select own.register_id from flows.meter_registers as own));

reset role;
