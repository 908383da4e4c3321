set local role flows_owner;

-- Does the work of TimescaleDB's policies; called by `flows db maintain` and the timer of `flows up`. A
-- year's partition is emptied once all of it is older than the series' retention. Half-hours only go by
-- the year: deleting single ones would also remove them from the aggregates, which are kept longer.
--
-- What is done to partitions needs a table for itself. While it waits for a long read to end, every other
-- read waits for it, so it gives up soon and is left to the next run. It comes late, as its locks last
-- until all is done.
create or replace function flows.maintain() returns table (task text, done bigint)
language plpgsql set search_path = '' set lock_timeout = '800ms'
as $$
declare
    series record;
    partition record;
begin
    for series in
        select flows.stored_name(r.series) as series, now() - r.keep as oldest, s.label
        from flows.retention as r inner join flows.series() as s on r.series = s.name
        where r.keep is not null and flows.stored_name(r.series) not in ('register_interval_hh', 'circuit_sums_hh')
        order by 1
    loop
        execute format(
            'delete from flows.%I where %I < $1', series.series, series.label
        ) using series.oldest;
        get diagnostics done = row_count;
        if done > 0 then
            task := format('removed old rows of %s', series.series);
            return next;
        end if;
    end loop;
    task := 'changes put together';
    done := flows.compact_changes();
    return next;
    for series in
        select flows.stored_name(r.series) as series, now() - r.keep as oldest
        from flows.retention as r
        inner join pg_catalog.pg_class as c
            on flows.stored_name(r.series) = c.relname and c.relnamespace = 'flows'::regnamespace
        where c.relkind = 'p'
        order by 1
    loop
        begin
            for ahead in 0..5 loop
                perform flows.add_partition(series.series, extract(year from now())::integer + ahead);
            end loop;
            for partition in
                select child.relname as name
                from pg_catalog.pg_inherits as i
                inner join pg_catalog.pg_class as child on i.inhrelid = child.oid
                where i.inhparent = format('flows.%I', series.series)::regclass
                    and right(child.relname, 4)::integer < extract(year from series.oldest at time zone 'UTC')
                    -- Keep empty partitions for late readings.
                    and (pg_catalog.pg_relation_size(child.oid) > 0)
            loop
                execute format('truncate flows.%I', partition.name);
                task := format('emptied %s', partition.name);
                done := 1;
                return next;
            end loop;
        exception when lock_not_available then
            task := format('left %s to the next run, as it is in use', series.series);
            done := 0;
            return next;
        end;
    end loop;
    task := 'extents mended';
    done := flows.mend_extents();
    return next;
end $$;
comment on function flows.maintain() is 'Creates future partitions and removes rows older than their retention.';

reset role;
