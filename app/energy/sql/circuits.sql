-- Circuits, where they are, and when they have half-hours.
select
    circuit.id::text as circuit,
    circuit.name as circuit_name,
    circuit.type as circuit_type,
    circuit.site::text as site,
    site.code as site_code,
    esco.code as esco,
    extract(epoch from extent.available_from)::bigint * 1000000 as available_from,
    extract(epoch from extent.available_to)::bigint * 1000000 as available_to
from flows.circuits as circuit
left join api.sites_new as site on circuit.site = site.id
left join (
    select mapping.circuit, min(meter.esco::text)::uuid as esco
    from flows.circuit_register as mapping
    inner join flows.meter_registers as register on mapping.register = register.register_id
    inner join flows.meter_registry as meter on register.meter_id = meter.id
    group by mapping.circuit
) as owner on circuit.id = owner.circuit
left join api.escos as esco on coalesce(site.esco, owner.esco) = esco.id
left join (
    select e.circuit, min(e.available_from) as available_from, max(e.available_to) as available_to
    from api.circuit_register_extent as e
    group by e.circuit
) as extent on circuit.id = extent.circuit
