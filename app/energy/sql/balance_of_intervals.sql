-- The same of longer intervals. A balance needs half-hours, but the meters that reported are stored.
select
    row_index, generation, consumption, used, b.register_intervals, b.present_intervals,
    meters_reporting
from (
    select
        {row_index} as row_index, sum(export_kwh) as generation, sum(import_kwh) as consumption,
        sum(least(coalesce(import_kwh, 0), coalesce(export_kwh, 0))) as used,
        sum(register_intervals)::bigint as register_intervals, count(*) as present_intervals
    from ({half_hours}) as hh
    group by 1
) as b
inner join ({reported}) as reported using (row_index)
