-- Groups of several circuits, which may have the same half-hours: if one circuit has every half-hour of a unit,
-- so has the group; else half-hours are counted.
with units as materialized (
    {units}
), by_unit as (
    select
        row_index, g, unit_start, unit_end, sum(total_import_kwh) as import_kwh,
        sum(total_export_kwh) as export_kwh, sum(register_intervals) as register_intervals,
        max(present_intervals) as present_intervals
    from units
    group by 1, 2, 3, 4
), counted as (
    select
        row_index, import_kwh, export_kwh, register_intervals,
        case
            when present_intervals * interval '30 minutes' >= unit_end - unit_start then present_intervals
            else (
                select count(distinct hh."timestamp") from api.circuit_interval_hh as hh
                where {own} and hh."timestamp" >= unit_start and hh."timestamp" < unit_end
            )
        end as present_intervals
    from by_unit
), reporting as (
    {reporting} group by 1
)
select
    row_index, sum(import_kwh) as import_kwh, sum(export_kwh) as export_kwh,
    sum(register_intervals) as register_intervals, sum(present_intervals) as present_intervals,
    min(meters_reporting) as meters_reporting
from counted
left join reporting using (row_index)
group by 1
