-- The half-hours and the gaps of each span of a register. Most have no gap, which their number tells.
with counted as materialized (
    select
        s.g, s.first, s.last, count(*) as half_hours, {derived} as derived,
        count(*) * interval '30 minutes' < s.last - s.first as gaps
    {half_hours}
    group by 1, 2, 3
), present as (
    select s.g, s.first, s.last, r."timestamp"
    {half_hours}
    and (s.g, s.first) in (select g, first from counted where gaps)
), around as (
    select
        g, first, "timestamp" + interval '30 minutes' as before,
        lead("timestamp", 1, last) over (partition by g, first order by "timestamp") as following
    from present
    union all
    -- There may be a gap before the first half-hour, too.
    select g, first, first, min("timestamp") from present group by g, first
)
select
    g, date_part('epoch', first)::bigint as start_at, half_hours, derived,
    coalesce(
        array_agg(date_part('epoch', before)::bigint order by before) filter (where following > before), '{{}}'
    ) as starts,
    coalesce(
        array_agg(date_part('epoch', following)::bigint order by before) filter (where following > before), '{{}}'
    ) as ends
from counted
left join around using (g, first)
group by g, first, half_hours, derived
