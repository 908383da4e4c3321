-- The state of each meter and its newest half-hour.
with asked as materialized (
    select meter.id, meter.serial, meter.name, meter.esco
    from flows.meter_registry as meter
    where {conditions}
), register as materialized (
    select r.register_id, r.meter_id
    from flows.meter_registers as r
    where r.meter_id = any(array(select asked.id from asked))
), newest as (
    select distinct on (register.meter_id)
        register.meter_id, own."timestamp" as start, sum(own.import_kwh) as import_kwh,
        sum(own.export_kwh) as export_kwh, count(*) as registers
    from register
    inner join api.register_interval_hh_latest as own on register.register_id = own.register_id
    where own.register_id = any(array(select r.register_id from register as r))
    group by register.meter_id, own."timestamp"
    order by register.meter_id, own."timestamp" desc
)
select {columns}
from asked as meter
left join api.escos as esco on meter.esco = esco.id
left join api.meter_shadows as shadow on meter.id = shadow.id
left join newest on meter.id = newest.meter_id
