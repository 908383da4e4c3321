-- Half-hours of the local day of each group and class of days: mean, quantiles and coverage.
with slots as materialized (
    -- Numbered, because half-hours are sorted by the number in a quarter of the time that texts take.
    select start, days, time, dense_rank() over (order by days, time) as slot
    from (
        select start, days, to_char(local, 'HH24:MI') as time
        from (
            select start, {local} as local
            from generate_series(
                %(first)s::timestamptz, %(last)s::timestamptz - interval '30 minutes', '30 minutes'
            ) as start
        ) as half_hours
        cross join lateral unnest(array[{classes}]) as days
        where days is not null
    ) as named
), runs as materialized (
    select g, to_timestamp(begins) as begins, to_timestamp(ends) as ends, needed
    from unnest(
        %(run_groups)s::integer[], %(run_starts)s::bigint[], %(run_stops)s::bigint[],
        %(run_registers)s::integer[]
    ) as run (g, begins, ends, needed)
), statistics as (
    select
        g, slot,
        {statistics},
        count(*) as present, count(*) filter (where derived) as derived,
        count(*) filter (where complete) as complete
    from (
        select
            hh.g, slots.slot, hh.import_kwh, hh.export_kwh,
            hh.register_intervals >= runs.needed and runs.needed > 0 as complete,
            {is_derived} as derived
        from ({half_hours}) as hh
        inner join runs on hh.g = runs.g and hh.start >= runs.begins and hh.start < runs.ends
        inner join slots on hh.start = slots.start
        {derived}
    ) as half_hours
    group by g, slot
), calendar as (
    select slot, days, time, count(*) as expected from slots group by slot, days, time
)
select
    g, days, time, {values},
    expected as expected_intervals,
    coalesce(present, 0) as present_intervals,
    coalesce(derived, 0) as derived_intervals,
    coalesce(complete, 0) as complete_intervals
from calendar
cross join generate_series(0, %(group_count)s - 1) as g
left join statistics using (g, slot)
