-- What moves with balances and counters, which change without a new half-hour, and with mappings in time.
select concat_ws('-', count(*), max(shadow.updated_at), {which}) as version
from flows.meter_registry as meter
left join api.meter_shadows as shadow on meter.id = shadow.id
where {conditions}
