-- Imports by POST /v1/imports: their state, for every gateway to read. The file itself is kept by the
-- gateway that received it, until the import has ended.
set local role flows_owner;

create table gateway.import (
    id uuid primary key default gen_random_uuid(),
    esco uuid not null references flows.escos on delete cascade,
    client text not null,
    digest text not null check (digest ~ '^[0-9a-f]{64}$'),
    file_name text,
    size bigint not null check (size >= 0),
    options jsonb not null,
    state text not null default 'waiting' check (state in ('waiting', 'running', 'done', 'failed')),
    run uuid not null,
    rows_read bigint not null default 0,
    error text,
    report jsonb,
    created_at timestamptz not null default now(),
    started_at timestamptz,
    finished_at timestamptz,
    alive_at timestamptz not null default now(),
    unique (esco, digest)
);

reset role;
