-- The end of the last half-hour with energy of each register with half-hours from a time on.
select
    r.register_id::text as register,
    max(r."timestamp") filter (where r.import_kwh > 0 or r.export_kwh > 0) + interval '30 minutes' as moved
from api.register_interval_hh as r
where r."timestamp" >= %(first)s and {registers}
group by r.register_id
