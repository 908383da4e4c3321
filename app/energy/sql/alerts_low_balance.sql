-- Meters with too little credit. It began with the first balance after the last one that was enough; of a meter older
-- than the balances that are looked at, without one, that is not known.
with asked as materialized (
    select meter.id, meter.serial, meter.name, meter.esco, meter.created_at, shadow.balance, shadow.balance_updated_at
    from flows.meter_registry as meter
    inner join api.meter_shadows as shadow on meter.id = shadow.id
    where meter.installation_status is distinct from 'deleted' and {conditions}
), low as materialized (
    -- Not by the index of balances, which has those of every ESCO.
    select * from asked where asked.balance < %(balance_below)s
), history as materialized (
    select told.meter_id, told."timestamp", told.balance >= %(balance_below)s as is_enough
    from api.meter_prepay_balance as told
    where told.meter_id = any(array(select low.id from low)) and told."timestamp" >= %(traced_from)s
), enough as materialized (
    select history.meter_id, max(history."timestamp") as "timestamp"
    from history where history.is_enough group by history.meter_id
), began as (
    select history.meter_id, min(history."timestamp") as "timestamp"
    from history left join enough on history.meter_id = enough.meter_id
    where enough."timestamp" is null or history."timestamp" > enough."timestamp"
    group by history.meter_id
)
select
    low.serial as meter, low.name as meter_name, null::text as register, esco.code as esco,
    case
        when enough."timestamp" is not null or low.created_at >= %(traced_from)s
            then coalesce(began."timestamp", low.balance_updated_at)
    end as since,
    low.balance, null::numeric as clock_seconds
from low
left join api.escos as esco on low.esco = esco.id
left join enough on low.id = enough.meter_id
left join began on low.id = began.meter_id
