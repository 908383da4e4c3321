-- Half-hours of the local day of each group and class of days: mean, quantiles and coverage.
with slots as materialized (
    -- Numbered, because half-hours are sorted by a number in a quarter of the time that texts take.
    select
        start, class, days, time,
        case when days is null then 0 else dense_rank() over (order by days, time) end as slot
    from (
        select start, class, days, to_char(local, 'HH24:MI') as time
        from (
            select start, {local} as local
            from generate_series(
                %(first)s::timestamptz, %(last)s::timestamptz - interval '30 minutes', '30 minutes'
            ) as start
        ) as half_hours
        cross join lateral unnest(array[{classes}]) with ordinality as named (days, class)
    ) as named
), numbers as materialized (
    select array_agg(slot order by class, start) as slots from slots
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
            hh.g, hh.import_kwh, hh.export_kwh,
            hh.register_intervals >= runs.needed and runs.needed > 0 as complete,
            {is_derived} as derived,
            -- Looked up, as a join that expects few half-hours compares each with every slot.
            ((select slots from numbers))[(class - 1) * %(half_hours)s + {place} + 1] as slot
        from ({half_hours}) as hh
        inner join runs on hh.g = runs.g and hh.start >= runs.begins and hh.start < runs.ends
        {derived}
        cross join generate_series(1, %(class_count)s) as class
    ) as half_hours
    where slot > 0
    group by g, slot
), calendar as (
    select slot, days, time, count(*) as expected from slots where slot > 0 group by slot, days, time
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
