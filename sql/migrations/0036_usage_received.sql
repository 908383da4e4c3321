-- How much each client sends, which is what an ESCO stores.
set local role flows_owner;

alter table gateway.usage add column received bigint not null default 0 check (received >= 0);

reset role;
