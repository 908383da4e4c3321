-- The highest half-hours of each group; the earlier wins a tie.
with ranked as (
    select hh.*, row_number() over (partition by hh.g order by hh.{ranked} desc, hh.start) as rank
    from ({half_hours}) as hh
    where hh.{ranked} > 0
), shown as (
    select * from ranked where rank <= %(top)s
)
select
    g, date_part('epoch', start)::bigint as start_at, rank,
    2 * import_kwh as import_kw, 2 * export_kwh as export_kw, register_intervals, meters_reporting
from {shown}
