-- The last proof of isolation, for /metrics.
set local role flows_owner;

create table gateway.proof (
    only_row boolean primary key default true check (only_row),
    ended_at timestamptz not null,
    seconds double precision not null check (seconds >= 0),
    tried integer not null check (tried >= 0),
    broken text[] not null
);

reset role;
