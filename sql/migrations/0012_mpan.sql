-- Files of suppliers and grid operators know a register by the number of its supply point.
set local role flows_owner;

alter table flows.meter_registers add column mpan text check (mpan ~ '^[0-9A-Z]{1,40}$');
create index on flows.meter_registers (mpan) where mpan is not null;

reset role;
