-- Meters whose clocks are wrong, and the time at which that was measured.
with asked as materialized (
    select
        meter.serial, meter.name, meter.esco, shadow.clock_time_diff_synced_at, shadow.clock_time_diff_seconds
    from flows.meter_registry as meter
    inner join api.meter_shadows as shadow on meter.id = shadow.id
    where meter.installation_status is distinct from 'deleted' and {conditions}
)
select
    asked.serial as meter, asked.name as meter_name, null::text as register, esco.code as esco,
    asked.clock_time_diff_synced_at as since, null::numeric as balance,
    asked.clock_time_diff_seconds as clock_seconds
from asked
left join api.escos as esco on asked.esco = esco.id
where abs(asked.clock_time_diff_seconds) >= %(clock_seconds)s
