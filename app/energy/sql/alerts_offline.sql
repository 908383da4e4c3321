-- Active meters that told no signal and were not found healthy, as api.meters_offline_all has them. Signals are looked
-- up for those alone that were not found healthy.
with asked as materialized (
    select meter.id, meter.serial, meter.name, meter.esco, shadow.last_healthy_at
    from flows.meter_registry as meter
    inner join api.meter_shadows as shadow on meter.id = shadow.id
    where meter.mode = 'active' and meter.installation_status is distinct from 'deleted' and {conditions}
), silent as materialized (
    select * from asked where coalesce(asked.last_healthy_at < %(offline_from)s, true)
)
select
    silent.serial as meter, silent.name as meter_name, null::text as register, esco.code as esco,
    greatest(silent.last_healthy_at, signal."timestamp") as since,
    null::numeric as balance, null::numeric as clock_seconds
from silent
left join api.escos as esco on silent.esco = esco.id
left join (
    select told.meter_id, told."timestamp" from api.meter_csq_latest as told
    where told.meter_id = any(array(select silent.id from silent))
) as signal on silent.id = signal.meter_id
where coalesce(greatest(silent.last_healthy_at, signal."timestamp") < %(offline_from)s, true)
