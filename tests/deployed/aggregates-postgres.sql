create view flows.circuit_interval_hh as
select m.circuit as circuit_id, r."timestamp", sum(r.kwh) as kwh
from flows.register_interval_hh as r
inner join flows.circuit_register as m on r.register_id = m.register
group by 1, 2;
create view flows.circuit_interval_daily as
select circuit_id, date_trunc('day', "timestamp") as day, sum(kwh) as kwh from flows.circuit_interval_hh group by 1, 2;
create view flows.circuit_interval_monthly as
select circuit_id, date_trunc('month', day) as month, sum(kwh) as kwh from flows.circuit_interval_daily group by 1, 2;
