-- The newest backup, for /metrics: gateways do not see the folder of backups.
set local role flows_owner;

create table gateway.last_backup (
    only_row boolean primary key default true check (only_row),
    ended_at timestamptz not null,
    kind text not null check (kind in ('full', 'incremental')),
    size bigint not null check (size >= 0)
);

reset role;
