-- Long rows of an ESCO in one table have a bounded size together, as answers are held whole in memory.
set local role flows_owner;

alter table flows.bounds add column long_rows_bytes bigint not null default 67108864 check (long_rows_bytes >= 0);

reset role;
