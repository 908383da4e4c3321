-- Mappings that overlapped before the database refused it (sql/objects/074_overlaps.sql), and where they end now.
set local role flows_owner;

create table gateway.mended_overlap (
    circuit uuid not null,
    register uuid not null,
    start_time timestamptz not null,
    ended_at timestamptz,
    ends_at timestamptz,
    mended_at timestamptz not null default now(),
    primary key (circuit, register, start_time)
);

reset role;
