-- The first half-hours of an ESCO's registers in their order. The last ones have no index: each new half-hour would
-- write to all indexes of its register's extent.
set local role flows_owner;

create index on flows.register_extent (esco, available_from);
drop index flows.register_extent_esco_idx;

reset role;
