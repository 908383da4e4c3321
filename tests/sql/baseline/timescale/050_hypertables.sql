-- migrate:up
set local role flows_owner;

-- A week a chunk, not a day: half-hours of 2,000 registers make 672,000 rows a week, which the
-- columnstore keeps in batches of 1,000 of one register; a day of them would fill such a batch with 48
-- rows, and leave seven times the chunks to plan over. Slow series get a month.
do $$
declare
    series text;
begin
    foreach series in array array['register_interval_hh', 'register_import', 'register_export']
    loop
        perform public.create_hypertable(
            format('flows.%I', series)::regclass, public.by_range('timestamp', interval '7 days'),
            create_default_indexes => false
        );
        execute format(
            'alter table flows.%I set (timescaledb.enable_columnstore, timescaledb.segmentby = %L, '
            'timescaledb.orderby = %L)', series, 'register_id', '"timestamp" desc'
        );
    end loop;
    foreach series in array array[
        'meter_voltage', 'meter_3p_voltage', 'meter_csq', 'meter_health_history', 'meter_prepay_balance',
        'meter_event_log'
    ]
    loop
        perform public.create_hypertable(
            format('flows.%I', series)::regclass, public.by_range('timestamp', interval '30 days'),
            create_default_indexes => false
        );
        execute format(
            'alter table flows.%I set (timescaledb.enable_columnstore, timescaledb.segmentby = %L, '
            'timescaledb.orderby = %L)',
            series, 'meter_id',
            case series when 'meter_event_log' then '"timestamp" desc, event_type' else '"timestamp" desc' end
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

-- migrate:down
