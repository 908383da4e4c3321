-- Sums of the half-hours of registers.
select
    {row_index} as row_index, sum(import_kwh) as import_kwh, sum(export_kwh) as export_kwh,
    count(*) as register_intervals, count(distinct start) as present_intervals,
    count(distinct meter) as meters_reporting
from (
    select r."timestamp" as start, s.g, s.meter, r.import_kwh, r.export_kwh
    {half_hours}
) as r
group by 1
