-- Changes by the transaction in which they take effect, so that a client that asks what is new misses none that
-- commits late; and by what they concern, so that it gets nothing else.
set local role flows_owner;

alter table flows.change
add column transaction xid8 not null default pg_catalog.pg_current_xact_id(),
add column horizon xid8 not null default pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot()),
add column effective_at timestamptz not null default clock_timestamp(),
add column dimensions text[],
add column touched_registers uuid[],
add column touched_circuits uuid[];
update flows.change set effective_at = greatest(changed_at, followed_at);
create index on flows.change (esco, effective_at);

reset role;
