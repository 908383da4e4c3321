-- Half-hours of the local day of each group and class of days: mean, quantiles and coverage.
with calendar as (
    select days, to_char(local, 'HH24:MI') as time, count(*) as expected
    from (
        select {local} as local
        from generate_series(
            %(first)s::timestamptz, %(last)s::timestamptz - interval '30 minutes', '30 minutes'
        ) as start
    ) as slots
    cross join lateral unnest(array[{classes}]) as days
    where days is not null
    group by 1, 2
), statistics as (
    select
        g, days, to_char(local, 'HH24:MI') as time,
        {statistics},
        count(*) as present, count(*) filter (where derived) as derived,
        count(*) filter (where complete) as complete
    from (
        select
            hh.g, {local} as local, hh.import_kwh, hh.export_kwh,
            hh.register_intervals >= run.needed and run.needed > 0 as complete,
            {is_derived} as derived
        from ({half_hours}) as hh
        inner join unnest(
            %(run_groups)s::integer[], %(run_starts)s::bigint[], %(run_stops)s::bigint[],
            %(run_registers)s::integer[]
        ) as run (g, begins, ends, needed)
            on hh.g = run.g
            and hh.start >= to_timestamp(run.begins) and hh.start < to_timestamp(run.ends)
        {derived}
    ) as half_hours
    cross join lateral unnest(array[{classes}]) as days
    where days is not null
    group by 1, 2, 3
)
select
    g, days, time, {values},
    expected as expected_intervals,
    coalesce(present, 0) as present_intervals,
    coalesce(derived, 0) as derived_intervals,
    coalesce(complete, 0) as complete_intervals
from calendar
cross join generate_series(0, %(group_count)s - 1) as g
left join statistics using (g, days, time)
