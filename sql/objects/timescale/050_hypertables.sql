-- Converts series that are still plain tables into hypertables.
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
            'timescaledb.orderby = %L)', series.name, 'esco, ' || series.key, series.sort
        );
    end loop;
end $$;

reset role;

do $$
begin
    -- A correction in the columnstore decompresses the register's week: late half-hours of 300 registers
    -- would exceed the extension's default limit per statement and be refused.
    execute format(
        'alter database %I set timescaledb.max_tuples_decompressed_per_dml_transaction = 0', current_database()
    );
    -- Its own way to share chunks among parallel workers loses the rows of all of them now and then, where rows are
    -- filtered by what a subquery returns, as every policy does (TimescaleDB #10503, 2.29.2 and before).
    execute format('alter database %I set timescaledb.enable_parallel_chunk_append = off', current_database());
end $$;
