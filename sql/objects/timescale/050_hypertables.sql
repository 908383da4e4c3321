-- A series that is still a plain table becomes a hypertable.
set local role flows_owner;

do $$
declare
    series record;
begin
    for series in
        select s.* from flows.series() as s
        where s.chunk is not null and not exists (
            select from timescaledb_information.hypertables as h
            where h.hypertable_schema = 'flows' and h.hypertable_name = s.name
        )
    loop
        perform public.create_hypertable(
            format('flows.%I', series.name)::regclass, public.by_range(series.label, series.chunk),
            create_default_indexes => false
        );
        execute format(
            'alter table flows.%I set (timescaledb.enable_columnstore, timescaledb.segmentby = %L, '
            'timescaledb.orderby = %L)', series.name, series.key, series.sort
        );
    end loop;
end $$;

reset role;

-- A correction in the columnstore unpacks the week of its register: a late half-hour of 300 registers
-- exceeds the limit that an extension's default sets to a statement, and would be refused.
do $$
begin
    execute format(
        'alter database %I set timescaledb.max_tuples_decompressed_per_dml_transaction = 0', current_database()
    );
end $$;
