-- Figures of a balance. Unknown generation or consumption leaves the others unknown as well.
select
    balance.*,
    consumption_kwh - self_consumption_kwh as from_grid_kwh,
    generation_kwh - self_consumption_kwh as to_grid_kwh,
    round(self_consumption_kwh / nullif(generation_kwh, 0), 6) as self_consumption_ratio,
    round(self_consumption_kwh / nullif(consumption_kwh, 0), 6) as self_sufficiency_ratio
from (
    select
        row_index, generation as generation_kwh, consumption as consumption_kwh,
        case when generation is not null and consumption is not null then used end as self_consumption_kwh,
        register_intervals, present_intervals, meters_reporting
    from ({sums}) as sums
) as balance
