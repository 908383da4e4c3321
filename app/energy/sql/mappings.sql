-- The part of each mapping in the period; empty for one outside of it.
select
    mapping.circuit, mapping.register, register.meter_id as meter, mapping.start_time,
    least(greatest(mapping.start_time, %(period_from)s), %(period_to)s) as first,
    greatest(least(mapping.end_time, %(period_to)s), %(period_from)s) as last,
    coalesce({selected}, false) as selected, {columns}
from {mapped}
where {wanted}
