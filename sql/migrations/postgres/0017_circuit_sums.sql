-- Views with kwh take the place of the aggregates, which are kept under other names (sql/objects/079_energy.sql).
set local role flows_owner;

do $$
declare
    renamed record;
begin
    for renamed in
        select
            format(
                'alter table %s rename constraint %I to %I', k.conrelid::regclass, k.conname,
                replace(k.conname, 'circuit_interval_', 'circuit_sums_')
            ) as command
        from pg_catalog.pg_constraint as k
        where k.connamespace = 'flows'::regnamespace and k.conname like 'circuit\_interval\_%' and k.coninhcount = 0
    loop
        execute renamed.command;
    end loop;
    -- Those of constraints are renamed by now.
    for renamed in
        select
            format(
                'alter %s flows.%I rename to %I', case when c.relkind in ('i', 'I') then 'index' else 'table' end,
                c.relname, replace(c.relname, 'circuit_interval_', 'circuit_sums_')
            ) as command
        from pg_catalog.pg_class as c
        where c.relnamespace = 'flows'::regnamespace and c.relname like 'circuit\_interval\_%'
            and c.relkind in ('r', 'p', 'i', 'I')
    loop
        execute renamed.command;
    end loop;
end $$;

-- Until sql/objects is applied, those who write go by the former names.
create view flows.circuit_interval_hh as select * from flows.circuit_sums_hh;
create view flows.circuit_interval_daily as select * from flows.circuit_sums_daily;
create view flows.circuit_interval_daily_london as select * from flows.circuit_sums_daily_london;
create view flows.circuit_interval_monthly as select * from flows.circuit_sums_monthly;

drop procedure flows.fill_kwh();

reset role;
