-- Derived half-hours are counted apart only for an ESCO that has any.
set local role flows_owner;

alter table flows.derived_register add column esco uuid;
update flows.derived_register as d set esco = r.esco
from flows.meter_registers as r where d.register_id = r.register_id;
create index derived_register_of_owner on flows.derived_register (esco, register_id);

reset role;
