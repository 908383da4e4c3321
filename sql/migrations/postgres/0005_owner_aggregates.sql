-- The owner in every row, second part: aggregates, whose circuits say whose they are, and what fills the series:
-- some pages in each transaction, so that others wait for no more than that.
set local role flows_owner;

do $$
declare
    aggregate text;
begin
    foreach aggregate in array array[
        'circuit_interval_hh', 'circuit_interval_daily', 'circuit_interval_daily_london', 'circuit_interval_monthly'
    ]
    loop
        execute format('alter table flows.%I add column esco uuid', aggregate);
    end loop;
end $$;

create procedure flows.fill_series()
language plpgsql
as $$
declare
    batch constant integer := 1000;
    part record;
    page bigint;
begin
    for part in
        select
            c.oid::regclass as relation,
            pg_catalog.pg_relation_size(c.oid) / current_setting('block_size')::integer as pages,
            coalesce(whole.relname, c.relname) as series
        from pg_catalog.pg_class as c
        left join pg_catalog.pg_inherits as i on c.oid = i.inhrelid
        left join pg_catalog.pg_class as whole on i.inhparent = whole.oid
        where c.relnamespace = 'flows'::regnamespace and c.relkind = 'r'
            and coalesce(whole.relname, c.relname) ~ '^(register_(import|export|interval_hh)'
            '|meter_(voltage|3p_voltage|csq|health_history|prepay_balance|event_log)|circuit_interval_.*)$'
    loop
        page := 0;
        -- A row that is changed goes to the end, so the pages that were there hold what is left.
        while page < part.pages loop
            perform pg_catalog.set_config('flows.filling', 'on', true);
            execute format(
                'update %1$s as t set esco = p.esco from flows.%2$I as p where t.%3$I = p.%4$I '
                'and t.esco is null and p.esco is not null and t.ctid >= $1 and t.ctid < $2',
                part.relation,
                case left(part.series, 7)
                    when 'registe' then 'meter_registers' when 'circuit' then 'circuits' else 'meter_registry'
                end,
                case left(part.series, 7)
                    when 'registe' then 'register_id' when 'circuit' then 'circuit_id' else 'meter_id'
                end,
                case left(part.series, 7) when 'registe' then 'register_id' else 'id' end
            ) using format('(%s,0)', page)::tid, format('(%s,0)', page + batch)::tid;
            commit;
            page := page + batch;
        end loop;
    end loop;
end $$;

reset role;
