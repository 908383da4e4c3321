-- A key that all gateways of the database have and no caller: for what they give to callers and read again.
set local role flows_owner;

create table gateway.shared_secret (
    only_row boolean primary key default true check (only_row),
    key bytea not null check (length(key) = 32)
);
-- 244 random bits.
insert into gateway.shared_secret (key)
values (sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())));

reset role;
