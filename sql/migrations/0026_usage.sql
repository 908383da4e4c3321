-- Requests of each client, which gateways add up.
set local role flows_owner;

create table gateway.usage (
    day date not null,
    client text not null check (length(client) between 1 and 255),
    esco uuid,
    calls bigint not null check (calls >= 0),
    rows bigint not null check (rows >= 0),
    bytes bigint not null check (bytes >= 0),
    unique nulls not distinct (day, client, esco)
);
create index on gateway.usage (esco, day);

reset role;
