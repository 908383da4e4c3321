-- The time for which a selection has half-hours. A barrier view is joined without its index, so the circuits
-- are named beside.
with mapped as materialized (
    select mapping.circuit, mapping.register, mapping.start_time
    from {mapped}
    where {wanted} and {selected}
)
select min(available_from) as first, max(available_to) as last
from api.circuit_register_extent as extent
inner join mapped using (circuit, register, start_time)
where extent.circuit = any(array(select mapped.circuit from mapped))
