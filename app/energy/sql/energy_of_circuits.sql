-- Groups of several circuits, which may have the same half-hours: if one circuit has every half-hour of a unit,
-- so has the group; else half-hours are counted. The bounds of all units are for the planner: without them it plans a
-- read of every partition.
with units as (
    {units}
), by_unit as (
    select {row_index} as row_index, {unit_end} as unit_end, u.*
    from (
        select
            piece, unit_start, g, sum(total_import_kwh) as import_kwh, sum(total_export_kwh) as export_kwh,
            sum(register_intervals) as register_intervals, max(present_intervals) as present_intervals,
            sum(cardinality(meters)) as meters
        from units
        group by piece, unit_start, g
    ) as u
), counted as (
    select
        row_index, import_kwh, export_kwh, register_intervals, meters,
        case
            when present_intervals * interval '30 minutes' >= unit_end - unit_start then present_intervals
            else (
                select count(distinct hh."timestamp") from api.circuit_interval_hh as hh
                where {own} and hh."timestamp" >= unit_start and hh."timestamp" < unit_end
                    and hh."timestamp" >= {first} and hh."timestamp" < {stop}
            )
        end as present_intervals
    from by_unit
)
select
    row_index, sum(import_kwh) as import_kwh, sum(export_kwh) as export_kwh,
    sum(register_intervals) as register_intervals, sum(present_intervals) as present_intervals,
    min({reporting}) as meters_reporting
from counted {distinct_meters}
group by row_index
