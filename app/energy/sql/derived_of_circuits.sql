-- The half-hours of groups of which a reading was derived; registers that never had any are not read.
select distinct r."timestamp" as start, {group} as g
from {mappings} as mapping
{members}
inner join api.register_interval_hh as r
    on mapping.register = r.register_id and r."timestamp" >= mapping.start_time
    and (r."timestamp" < mapping.end_time or mapping.end_time is null)
where r."timestamp" >= %(derived_from)s and r."timestamp" < %(derived_to)s {derived}
