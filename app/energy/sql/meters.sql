-- Meters, where they are, and when their registers have half-hours while mapped to circuits.
select
    meter.serial as meter,
    meter.name as meter_name,
    meter.id::text as meter_id,
    meter.site::text as site,
    site.code as site_code,
    esco.code as esco,
    home.properties,
    extract(epoch from extent.available_from)::bigint * 1000000 as available_from,
    extract(epoch from extent.available_to)::bigint * 1000000 as available_to
from flows.meter_registry as meter
left join api.sites_new as site on meter.site = site.id
left join api.escos as esco on meter.esco = esco.id
left join (
    select
        on_head.meter, string_agg(distinct at_head.property::text, ' ' order by at_head.property::text) as properties
    from flows.service_head_meter as on_head
    inner join flows.properties_service_head as at_head on on_head.service_head = at_head.service_head
    group by on_head.meter
) as home on meter.id = home.meter
left join (
    select
        register.meter_id, min(e.available_from) as available_from, max(e.available_to) as available_to
    from api.circuit_register_extent as e
    inner join flows.meter_registers as register on e.register = register.register_id
    group by register.meter_id
) as extent on meter.id = extent.meter_id
