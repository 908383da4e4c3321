-- Generation, consumption and the smaller of the two, of half-hours.
select
    {row_index} as row_index, export_kwh as generation, import_kwh as consumption,
    least(coalesce(import_kwh, 0), coalesce(export_kwh, 0)) as used,
    register_intervals::bigint, 1 as present_intervals, meters_reporting::bigint
from ({half_hours}) as hh
