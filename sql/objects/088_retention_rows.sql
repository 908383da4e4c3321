set local role flows_owner;

-- A series without a setting gets the initial one from flows.series().
insert into flows.retention (series, keep, columnstore_after)
select s.name, s.keep, s.columnstore_after from flows.series() as s
on conflict (series) do nothing;

reset role;
