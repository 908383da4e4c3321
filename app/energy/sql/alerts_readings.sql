-- Registers from which half-hours are expected: in use, mapped to a circuit, of an active meter. With the time from
-- which they have half-hours, and the end of the last one or, before any, the start of the mapping.
with mapped as materialized (
    select mapping.register, min(mapping.start_time) as start_time
    from {mappings} as mapping
    where mapping.start_time <= now() and (mapping.end_time is null or mapping.end_time > now())
    group by mapping.register
), extent as materialized (
    select known.register, min(known.available_from) as available_from, max(known.available_to) as available_to
    from api.circuit_register_extent as known
    group by known.register
)
select
    meter.serial as meter, meter.name as meter_name, register.register_id::text as register, esco.code as esco,
    extent.available_from, coalesce(extent.available_to, mapped.start_time) as since
from flows.meter_registry as meter
inner join flows.meter_registers as register on meter.id = register.meter_id
inner join mapped on register.register_id = mapped.register
left join extent on register.register_id = extent.register
left join api.escos as esco on meter.esco = esco.id
where meter.mode = 'active' and meter.installation_status is distinct from 'deleted'
    and register.status = 'enabled' and (register.end_time is null or register.end_time > now())
    and {conditions}
