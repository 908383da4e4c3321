-- From FROM on: the half-hours of registers (r) with the group that sums them (s.g).
from (
    select register, g, meter, to_timestamp(first) as first, to_timestamp(last) as last
    from unnest(
        %(registers)s::uuid[], %(span_groups)s::integer[], %(meters)s::uuid[], %(firsts)s::bigint[],
        %(lasts)s::bigint[]
    ) as u (register, g, meter, first, last)
) as s
inner join api.register_interval_hh as r
    on r.register_id = s.register and r."timestamp" >= s.first and r."timestamp" < s.last
where r."timestamp" >= %(first)s and r."timestamp" < %(last)s
